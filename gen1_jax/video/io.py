"""Reads and writes video: `read_video` and `write_video`, frames as `[n h w 3]` uint8 RGB.

`read_video` accepts any self-contained video that PyAV (ffmpeg) opens, animated GIF, WebP and APNG,
a single image (a video of one frame), and a folder of images in natural order (`2.png` before
`10.png`). Playlists and other lists of files are refused.
`write_video` makes `.mp4` (H.264 in yuv420p with faststart, which browsers play), `.gif`, `.webp`,
or a folder of PNGs if the path has no suffix.

Callers can rely on these rules:
- Time is kept. Each picture is placed on a grid of constant rate by its presentation time. The
  grid's rate is the stream's average rate, unless its time stamps say another. For animated images
  it is the rate of the shortest frame, because encoders merge equal frames into a longer one.
  `Video.fps` is the rate of the *returned* frames: source rate / stride.
- Rotation and mirror flags (display matrix, EXIF) and non-square pixels are applied. Frames that
  say that they are interlaced are deinterlaced. Transparent pixels are composited over black. HDR
  (PQ, HLG) is tone-mapped to BT.709, and images are converted to sRGB by their profiles.
- Folders and stills state no rate and get `DEFAULT_FPS`. Sound is read apart (`Footage.sound`).
- A damaged file gives the frames that decode, with a warning that counts the lost ones; if fewer
  frames than asked are left, it is an error. Every error is a one-line `UserError`.
"""

import contextlib
import dataclasses
import operator
import os
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.fitting import CROP, PAD, Size, best_size, check_fit
from gen1_jax.video.opening import open_file, open_folder
from gen1_jax.video.pace import Pace, longest_stride
from gen1_jax.video.paths import as_path
from gen1_jax.video.picking import Picking
from gen1_jax.video.pixels import fit_size, resize_frame
from gen1_jax.video.selection import Selection
from gen1_jax.video.sources import ACCEPTED, DEFAULT_FPS, Source
from gen1_jax.video.writing import check_output, write_h264, write_video

__all__ = [
    "DEFAULT_FPS",
    "Video",
    "check_output",
    "fit_size",
    "read_video",
    "resize_frame",
    "write_h264",
    "write_video",
]

_MAX_BYTES = 16 * 2**30  # reading a long video whole would exhaust the machine's memory


@dataclasses.dataclass(frozen=True)
class Video:
    """A video in memory.

    Attributes:
      frames: `[n h w 3]` uint8 RGB.
      fps: frames per second of `frames` (source rate / stride).
      path: the file or folder that the frames came from.
      taken: which of the input's frames these are, and how they were scaled and cropped.
    """

    frames: np.ndarray
    fps: Fraction
    path: Path
    taken: Selection

    def __len__(self) -> int:
        return len(self.frames)


