"""Picks the frames that are asked for from an opened input."""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.video.selection import ordinal
from gen1_jax.video.sources import ACCEPTED, Picture, Source, on_grid


class Picking:
    """Goes once through the slots `start`, `start + stride`, … of the grid of `source.rate`.

    Attributes, which are final after the last picture:
      count: number of slots picked so far.
      total: number of the input's slots; None if it is not known.
      total_is_exact: whether `total` was counted, and not derived from a stated duration. If too
        few slots were found, the input was read to its end, and it was counted.
    """

    def __init__(self, source: Source, start: int, stride: int, num_frames: int | None):
        self._source, self._start, self._stride = source, start, stride
        self._num_frames, self.count = num_frames, 0
        self.total, self.total_is_exact = source.count, source.count_is_exact

    def __iter__(self) -> Iterator[tuple[Picture, int]]:
        """Yields each picture that is picked, with the number of slots that it fills."""
        slots = islice(count(self._start, self._stride), self._num_frames)
        target, grid, seen = next(slots), on_grid(self._source), 0
        for picture, _, end in grid:
            seen, times = end, 0
            while target is not None and target < end:
                times += 1
                target = next(slots, None)
            if times:
                self.count += times
                yield picture, times
            if target is None:
                break
        is_at_end = target is not None
        if not is_at_end and not self.total_is_exact and (self.total is None or self.total <= seen):
            # The stated number tells nothing; whether one more picture follows is cheap to see.
            is_at_end = next(grid, None) is None
            self.total = None
        if is_at_end:
            self.total, self.total_is_exact = seen, True

    def check(self, path: Path, least: int | None) -> None:
        """Raises UserError if fewer than `least` slots were found, or none."""
        if self.total == 0:
            raise UserError(
                f"{path}: not a video, or too damaged to read even one frame; {ACCEPTED}"
            )
        if self.count >= (least or 1):
            return
        lost = self._source.lost
        has = "1 frame" if self.total == 1 else f"{self.total} frames"
        lost = f" ({lost} more are damaged or cut off)" if lost else ""
        if not self.count:
            raise UserError(
                f"{path}: has {has}{lost}; start {self._start} is beyond them (it counts from 0)"
            )
        every = f", every {ordinal(self._stride)}," if self._stride > 1 else ""
        raise UserError(
            f"{path}: has {has}{lost}; {least} from frame {self._start} on{every} were asked for, "
            f"and at most {self.count} are there"
        )
