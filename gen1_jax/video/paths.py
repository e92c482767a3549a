"""Checks that a value given as a path is one."""

import os
from pathlib import Path
from typing import Any

from gen1_jax import files
from gen1_jax.errors import UserError
from gen1_jax.settings import show


def as_path(value: Any, accepted: str) -> Path:
    """Returns a path that a caller gave.

    Raises:
      UserError: the value is no path.
    """
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise UserError(f"{show(value)} ({type(value).__name__}) was given; accepted: {accepted}")
    return files.as_path(value)
