"""TFDS without its own bars and notes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging as absl_logging


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Errors still show; who builds has a bar of their own."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
    """Nor does it print."""
    with quiet_tfds(), contextlib.redirect_stdout(io.StringIO()):
        yield
