"""A video that is edited whole: its frames are read when they are asked for, as often as asked.

footage = open_footage("clip.mp4", size=[(256, 448)])
for piece in footage.frames.pieces(8): ...  # [≤8 256 448 3]
"""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.fitting import CROP, PAD, Size, best_size, check_fit
from gen1_jax.video.io import as_count, as_sizes, open_source
from gen1_jax.video.paths import as_path
from gen1_jax.video.picking import Picking
from gen1_jax.video.pixels import resize_frame
from gen1_jax.video.selection import Selection
from gen1_jax.video.sound import Sound
from gen1_jax.video.streams import Stream


@dataclasses.dataclass(frozen=True)
class Footage:
    """Frames to edit.

    Attributes:
      frames: `[H W 3]` uint8 each, of the size that is edited, with the padding if there is one.
      originals: the same part of the input in its own pixels, without padding.
      fps: frames per second; None if it is not known.
      size: height and width of `frames`.
      full_size: height and width of `originals`.
      rate: frames per second of the input, of which every `stride`-th is taken; None: not known.
      taken: what they are of a file; None for frames in memory.
      path: the file or folder; None for frames in memory.
      start: index of the first frame in the input.
      stride: input frames from one frame to the next.
      source_size: height and width of the input's frames; None if they are those of `frames`.
      fit: whether the frames were cropped or padded to their size.
      inside: rows and columns that the input fills of a padded frame; None: there is no padding.
    """

    frames: Stream
    originals: Stream
    fps: Fraction | None
    size: Size
    full_size: Size
    rate: Fraction | None = None
    taken: Selection | None = None
    path: Path | None = None
    start: int = 0
    stride: int = 1
    source_size: Size | None = None
    fit: str = CROP
    inside: tuple[slice, slice] | None = None

    def __len__(self) -> int:
        return self.frames.count

    @property
    def sound(self) -> Sound | None:
        """What is heard while the frames are shown; None: nothing."""
        if self.taken is None or not self.taken.has_sound:
            return None
        return Sound(self.path, self.start / self.rate, len(self) / self.fps)

    @classmethod
    def of(
        cls,
        frames: np.ndarray,
        fps: Fraction | None = None,
        start: int = 0,
        stride: int = 1,
        source_size: Size | None = None,
        fit: str = CROP,
        inside: tuple[slice, slice] | None = None,
    ) -> "Footage":
        """Returns frames `[n H W 3]` uint8 that are in memory."""
        rows, columns = inside or (slice(None), slice(None))
        inner = frames[:, rows, columns]
        return cls(
            Stream.of(frames), Stream.of(inner), fps, frames.shape[1:3], inner.shape[1:3],
            None, None, None, start, stride, source_size, fit, inside,
        )  # fmt: skip


def open_footage(
    path: str | os.PathLike,
    *,
    num_frames: int | None = None,
    seconds: float | None = None,
    stride: int = 1,
    start: int | str = 0,
    size: Size | Sequence[Size] | None = None,
    fit: str = CROP,
) -> Footage:
    """Opens frames `start`, `start + stride`, … of a video. A first pass counts them.

    Args:
      path: see `read_video`, as for all others.
      num_frames: number of frames; None: all that follow.
      seconds: the same as a time.
      stride: input frames from one frame to the next.
      start: index of the first frame, or its time, such as "2.5s".
      size: height and width, or several sizes, of which the frames get the one nearest to their
        shape. None keeps the source's size.
      fit: "crop" or "pad".

    Raises:
      UserError: the path is not readable as a video or has fewer frames than asked, or an argument
        is not accepted.
    """
    path, fit = as_path(path, "a path of a video"), check_fit(fit)
    stride = as_count("stride", stride, 1)
    if isinstance(start, str) or seconds is not None:
        with contextlib.ExitStack() as stack:
            rate = open_source(path, 0, stack).rate
        if isinstance(start, str):
            start = to_frame("start", start, rate)
        if seconds is not None:
            if num_frames is not None:
                raise UserError("seconds and num_frames both say how long; give one of them")
            num_frames = max(1, to_frame("seconds", f"{seconds}s", rate) // stride)
    start = as_count("start", start, 0)
    num_frames = None if num_frames is None else as_count("num_frames", num_frames, 1)
    sizes = [] if size is None else as_sizes(size)
    with contextlib.ExitStack() as stack:
        source = open_source(path, start, stack)
        picking = Picking(source, start, stride, num_frames)
        source_size = None
        for picture, _ in picking:
            if source_size is None:
                source_size = picture.rgb().shape[:2]
    picking.check(path, num_frames)
    if source.lost:
        warnings.warn(
            f"{path}: damaged or cut off: {source.lost} frames lost, {picking.count} read",
            stacklevel=2,
        )
    size = best_size(source_size, sizes) if sizes else source_size
    taken = Selection(
        start, stride, picking.count, picking.total, picking.total_is_exact, source_size, size,
        source.has_sound, fit, len(sizes),
    )  # fmt: skip
    full_size = source_size if fit == PAD else cut_size(source_size, size)

    def read(size: Size, fit: str) -> Iterator[np.ndarray]:
        with contextlib.ExitStack() as stack:
            source = open_source(path, start, stack)
            for picture, times in Picking(source, start, stride, picking.count):
                # A stream may change its size midway, but padding lies in one place.
                image = resize_frame(resize_frame(picture.rgb(), source_size), size, fit)
                yield from [image] * times

    return Footage(
        Stream(picking.count, functools.partial(read, size, fit)),
        Stream(picking.count, functools.partial(read, full_size, CROP)),
        source.rate / stride, size, full_size, source.rate, taken, path, start, stride,
        source_size, fit, taken.inside,
    )  # fmt: skip


def to_frame(name: str, text: str, rate: Fraction) -> int:
    """Returns the index of the frame at a time such as "2.5s".

    Raises:
      UserError: the text is no time.
    """
    try:
        if text.endswith("s"):
            return max(0, round(Fraction(text[:-1]) * rate))
    except (ValueError, ZeroDivisionError):
        pass
    raise UserError(f"{name} is {show(text)}; a time such as 2.5s is accepted")


def cut_size(source: Size, size: Size) -> Size:
    """Returns the size, in the source's own pixels, of the part that cropping to `size` keeps."""
    scale = max(side / edge for side, edge in zip(size, source, strict=True))
    height, width = (
        min(edge, round(side / scale)) for side, edge in zip(size, source, strict=True)
    )
    return height, width
