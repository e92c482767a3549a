"""The contents of all inputs that an ingest read, as a sorted array of numbers in a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gen1_jax.files import replacing

NAME = "contents.npy"


def write(contents: Iterable[str], folder: Path) -> None:
    """Writes the contents of inputs, which are hashes by `identity`."""
    numbers = np.fromiter(map(_number, contents), np.uint64)
    with replacing(folder / NAME) as part:
        np.save(part, np.unique(numbers))


def hold(folders: Sequence[str], content: str) -> bool:
    """Returns whether an input of this content is among those that `write` wrote to folders.

    Contents are compared by 64 bits: among 240 million and as many new ones, the chance that a
    single new one is taken for another is 0.3 %.
    """
    if not content:
        return False
    files = (os.path.join(folder, NAME) for folder in folders)
    return any(_has(_open(file, os.stat(file).st_mtime_ns), content) for file in files)


def _has(numbers: np.ndarray, content: str) -> bool:
    number = _number(content)
    place = np.searchsorted(numbers, np.uint64(number))
    return place < len(numbers) and int(numbers[place]) == number


@functools.lru_cache(maxsize=64)
def _open(file: str, written: int) -> np.ndarray:
    """Opens a file of numbers, and again if it was written anew."""
    return np.load(file, mmap_mode="r")


def _number(content: str) -> int:
    return int(content[:16], 16)
