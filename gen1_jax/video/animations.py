"""Writes GIF and WebP."""

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.video.pixels import fit_size, resize_frame
from gen1_jax.video.tags import exif_tags, tags_to_text, xmp_packet


def _durations(count: int, fps: Fraction, unit: int) -> list[int]:
    """Returns each frame's milliseconds in steps of `unit`, rounded so that the sum keeps time."""
    edges = [round(index * 1000 / fps / unit) * unit for index in range(count + 1)]
    return [max(2 * unit, end - begin) for begin, end in itertools.pairwise(edges)]


def write_gif(
    path: Path,
    frames: np.ndarray,
    fps: Fraction,
    tags: Mapping[str, str] | None,
    exact: np.ndarray | None = None,
) -> None:
    """Writes a GIF with one palette and ordered dithering, so that colours and grain stay still.

    Args:
      path: the file.
      frames: `[n h w 3]` uint8 RGB.
      fps: frames per second.
      tags: texts by name.
      exact: `[n]` bool, the frames whose colours must be kept; they are the palette then.

    Raises:
      UserError: the exact frames have more than 256 colours.
    """
    if exact is None or not exact.any():
        exact = np.zeros(len(frames), bool)
        sample = [resize_frame(f, fit_size(*f.shape[:2], 1, max_side=96)) for f in frames]
        sample = sample[:: math.ceil(len(sample) / 16)]
        palette = Image.fromarray(np.concatenate(sample)).quantize(256, kmeans=1)
    else:
        colours = np.unique(np.concatenate([_packed(f).ravel() for f in frames[exact]]))
        if len(colours) > 256:
            raise UserError(f"{path}: {len(colours)} colours; a gif of one palette has at most 256")
        palette = Image.new("P", (1, 1))
        rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)
        palette.putpalette(rgb.astype(np.uint8).tobytes())
    grain = _bayer(frames.shape[1], frames.shape[2])[..., None]
    images = []
    for frame, is_exact in zip(frames, exact, strict=True):
        if is_exact:
            image = Image.fromarray(np.searchsorted(colours, _packed(frame)).astype(np.uint8))
            image.putpalette(palette.getpalette())
        else:
            dithered = np.clip(frame + grain, 0, 255).round().astype(np.uint8)
            image = Image.fromarray(dithered).quantize(palette=palette, dither=Image.Dither.NONE)
        images.append(image)
    comment = {"comment": tags_to_text(tags).encode()} if tags else {}
    _save_animation(path, images, duration=_durations(len(frames), fps, 10), **comment)


def _packed(frame: np.ndarray) -> np.ndarray:
    """Returns `[h w]` int32, one number for each colour of `[h w 3]`."""
    return frame.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _bayer(height: int, width: int, strength: float = 14.0) -> np.ndarray:
    """Returns Bayer's 8x8 threshold pattern `[height width]`: mean 0, `strength` levels wide."""
    pattern = np.zeros((1, 1))
    for _ in range(3):
        pattern = np.block([[4 * pattern, 4 * pattern + 2], [4 * pattern + 3, 4 * pattern + 1]])
    pattern = (pattern / 63 - 0.5) * strength
    return np.tile(pattern, (height // 8 + 1, width // 8 + 1))[:height, :width]


def write_webp(
    path: Path,
    frames: np.ndarray,
    fps: Fraction,
    tags: Mapping[str, str] | None,
    lossless: bool = False,
) -> None:
    """Writes a WebP of `[n h w 3]` uint8 RGB."""
    images = [Image.fromarray(f) for f in frames]
    options = {"lossless": True} if lossless else {"quality": 90, "method": 4}
    options |= {"exif": exif_tags(tags), "xmp": xmp_packet(tags)} if tags else {}
    _save_animation(path, images, duration=_durations(len(frames), fps, 1), **options)


def _save_animation(path: Path, images: list[Image.Image], **options: object) -> None:
    images[0].save(path, save_all=True, append_images=images[1:], loop=0, **options)
