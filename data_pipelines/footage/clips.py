"""Cuts a video into clips: n frames a stride apart, back to back within each shot, filtered.

Frames are taken on a regular grid at the stream's average rate, so that a variable rate changes
neither the pace nor the number of frames. They are upright 8-bit RGB with square pixels, whatever
the pixel format; HDR (PQ, HLG) is converted to BT.709 by `gen1_jax.video`. Frames are kept no
longer than their clip, so memory does not grow with a video's length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gen1_jax.data_pipelines.footage.outcomes import Outcome, check_min_kept
from gen1_jax.data_pipelines.footage.shots import mark_cuts
from gen1_jax.errors import UserError
from gen1_jax.video.fitting import kept_area
from gen1_jax.video.io import resize_frame
from gen1_jax.video.opening import open_file, open_folder
from gen1_jax.video.sources import Picture, Source, Unreadable, on_grid

_BLACK = 28  # brightest level of a bar: limited-range black, and what an encoder makes of it
_LEAST_BAR = 0.01  # share of a side; a narrower bar is a soft edge
_MARGIN = 0.005  # share of a side cut off beside a bar, where scaling blends bar and picture
_LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709
_LONGEST_STILL = 60  # seconds that a picture may last; clocks of broken files leap by years
_SMALL = 96  # pixels of the shorter side on which bars are guessed
_CELLS = 32  # motion is measured on the means of about 32 x 32 cells


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """Settings of stored clips.

    Attributes:
      size: (height, width) of the stored frames; both even.
      num_frames: number of frames of a clip.
      stride: distance of a clip's consecutive frames in the source, in frames.
      max_clips: largest number of clips of one shot, from its beginning; 0 for all.
      max_upscale: largest factor by which a picture may be enlarged.
      min_kept: least share of a picture's area that cropping to `size` may keep, 0 to 1; a clip
        that keeps less is too long or too narrow.
      min_luma: least mean luma, 0..255; a darker clip is too dark.
      min_motion: least mean change of luma between consecutive frames of a clip, in levels of 255
        over about 32 x 32 cells; a clip below it is near-still.
      crop_bars: whether constant black bars are cropped.
      crf: x264's quality of the stored clip.
    """

    size: tuple[int, int] = (256, 448)
    num_frames: int = 8
    stride: int = 4
    max_clips: int = 0
    max_upscale: float = 1.0
    min_kept: float = 0.5
    min_luma: float = 16.0
    min_motion: float = 0.5
    crop_bars: bool = True
    crf: int = 18


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip.

    Attributes:
      frames: [n H W 3] uint8.
      times: [n] times in the source, in seconds.
      start: number of the first frame in the source.
    """

    frames: np.ndarray
    times: np.ndarray
    start: int