def read_video(
    path: str | os.PathLike,
    *,
    num_frames: int | None = None,
    stride: int | Pace = 1,
    start: int = 0,
    size: Size | Sequence[Size] | None = None,
    fit: str = CROP,
    shorter: bool = False,
) -> Video:
    """Reads frames `start`, `start + stride`, …, and decodes no further than it must.

    Args:
      path: a video, an animated or single image, or a folder of images.
      num_frames: number of frames to return; None returns all.
      stride: keep every stride-th frame of the constant-rate source; or the pace of a model's
        training, from which the stride follows. A source too short for it is taken closer together.
      start: index of the first frame to keep.
      size: `(height, width)` of the returned frames, or several sizes, of which the frames get the
        one nearest to their shape. None keeps the source's size.
      fit: "crop" scales a frame, antialiased and with its aspect kept, until it covers the size,
        and crops its centre. "pad" scales it until it lies inside, and pads it with its mirror
        image; `taken.inside` says where it lies.
      shorter: whether a video of fewer than `num_frames` gives all that it has.

    Returns:
      A `Video` with frames `[n h w 3]`; a still image gives n = 1.

    Raises:
      UserError: the path is not readable as a video or has fewer frames than asked, or an argument
        has a wrong type.
    """
    path = as_path(path, "a path of a video")
    start, fit = as_count("start", start, 0), check_fit(fit)
    pace = stride if isinstance(stride, Pace) else None
    stride = as_count("stride", stride.stride if pace else stride, 1)
    num_frames = None if num_frames is None else as_count("num_frames", num_frames, 1)
    sizes = [] if size is None else as_sizes(size)
    with contextlib.ExitStack() as stack:
        source = open_source(path, start, stack, sizes[0] if sizes else None)
        wanted = None
        if pace:
            wanted = pace.stride_at(source.rate)
            left = None if source.count is None else source.count - start
            stride = longest_stride(wanted, left, num_frames)
        picking = Picking(source, start, stride, num_frames)
        frames, source_size, shape = _select(picking, sizes, fit, path)
    selection = Selection(
        start, stride, len(frames), picking.total, picking.total_is_exact, source_size, shape,
        source.has_sound, fit, len(sizes), wanted,
    )  # fmt: skip
    total = selection.total
    if pace and total and len(frames) < (num_frames or 0):
        # The file stated no number of frames, or too large a one; now they are counted.
        closer = longest_stride(wanted, total - start, num_frames)
        if closer < stride:
            video = read_video(
                path, num_frames=num_frames, stride=closer, start=start, size=size, fit=fit,
                shorter=shorter,
            )  # fmt: skip
            known = {"total": total, "total_is_exact": True, "pace": wanted}
            return dataclasses.replace(video, taken=dataclasses.replace(video.taken, **known))
    picking.check(path, 1 if shorter else num_frames)
    if source.lost:
        warnings.warn(
            f"{path}: damaged or cut off: {source.lost} frames lost, {len(frames)} read",
            stacklevel=2,
        )
    try:
        stacked = np.stack(frames)
    except MemoryError as error:
        raise _too_large(path, frames, "memory") from error
    return Video(stacked, source.rate / stride, path, selection)


def open_source(
    path: Path, start: int, stack: contextlib.ExitStack, cover: Size | None = None
) -> Source:
    """Opens a file or a folder of pictures; `start` and `cover` allow to read less of them.

    Raises:
      UserError: there is no such file, or it is no video.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {ACCEPTED}")
    return open_folder(path, cover) if path.is_dir() else open_file(path, start, stack)


def as_count(name: str, value: Any, least: int) -> int:
    """Returns a number of frames.

    Raises:
      UserError: it is no whole number, or less than `least`.
    """
    try:
        value = operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {show(value)}; a whole number is accepted") from None
    if value < least:
        raise UserError(f"{name} {value}; {least} or more is accepted")
    return value


def as_sizes(value: Any) -> list[Size]:
    """Returns the sizes of a list of them; of one size, a list of that one.

    Raises:
      UserError: the value is no size, or a side is below 1.
    """
    sizes = None
    with contextlib.suppress(TypeError, ValueError):
        try:
            height, width = map(operator.index, value)
            sizes = [(height, width)]
        except TypeError:
            sizes = [tuple(map(operator.index, each)) for each in value]
    if not sizes or any(len(each) != 2 for each in sizes):
        raise UserError(
            f"size is {show(value)}; two whole numbers (height, width) are accepted, or several "
            "such"
        )
    for height, width in sizes:
        if min(height, width) < 1:
            raise UserError(f"size {height}x{width}: height and width are 1 or more")
    return sizes


def _select(
    picking: Picking,
    sizes: Sequence[Size],
    fit: str,
    path: Path,
) -> tuple[list[np.ndarray], Size, Size]:
    """Returns the frames that are picked, the input's size and theirs."""
    frames: list[np.ndarray] = []
    shape, source_size = None, (0, 0)
    for picture, times in picking:
        image = picture.rgb()
        # A stream may change its size midway, but all frames of an array have one size, and padding
        # lies in one place.
        if shape is None:
            source_size = image.shape[:2]
            shape = best_size(source_size, sizes) if sizes else source_size
        elif fit == PAD:
            image = resize_frame(image, source_size)
        image = resize_frame(image, shape, fit)
        frames += [image] * times
        if len(frames) * image.nbytes > _MAX_BYTES:
            raise _too_large(path, frames, f"{_MAX_BYTES >> 30} GiB")
    return frames, source_size, shape or (0, 0)


def _too_large(path: Path, frames: Sequence[np.ndarray], room: str) -> UserError:
    height, width = frames[0].shape[:2]
    return UserError(
        f"{path}: {len(frames)} frames and more of {height}x{width} do not fit in {room}; ask for "
        "fewer frames or a smaller size"
    )
