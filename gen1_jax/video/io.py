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
import itertools
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, ImageOps

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import replacing
from gen1_jax.video.pixels import SCALER
from gen1_jax.video.sources import (
    ACCEPTED,
    DEFAULT_FPS,
    Source,
    on_grid,
    open_file,
    open_folder,
)

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

VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")  # accepted outputs; no suffix means a folder of PNGs

_MAX_BYTES = 16 * 2**30  # reading a long video whole would exhaust the machine's memory


@dataclass(frozen=True)
class Video:
    """A video in memory.

    Attributes:
      frames: `[n h w 3]` uint8 RGB.
      fps: frames per second of `frames` (source rate / stride).
      path: the file or folder that the frames came from.
    """

    frames: np.ndarray
    fps: Fraction
    path: Path

    def __len__(self) -> int:
        return len(self.frames)


def read_video(
    path: str | os.PathLike,
    *,
    num_frames: int | None = None,
    stride: int = 1,
    start: int = 0,
    size: tuple[int, int] | None = None,
    shorter: bool = False,
) -> Video:
    """Reads frames `start`, `start + stride`, …, and decodes no further than it must.

    Args:
      path: a video, an animated or single image, or a folder of images.
      num_frames: number of frames to return; None returns all.
      stride: keep every stride-th frame of the constant-rate source.
      start: index of the first frame to keep.
      size: `(height, width)` of the returned frames. A frame is scaled, antialiased and with its
        aspect kept, until it covers the size, and cropped in the centre. None keeps the source's
        size.
      shorter: whether a video of fewer than `num_frames` gives all that it has.

    Returns:
      A `Video` with frames `[n h w 3]`; a still image gives n = 1.

    Raises:
      UserError: the path is not readable as a video, or has fewer frames than asked.
    """
    path = Path(path)
    if stride < 1 or start < 0 or (num_frames is not None and num_frames < 1):
        raise UserError(
            f"frames {num_frames}, stride {stride}, start {start}: "
            "frames and stride are 1 or more, start 0 or more"
        )
    if size is not None and min(size) < 1:
        raise UserError(f"size {size[0]}x{size[1]}: height and width are 1 or more")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {ACCEPTED}")
    with contextlib.ExitStack() as stack:
        source = open_folder(path, size) if path.is_dir() else open_file(path, start, stack)
        frames, total = _select(source, start, stride, num_frames, size, path)
    if total == 0:
        raise UserError(f"{path}: not a video, or too damaged to read even one frame; {ACCEPTED}")
    wanted = 1 if shorter else num_frames or 1
    if len(frames) < wanted:
        has = "1 frame" if total == 1 else f"{total} frames"
        lost = f" ({source.lost} more are damaged or cut off)" if source.lost else ""
        every = f", every {stride}th," if stride > 1 else ""
        raise UserError(
            f"{path}: has {has}{lost}; {wanted} from frame {start}{every} asked, "
            f"at most {len(frames)} can be had"
        )
    if source.lost:
        warnings.warn(
            f"{path}: damaged or cut off: {source.lost} frames lost, {len(frames)} read",
            stacklevel=2,
        )
    return Video(np.stack(frames), source.rate / stride, path)


def fit_size(
    height: int, width: int, multiple: int, max_side: int | None = None
) -> tuple[int, int]:
    """Returns the size nearest to `(height, width)` whose sides are multiples of `multiple`.

    Args:
      height: pixels.
      width: pixels.
      multiple: what divides both sides of the result; no side is less than this.
      max_side: the size is first scaled down, with its aspect kept, until its longer side is at
        most this; None leaves it.
    """
    scale = min(1.0, max_side / max(height, width)) if max_side else 1.0
    return tuple(
        max(1, math.floor(side * scale / multiple + 0.5)) * multiple for side in (height, width)
    )


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales `[H W 3]` uint8 until it covers `size = (h, w)`, and crops the centre `[h w 3]`."""
    if frame.shape[:2] == tuple(size):
        return frame
    image = ImageOps.fit(Image.fromarray(frame), (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _select(
    source: Source,
    start: int,
    stride: int,
    num_frames: int | None,
    size: tuple[int, int] | None,
    path: Path,
) -> tuple[list[np.ndarray], int]:
    """Takes the slots that were asked for from the grid of `source.rate`.

    Returns:
      The frames, and the number of slots that were seen.
    """
    frames: list[np.ndarray] = []
    slots = itertools.islice(itertools.count(start, stride), num_frames)
    target = next(slots)
    shape, total = size, 0
    for picture, _, total in on_grid(source):
        image = None
        while target is not None and target < total:
            if image is None:
                image = picture.rgb()
                # A stream may change its size midway, but all frames of an array have one size.
                shape = shape or image.shape[:2]
                image = resize_frame(image, shape)
            frames.append(image)
            if len(frames) * image.nbytes > _MAX_BYTES:
                raise UserError(
                    f"{path}: {len(frames)} frames and more of {shape[0]}x{shape[1]} do not fit in "
                    f"{_MAX_BYTES >> 30} GiB; ask for fewer frames or a smaller size"
                )
            target = next(slots, None)
        if target is None:
            break
    return frames, total


# ---- writing


def check_output(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Refuses, before any work is done, an output that `write_video` would refuse.

    The function makes the parent folders of the path.

    Raises:
      UserError: the suffix is unknown, the output exists and `overwrite` is false, or its folder
        cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in ("", *VIDEO_SUFFIXES):
        raise UserError(
            f"{path}: cannot write {path.suffix}; accepted are {', '.join(VIDEO_SUFFIXES)}, "
            "or no suffix for a folder of PNGs"
        )
    is_folder = not path.suffix
    if path.is_dir():
        others = [p.name for p in path.iterdir() if not (p.suffix == ".png" and p.stem.isdigit())]
        if not is_folder or others:  # overwriting must never delete files of another origin
            raise UserError(
                f"{path}: is a folder with other things in it; give a path that does not exist"
            )
        if any(path.iterdir()) and not overwrite:
            raise UserError(f"{path}: exists already; give another path or overwrite it")
    elif path.exists() or path.is_symlink():
        if is_folder:
            raise UserError(
                f"{path}: is a file; a path without a suffix is written as a folder of PNGs"
            )
        if not overwrite:
            raise UserError(f"{path}: exists already; give another path or overwrite it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: its folder cannot be made: {one_line(error)}") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"{path}: its folder cannot be written to; give a path in a folder you may write to"
        )
    return path


def write_video(
    path: str | os.PathLike, frames: np.ndarray, fps: Fraction | float, *, overwrite: bool = False
) -> None:
    """Writes frames in the format of the path's suffix, completely or not at all.

    In an mp4, an odd side is padded by repeating its last row or column, because yuv420p has no odd
    sizes.

    Args:
      path: ends in `.mp4`, `.gif` or `.webp`; a path without a suffix becomes a folder of
        `00000.png`, …, which does not keep the rate.
      frames: `[n h w 3]` uint8 RGB, n ≥ 1.
      fps: frames per second.
      overwrite: whether to replace an existing output.

    Raises:
      UserError: `check_output` refuses the path, the rate is not positive, or the disk is full.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise ValueError(
            f"frames are [n h w 3] uint8 with n >= 1, not {frames.shape} {frames.dtype}"
        )
    if not 0 < fps <= 1000:
        raise UserError(
            f"{path}: {fps} frames per second; accepted is a rate above 0, at most 1000"
        )
    path = check_output(path, overwrite)
    write = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp, "": _write_folder}
    with replacing(path, failures=(OSError, av.FFmpegError)) as part:
        write[path.suffix.lower()](part, frames, Fraction(fps).limit_denominator(65535))
        if path.is_dir():
            shutil.rmtree(path)  # check_output has found only numbered PNGs in it