def read_clips(
    path: Path,
    settings: ClipSettings,
    outcome: Outcome,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[Clip]:
    """Yields the clips of a video or of a folder of pictures.

    Args:
      path: the video or folder.
      settings: settings of clips.
      outcome: the input's outcome, in which all that is dropped is noted.
      watch: is called for every picture that was decoded; it may raise to end the film.

    Raises:
      Unreadable: the file is no video.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            source = open_folder(path, None)
        else:
            source = open_file(path, 0, stack, strict=True, threads=1)
        source.pictures = _watched(source.pictures, watch)
        yield from cut_clips(source, settings, outcome)


def _watched(pictures: Iterator[Picture], watch: Callable[[], None]) -> Iterator[Picture]:
    for picture in pictures:
        watch()
        yield picture


def cut_clips(source: Source, settings: ClipSettings, outcome: Outcome) -> Iterator[Clip]:
    """Yields the clips of an open source; see `read_clips`."""
    n, stride = settings.num_frames, settings.stride
    frames: list[np.ndarray] = []
    start = made = seen = 0
    damaged_at = None
    longest = math.ceil(_LONGEST_STILL * source.rate)

    def end_shot() -> None:
        if seen and not made:
            outcome.drop("too short")

    try:
        for picture, begin, end, cut in mark_cuts(on_grid(source)):
            if picture.follows_gap and damaged_at is None:
                damaged_at = seen
            if cut:
                end_shot()
                made = 0
            if cut or begin > seen:
                frames, start = [], begin
            seen = end = min(end, begin + longest)
            rgb = None
            while start + len(frames) * stride < end:
                if settings.max_clips and made == settings.max_clips:
                    break
                if not frames:
                    roomy = _roomy(picture, settings)
                rgb = picture.rgb(roomy) if rgb is None else rgb
                frames.append(rgb)
                if len(frames) == n:
                    made += 1
                    finished = _finish(frames, settings)
                    if isinstance(finished, str):
                        outcome.drop(finished)
                    else:
                        slots = start + stride * np.arange(n)
                        yield Clip(finished, slots / float(source.rate), start)
                    frames, start = [], start + n * stride
    except Unreadable as error:  # a damaged picture of a folder or animation
        if error.reason != "damaged":
            raise
        damaged_at = seen if damaged_at is None else damaged_at
        source.lost += 1
    end_shot()
    if source.lost and damaged_at is None:  # the end is cut off
        damaged_at = seen
    if damaged_at is not None:
        lost = f", {source.lost} frames lost" if source.lost else ""
        outcome.note = f"damaged after frame {damaged_at}{lost}"
        if not outcome.kept and (not outcome.dropped or set(outcome.dropped) == {"too short"}):
            outcome.dropped.clear()
            outcome.drop("damaged")
    elif not seen:
        raise Unreadable("damaged", "not one frame can be decoded")


def _roomy(picture: Picture, settings: ClipSettings) -> tuple[int, int]:
    """Returns a size to which a clip's pictures may be scaled down: twice what will be stored.

    What bars leave of the first picture covers it, so that a portrait within a wide frame keeps its
    pixels. A dark picture seems to have wide bars, and then it is merely scaled down less.
    """
    roomy = tuple(2 * side for side in settings.size)
    if not settings.crop_bars:
        return roomy
    small = picture.rgb((_SMALL, _SMALL))[None]
    bars = find_bars(small)
    sides = small.shape[1:3]
    inside = (sides[0] - bars[0] - bars[1], sides[1] - bars[2] - bars[3])
    return tuple(
        math.ceil(side * whole / max(1, part))
        for side, whole, part in zip(roomy, sides, inside, strict=True)
    )


def _finish(frames: list[np.ndarray], settings: ClipSettings) -> np.ndarray | str:
    """Crops, scales and filters a clip; returns its frames [n H W 3] or the reason to drop it."""
    if len(frames) > 1 and all(frame is frames[0] for frame in frames):
        return "near-still"
    shape = frames[0].shape[:2]
    stack = np.stack([resize_frame(frame, shape) for frame in frames])
    if settings.crop_bars:
        top, bottom, left, right = find_bars(stack)
        stack = stack[:, top : shape[0] - bottom, left : shape[1] - right]
    if 0 in stack.shape:
        return "too small"
    if kept_area(stack.shape[1:3], settings.size) < settings.min_kept:
        return "too little kept"
    means = stack[:, ::4, ::4].mean(axis=(0, 1, 2))
    if means @ _LUMA < settings.min_luma:
        return "too dark"
    scale = max(want / have for want, have in zip(settings.size, stack.shape[1:3], strict=True))
    if scale > settings.max_upscale:
        return "too small"
    stack = np.stack([resize_frame(frame, settings.size) for frame in stack])
    if measure_motion(stack) < settings.min_motion:
        return "near-still"
    return stack


def find_bars(frames: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the widths of the bars of frames [n H W 3] at the top, bottom, left and right.

    Bars are black in all frames and come in pairs, so a dark floor or sky is no bar.
    """
    bars = []
    for axis, opposite in ((1, 2), (2, 1)):
        # Looking at the borders alone settles nearly all clips.
        edges = frames.take([0, -1], axis=axis)
        if edges.max() > _BLACK:
            bars += [0, 0]
            continue
        bright = np.flatnonzero(frames.max(axis=(0, opposite, 3)) > _BLACK)
        length = frames.shape[axis]
        pair = (bright[0], length - 1 - bright[-1]) if len(bright) else (0, 0)
        if min(pair) < max(1, _LEAST_BAR * length):
            pair = (0, 0)
        margin = int(np.ceil(_MARGIN * length))
        bars += [int(bar) + margin if bar else 0 for bar in pair]
    return tuple(bars)


def measure_motion(frames: np.ndarray) -> float:
    """Returns the mean change of luma between consecutive frames [n H W 3], 0..255, of cells."""
    height, width = frames.shape[1:3]
    rows, columns = max(1, height // _CELLS), max(1, width // _CELLS)
    cropped = frames[:, : height // rows * rows, : width // columns * columns]
    cells = cropped.reshape(len(frames), height // rows, rows, width // columns, columns, 3).mean(
        axis=(2, 4)
    )
    return float(np.abs(np.diff(cells @ _LUMA, axis=0)).mean()) if len(frames) > 1 else 255.0


def check_settings(settings: ClipSettings) -> None:
    """Raises UserError for settings that are not accepted."""
    if min(settings.size) < 16 or any(side % 2 for side in settings.size):
        height, width = settings.size
        raise UserError(f"--size {height}x{width}: even sides of 16 and more are accepted")
    for name, least in {"num_frames": 1, "stride": 1, "max_clips": 0}.items():
        value = getattr(settings, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: {least} or more is accepted")
    if settings.max_upscale <= 0:
        raise UserError(f"--max-upscale {settings.max_upscale}: a number above 0 is accepted")
    check_min_kept(settings.min_kept)
    if not 0 <= settings.crf <= 51:
        raise UserError(f"--crf {settings.crf}: 0 to 51 are accepted")
