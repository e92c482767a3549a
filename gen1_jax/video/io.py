"""Reads and writes video: `read_video` and `write_video`, frames as `[n h w 3]` uint8 RGB.

`read_video` accepts any container that PyAV (ffmpeg) opens, animated GIF, WebP and APNG, a single
image (a video of one frame), and a folder of images in natural order (`2.png` before `10.png`).
`write_video` makes `.mp4` (H.264 in yuv420p with faststart, which browsers play), `.gif`, `.webp`,
or a folder of PNGs if the path has no suffix.

Callers can rely on these rules:
- Time is kept. Each picture is placed on a grid of constant rate by its presentation time. The
  grid's rate is the stream's average rate. For animated images it is the rate of the shortest
  frame, because encoders merge equal frames into a longer one. `Video.fps` is the rate of the
  *returned* frames: source rate / stride.
- Rotation and mirror flags (display matrix, EXIF) and non-square pixels are applied. Interlaced
  frames stay as they are. Transparent pixels are composited over black. HDR (PQ, HLG) is converted
  to BT.709.
- Folders and stills state no rate and get `DEFAULT_FPS`. Sound is neither read nor written.
- A damaged file gives the frames that decode, with a warning that counts the lost ones; if fewer
  frames than asked are left, it is an error. Every error is a one-line `UserError`.
"""

import contextlib
import dataclasses
import itertools
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
from gen1_jax.video.pixels import fit_size, resize_frame
from gen1_jax.video.selection import Selection, ordinal
from gen1_jax.video.sources import ACCEPTED, DEFAULT_FPS, Source, on_grid
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
    start, fit = _as_count("start", start), check_fit(fit)
    pace = stride if isinstance(stride, Pace) else None
    stride = _as_count("stride", stride.stride if pace else stride)
    num_frames = None if num_frames is None else _as_count("num_frames", num_frames)
    sizes = [] if size is None else _as_sizes(size)
    if stride < 1 or start < 0 or (num_frames is not None and num_frames < 1):
        raise UserError(
            f"frames {num_frames}, stride {stride}, start {start}: "
            "frames and stride are 1 or more, start 0 or more"
        )
    for height, width in sizes:
        if min(height, width) < 1:
            raise UserError(f"size {height}x{width}: height and width are 1 or more")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {ACCEPTED}")
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            source = open_folder(path, sizes[0] if sizes else None)
        else:
            source = open_file(path, start, stack)
        wanted = None
        if pace:
            wanted = pace.stride_at(source.rate)
            left = None if source.count is None else source.count - start
            stride = longest_stride(wanted, left, num_frames)
        frames, selection = _select(source, start, stride, num_frames, sizes, fit, path)
        selection = dataclasses.replace(selection, pace=wanted)
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
    if total == 0:
        raise UserError(f"{path}: not a video, or too damaged to read even one frame; {ACCEPTED}")
    least = 1 if shorter else num_frames or 1
    if len(frames) < least:
        has = "1 frame" if total == 1 else f"{total} frames"
        lost = f" ({source.lost} more are damaged or cut off)" if source.lost else ""
        if not frames:
            raise UserError(
                f"{path}: has {has}{lost}; start {start} is beyond them (it counts from 0)"
            )
        every = f", every {ordinal(stride)}," if stride > 1 else ""
        raise UserError(
            f"{path}: has {has}{lost}; {least} from frame {start} on{every} were asked for, and "
            f"at most {len(frames)} are there"
        )
    if source.lost:
        warnings.warn(
            f"{path}: damaged or cut off: {source.lost} frames lost, {len(frames)} read",
            stacklevel=2,
        )
    return Video(np.stack(frames), source.rate / stride, path, selection)


def _as_count(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {show(value)}; a whole number is accepted") from None


def _as_sizes(value: Any) -> list[Size]:
    """Returns the sizes of a list of them; of one size, a list of that one."""
    with contextlib.suppress(TypeError, ValueError):
        try:
            height, width = map(operator.index, value)
            return [(height, width)]
        except TypeError:
            sizes = [tuple(map(operator.index, each)) for each in value]
            if sizes and all(len(each) == 2 for each in sizes):
                return sizes
    raise UserError(
        f"size is {show(value)}; two whole numbers (height, width) are accepted, or several such"
    )


def _select(
    source: Source,
    start: int,
    stride: int,
    num_frames: int | None,
    sizes: Sequence[Size],
    fit: str,
    path: Path,
) -> tuple[list[np.ndarray], Selection]:
    """Takes the slots that were asked for from the grid of `source.rate`.

    Returns:
      The frames, and what they are of the input. If too few frames were found, the input was read
      to its end, and the total is exact.
    """
    frames: list[np.ndarray] = []
    slots = itertools.islice(itertools.count(start, stride), num_frames)
    target, grid = next(slots), on_grid(source)
    shape, source_size, seen = None, (0, 0), 0
    for picture, _, end in grid:
        image, seen = None, end
        while target is not None and target < end:
            if image is None:
                image = picture.rgb()
                # A stream may change its size midway, but all frames of an array have one size, and
                # padding lies in one place.
                if shape is None:
                    source_size = image.shape[:2]
                    shape = best_size(source_size, sizes) if sizes else source_size
                elif fit == PAD:
                    image = resize_frame(image, source_size)
                image = resize_frame(image, shape, fit)
            frames.append(image)
            if len(frames) * image.nbytes > _MAX_BYTES:
                raise UserError(
                    f"{path}: {len(frames)} frames and more of {shape[0]}x{shape[1]} do not fit in "
                    f"{_MAX_BYTES >> 30} GiB; ask for fewer frames or a smaller size"
                )
            target = next(slots, None)
        if target is None:
            break
    total, is_exact = source.count, source.count_is_exact
    is_at_end = target is not None
    if not is_at_end and not is_exact and (total is None or total <= seen):
        # The stated number tells nothing; whether one more picture follows is cheap to see.
        is_at_end = next(grid, None) is None
        total = None
    if is_at_end:
        total, is_exact = seen, True
    shape = shape or (0, 0)
    return frames, Selection(
        start, stride, len(frames), total, is_exact, source_size, shape, source.has_sound,
        fit, len(sizes),
    )  # fmt: skip
