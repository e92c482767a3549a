"""Context managers that keep TensorFlow Datasets from logging and printing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging as absl_logging


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Turns off TFDS's log below errors and its progress bars; builders show bars of their own."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
    """Does the same, and discards all that TFDS prints."""
    with quiet_tfds(), contextlib.redirect_stdout(io.StringIO()):
        yield
