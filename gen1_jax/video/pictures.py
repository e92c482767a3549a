"""Arranges frames to look at: coloured depth, clips side by side, contact sheets, image files.

All pictures are `[… h w 3]` uint8 RGB. Small clips are enlarged smoothly, so that 64x64 frames are
pleasant to see in any viewer.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gen1_jax.errors import UserError
from gen1_jax.files import as_path, replacing
from gen1_jax.video.streams import Stream

_INK, _PAPER = (235, 235, 240), (24, 24, 28)
_GAP = 6
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_structure(frame: np.ndarray) -> np.ndarray:
    """Returns a structure map in [−1, 1], `[h w]` or in colours `[h w 3]`, as `[h w 3]` uint8."""
    if frame.ndim == 3:
        return np.clip((frame + 1) * 127.5, 0, 255).round().astype(np.uint8)
    return colour_depth(frame[None], -1, 1)[0]


def colour_depth(
    depth: np.ndarray, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """Colours depth, or any scalar map, from dark to bright; inverse depth shows near as bright.

    All frames of a clip share one range, because a range for each frame would flicker.

    Args:
      depth: `[n h w]` at any scale; NaN is shown as the darkest value.
      low: the value shown darkest; by default the clip's 1st percentile.
      high: the value shown brightest; by default the 99th percentile.

    Returns:
      `[n h w 3]` uint8.
    """
    depth = np.asarray(depth, np.float32)
    finite = depth[np.isfinite(depth)]
    darkest, brightest = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    low = darkest if low is None else low
    high = brightest if high is None else high
    span = high - low if high > low else 1.0
    unit = np.clip((np.nan_to_num(depth, nan=low, posinf=high, neginf=low) - low) / span, 0, 1)
    table = _inferno()
    return table[(unit * (len(table) - 1)).round().astype(np.uint8)]


def label_strip(text: str, width: int, size: int = 14, lines: int | None = None) -> np.ndarray:
    """Returns a dark strip `[h width 3]` with text that is wrapped and centred.

    Args:
      text: the text; a word wider than the strip is cut and ends in "…".
      width: the strip's width in pixels.
      size: the font's size in pixels.
      lines: the strip's height in lines, by default as many as the text needs. Text beyond them is
        cut and ends in "…".
    """
    font = ImageFont.load_default(size)
    wrapped = _wrap(text, width - 2 * _GAP, font)
    lines = len(wrapped) if lines is None else lines
    if len(wrapped) > lines:
        wrapped = wrapped[:lines]
        wrapped[-1] = _cut(wrapped[-1] + " …", width - 2 * _GAP, font)
    pitch = round(size * 1.3)
    strip = Image.new("RGB", (width, pitch * lines + 2 * _GAP), _PAPER)
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(wrapped, start=lines - len(wrapped)):
        x = (width - font.getlength(line)) / 2
        draw.text((x, _GAP + row * pitch + pitch / 2), line, fill=_INK, font=font, anchor="lm")
    return np.asarray(strip)


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges `[n h w 3]` uint8 smoothly to `[n h·scale w·scale 3]`."""
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    if scale == 1:
        return frames
    return np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames]
    )


def side_by_side(clips: Mapping[str, np.ndarray], scale: int | None = None) -> np.ndarray:
    """Puts clips next to each other, each under its label.

    Args:
      clips: label → `[n h w 3]` uint8. All clips are scaled to the height of the first. A clip
        shorter than the longest, such as a still of one frame, stays on its last frame.
      scale: whole-number enlargement; by default to a height of about 256 pixels.

    Returns:
      `[n H W 3]` uint8; n is that of the longest clip.
    """
    height = next(iter(clips.values())).shape[1]
    scale = scale or max(1, round(256 / height))
    length = max(len(frames) for frames in clips.values())
    panels = {}
    for label, frames in clips.items():
        frames = enlarge(_to_height(_checked(label, frames), height), scale)
        panels[label] = np.concatenate([frames, frames[-1:].repeat(length - len(frames), 0)])
    size = 12 if scale * height < 160 else 15
    strips = _strips({label: panel.shape[2] for label, panel in panels.items()}, size)
    columns = [
        np.concatenate([strip[None].repeat(length, 0), panel], axis=1)
        for strip, panel in zip(strips, panels.values(), strict=True)
    ]
    return _framed(_join(columns, axis=2))


def stream_side_by_side(clips: Mapping[str, Stream]) -> Stream:
    """Puts videos of one length next to each other, each under its label, frame by frame."""

    def make() -> Iterator[np.ndarray]:
        for frames in zip(*clips.values(), strict=True):
            yield side_by_side({label: f[None] for label, f in zip(clips, frames, strict=True)})[0]

    return Stream(next(iter(clips.values())).count, make)


