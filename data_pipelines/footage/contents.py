"""The contents of all inputs that an ingest read, as a sorted array of numbers in a file."""

from __future__ import annotations

import functools
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
    return bool(content) and any(_has(numbers, _number(content)) for numbers in _open(folders))


def _has(numbers: np.ndarray, number: int) -> bool:
    place = np.searchsorted(numbers, np.uint64(number))
    return place < len(numbers) and int(numbers[place]) == number


@functools.lru_cache(maxsize=4)
def _open(folders: Sequence[str]) -> list[np.ndarray]:
    return [np.load(Path(folder) / NAME, mmap_mode="r") for folder in folders]


def _number(content: str) -> int:
    return int(content[:16], 16)