def _write_mp4(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    options = {"crf": "17", "preset": "medium"}
    write_h264(f"file:{path}", frames, fps, options=options, faststart=True)


def write_h264(
    file: str | IO[bytes],
    frames: Iterable[np.ndarray],
    fps: Fraction,
    *,
    options: Mapping[str, str],
    threads: int = 0,
    faststart: bool = False,
) -> None:
    """Writes an mp4 of H.264 in BT.709, 4:2:0. All H.264 that the project makes comes from here.

    The colours are tagged as BT.709, because players disagree about the colours of untagged video.

    Args:
      file: an address for ffmpeg, or an open binary file.
      frames: `[h w 3]` uint8 RGB each, h and w even, at least one.
      fps: frames per second.
      options: x264's options, such as `crf` and `preset`.
      threads: number of the encoder's threads; 0 lets x264 choose.
      faststart: whether the index comes before the pictures, so that a browser can play the file
        while it loads.

    Raises:
      av.FFmpegError: ffmpeg cannot write.
    """
    movie_options = {"movflags": "faststart"} if faststart else {}
    frames = iter(frames)
    first = next(frames)
    with av.open(file, "w", format="mp4", options=movie_options) as container:
        stream = container.add_stream("libx264", rate=fps, options=dict(options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = threads
        context.colorspace, context.color_range = 1, ColorRange.MPEG  # AVCOL_SPC_BT709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.time_base = 1 / fps
        for index, array in enumerate(itertools.chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
                format="yuv420p",
                interpolation=SCALER,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts, frame.time_base = index, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _durations(count: int, fps: Fraction, unit: int) -> list[int]:
    """Returns each frame's milliseconds in steps of `unit`, rounded so that the sum keeps time."""
    edges = [round(index * 1000 / fps / unit) * unit for index in range(count + 1)]
    return [max(2 * unit, end - begin) for begin, end in itertools.pairwise(edges)]


def _write_gif(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """Writes a GIF with one palette and ordered dithering, so that colours and grain stay still."""
    sample = [resize_frame(f, fit_size(*f.shape[:2], 1, max_side=96)) for f in frames]
    sample = sample[:: math.ceil(len(sample) / 16)]
    palette = Image.fromarray(np.concatenate(sample)).quantize(256, kmeans=1)
    grain = _bayer(frames.shape[1], frames.shape[2])[..., None]
    images = []
    for frame in frames:
        dithered = np.clip(frame + grain, 0, 255).round().astype(np.uint8)
        image = Image.fromarray(dithered).quantize(palette=palette, dither=Image.Dither.NONE)
        images.append(image)
    _save_animation(path, images, duration=_durations(len(frames), fps, 10))


def _bayer(height: int, width: int, strength: float = 14.0) -> np.ndarray:
    """Returns Bayer's 8x8 threshold pattern `[height width]`: mean 0, `strength` levels wide."""
    pattern = np.zeros((1, 1))
    for _ in range(3):
        pattern = np.block([[4 * pattern, 4 * pattern + 2], [4 * pattern + 3, 4 * pattern + 1]])
    pattern = (pattern / 63 - 0.5) * strength
    return np.tile(pattern, (height // 8 + 1, width // 8 + 1))[:height, :width]


def _write_webp(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    images = [Image.fromarray(f) for f in frames]
    _save_animation(path, images, duration=_durations(len(frames), fps, 1), quality=90, method=4)


def _save_animation(path: Path, images: list[Image.Image], **options: object) -> None:
    images[0].save(path, save_all=True, append_images=images[1:], loop=0, **options)


def _write_folder(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    path.mkdir()
    for index, array in enumerate(frames):
        Image.fromarray(array).save(path / f"{index:05d}.png")
