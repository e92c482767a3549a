"""Frames that are made when they are asked for, so that memory does not grow with their number."""

import itertools
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from gen1_jax.errors import UserError, one_line


class Stream:
    """Frames, or maps of frames, which can be gone through any number of times.

    Attributes:
      count: number of frames.
    """

    def __init__(self, count: int, make: Callable[[], Iterator[np.ndarray]]):
        """Args: count: see the class. make: starts anew and yields one frame after another."""
        self.count, self._make = count, make

    @classmethod
    def of(cls, array: np.ndarray) -> "Stream":
        """Returns the frames `[n ...]` of an array."""
        return cls(len(array), lambda: iter(array))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._make()

    def pieces(self, most: int) -> Iterator[np.ndarray]:
        """Yields `[m ...]`, m frames at a time, at most `most`."""
        frames = iter(self)
        while piece := list(itertools.islice(frames, most)):
            yield np.stack(piece)

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Stream":
        """Returns the frames as `change` makes them."""
        return Stream(self.count, lambda: map(change, self))

    def pick(self, places: np.ndarray) -> "Stream":
        """Returns the frames at some places, which never fall."""

        def make() -> Iterator[np.ndarray]:
            frames = enumerate(self)
            index, frame = -1, None
            for wanted in places.tolist():
                while index < wanted:
                    index, frame = next(frames)
                yield frame

        return Stream(len(places), make)

    def array(self) -> np.ndarray:
        """Returns all frames at once, `[n ...]`."""
        return np.stack(list(self))


class Spool:
    """Frames `[n ...]` float32 on the disk, in a nameless file that ends with its process."""

    def __init__(self, shape: tuple[int, ...]):
        """Args: shape: the shape of one frame."""
        self._file, self.shape, self.count = tempfile.TemporaryFile(), shape, 0

    def append(self, piece: np.ndarray) -> None:
        """Adds frames `[m ...]`.

        Raises:
          UserError: the disk is full.
        """
        try:
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(piece, np.float32).tobytes())
        except OSError as error:
            raise UserError(
                f"cannot write to {tempfile.gettempdir()}: {one_line(error)}; TMPDIR names another "
                "folder for temporary files"
            ) from error
        self.count += len(piece)

    def stream(self) -> Stream:
        """Returns the frames that are there."""

        def make() -> Iterator[np.ndarray]:
            size = int(np.prod(self.shape))
            for index in range(self.count):
                self._file.seek(4 * size * index)
                yield np.frombuffer(self._file.read(4 * size), np.float32).reshape(self.shape)

        return Stream(self.count, make)