def mosaic(clips: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Puts clips into a grid in which they play together.

    Args:
      clips: `[n h w 3]` uint8 each. All are scaled to the largest height and centred in a place of
        the largest width. A clip shorter than the longest starts again.
      columns: number of columns; by default so many that the grid has about a screen's shape.

    Returns:
      `[n H W 3]` uint8; n is that of the longest clip.
    """
    if not clips:
        raise ValueError("a mosaic needs at least one clip")
    height = max(clip.shape[1] for clip in clips)
    clips = [_to_height(_checked(f"clip {i}", clip), height) for i, clip in enumerate(clips)]
    width, length = (max(clip.shape[axis] for clip in clips) for axis in (2, 0))
    columns = columns or max(1, round((len(clips) * height * 16 / (width * 9)) ** 0.5))
    tiles = []
    for clip in clips:
        tile = np.empty((length, height, width, 3), np.uint8)
        tile[:] = _PAPER
        left = (width - clip.shape[2]) // 2
        tile[:, :, left : left + clip.shape[2]] = clip[np.arange(length) % len(clip)]
        tiles.append(tile)
    empty = np.empty_like(tiles[0])
    empty[:] = _PAPER
    tiles += [empty] * (-len(tiles) % min(columns, len(tiles)))
    columns = min(columns, len(tiles))
    rows = [_join(tiles[i : i + columns], axis=2) for i in range(0, len(tiles), columns)]
    return _framed(_join(rows, axis=1))


def contact_sheet(
    rows: Sequence[Mapping[str, np.ndarray]],
    frames_per_clip: int = 4,
    scale: int | None = None,
) -> np.ndarray:
    """Puts many clips into one picture: a row for each example, a strip of frames for each label.

    Args:
      rows: for each example label → `[n h w 3]` uint8. Labels are written above the first row, and
        above each row whose labels differ from those of the row before.
      frames_per_clip: number of frames shown of each clip, spread evenly from first to last.
      scale: whole-number enlargement; by default to a height of about 96 pixels.

    Returns:
      `[H W 3]` uint8.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    height = next(iter(rows[0].values())).shape[1]
    scale = scale or max(1, round(96 / height))
    blocks, previous = [], None
    for clips in rows:
        cells = {}
        for label, frames in clips.items():
            frames = _to_height(_checked(label, frames), height)
            picks = np.linspace(0, len(frames) - 1, min(frames_per_clip, len(frames))).round()
            frames = enlarge(frames[picks.astype(int)], scale)
            cells[label] = _join(list(frames[:, None]), axis=2, gap=1)[0]
        widths = {label: cell.shape[1] for label, cell in cells.items()}
        if list(clips) != previous:
            blocks.append(_join(_strips(widths, 13), axis=1))
            previous = list(clips)
        blocks.append(_join(list(cells.values()), axis=1))
        blocks.append(np.full((_GAP, blocks[-1].shape[1], 3), _PAPER, np.uint8))
    width = max(block.shape[1] for block in blocks)
    blocks = [_widened(block, width) for block in blocks]
    return _framed(np.concatenate(blocks[:-1])[None])[0]


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes `[h w 3]` uint8 as PNG, JPEG or WebP, completely or not at all.

    An existing file is replaced.

    Raises:
      UserError: the suffix is another, or the file cannot be written.
    """
    path = as_path(path)
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        raise UserError(f"{path}: not an image name; accepted are {', '.join(_IMAGE_SUFFIXES)}")
    options = {} if path.suffix.lower() == ".png" else {"quality": 92}
    with replacing(path) as part:
        Image.fromarray(image).save(part, **options)


# ---- parts of a picture


@functools.cache
def _inferno() -> np.ndarray:
    """Returns matplotlib's colour table of that name, `[256 3]` uint8."""
    from matplotlib import colormaps

    return (255 * np.array(colormaps["inferno"].colors)).round().astype(np.uint8)


def _checked(label: str, frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"{label}: [n h w 3] uint8 wanted, not {frames.shape} {frames.dtype}")
    return frames


def _to_height(frames: np.ndarray, height: int) -> np.ndarray:
    if frames.shape[1] == height:
        return frames
    size = (max(1, round(frames.shape[2] * height / frames.shape[1])), height)
    return np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames]
    )


def _strips(widths: Mapping[str, int], size: int) -> list[np.ndarray]:
    """Returns label strips of equal height: the lines of the longest label, at most three."""
    font = ImageFont.load_default(size)
    needed = [len(_wrap(label, width - 2 * _GAP, font)) for label, width in widths.items()]
    lines = min(3, max(needed))
    return [label_strip(label, width, size, lines) for label, width in widths.items()]


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Breaks text into lines at spaces, each as long as fits; a word wider than a line is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_cut(word, width, font))
    return lines or [""]


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text.rstrip("…").rstrip()[:-1] + "…"
    return text


def _join(arrays: list[np.ndarray], axis: int, gap: int = _GAP) -> np.ndarray:
    """Concatenates along `axis` with dark gaps between."""
    shape = list(arrays[0].shape)
    shape[axis] = gap
    spacer = np.broadcast_to(np.array(_PAPER, np.uint8), shape)
    parts = [part for array in arrays for part in (spacer, array)][1:]
    return np.concatenate(parts, axis=axis)


def _widened(image: np.ndarray, width: int) -> np.ndarray:
    """Extends `[h w 3]` on its right to `width`."""
    filler = np.full((image.shape[0], width - image.shape[1], 3), _PAPER, np.uint8)
    return np.concatenate([image, filler], axis=1)


def _framed(frames: np.ndarray) -> np.ndarray:
    """Puts a dark border around `[n h w 3]`; its outer sides are even, as H.264 requires."""
    height, width = frames.shape[1:3]
    shape = (len(frames), height + 2 * _GAP + height % 2, width + 2 * _GAP + width % 2, 3)
    canvas = np.empty(shape, np.uint8)
    canvas[:] = _PAPER
    canvas[:, _GAP : _GAP + height, _GAP : _GAP + width] = frames
    return canvas
