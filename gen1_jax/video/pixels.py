"""Converts decoded frames and images of any format to upright `[h w 3]` uint8 RGB."""

import math
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from gen1_jax.errors import UserError, one_line
from gen1_jax.video.fitting import CROP, fit_image
from gen1_jax.video.hdr import HLG, PQ, tone_map
from gen1_jax.video.images import to_srgb

SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def frame_to_rgb(
    frame: av.VideoFrame,
    stream,
    scalers: defaultdict,
    turn: tuple[bool, bool, bool],
    path: Path,
    cover: tuple[int, int] | None = None,
) -> np.ndarray:
    """Converts a frame of any pixel format to upright `[h w 3]` uint8 with square pixels.

    Args:
      frame: the decoded frame.
      stream: its stream, which knows the shape of its pixels.
      scalers: ffmpeg's scalers by size. They are kept, because making one takes time.
      turn: the frame's `display_matrix`.
      path: the file's name for errors.
      cover: `(h, w)`; the frame may be scaled down, with its aspect kept, to the least size that
        covers it. None keeps the size.

    Raises:
      UserError: ffmpeg cannot convert the pixel format.
    """
    conversion = {}
    if frame.colorspace == 2 and frame.height >= 720:
        # Untagged colours: players assume BT.709 for HD and BT.601 below.
        conversion["src_colorspace"] = Colorspace.ITU709
    is_hdr = frame.color_trc in (PQ, HLG)
    if is_hdr and frame.colorspace == 2:
        conversion["src_colorspace"] = Colorspace.BT2020
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect <= 0 or not Fraction(1, 8) < aspect < 8:
        aspect = Fraction(1)
    height, width = frame.height, max(1, round(frame.width * aspect))
    transposed, flip_y, flip_x = turn
    if cover is not None:
        height, width = least_cover((height, width), cover[::-1] if transposed else cover)
    alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
    to = ("rgba" if alpha else "rgb24") if not is_hdr else ("rgba64le" if alpha else "rgb48le")
    try:
        frame_rgb = scalers[height, width].reformat(
            frame, width=width, height=height, format=to, interpolation=SCALER, **conversion
        )
    except (av.FFmpegError, ValueError) as error:
        raise UserError(
            f"{path}: its pixels ({frame.format.name}) cannot be brought to RGB: {one_line(error)}"
        ) from error
    array = frame_rgb.to_ndarray()
    if is_hdr:
        rgb = tone_map(array[..., :3], frame.color_trc, frame.color_primaries != 1)
        array = np.dstack([rgb, array[..., 3:] >> 8]).astype(np.uint8) if alpha else rgb
    array = _composite(array) if alpha else array
    array = array.swapaxes(0, 1) if transposed else array
    return np.ascontiguousarray(array[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def display_matrix(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Reads how the container's display matrix turns and mirrors a frame.

    The matrix holds 16.16 fixed-point numbers: x' = a x + c y, y' = b x + d y.

    Returns:
      Whether the frame is transposed, then flipped in y, then flipped in x.
    """
    sides = [s for s in frame.side_data if s.type.name == "DISPLAYMATRIX"]
    if not sides:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(sides[0]), np.int32)[:5]
    if abs(int(a)) < abs(int(b)):
        return True, bool(b < 0), bool(c < 0)
    return False, bool(d < 0), bool(a < 0)


def frame_to_thumbnail(frame: av.VideoFrame, scalers: defaultdict, side: int) -> np.ndarray:
    """Returns a small RGB copy, not turned upright, whose longer side is at most `side`."""
    scale = min(1, side / max(frame.height, frame.width))
    height, width = (max(1, round(edge * scale)) for edge in (frame.height, frame.width))
    small = scalers["thumbnail"].reformat(
        frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
    )
    return small.to_ndarray()


def least_cover(size: tuple[int, int], cover: tuple[int, int]) -> tuple[int, int]:
    """Scales `size` down, with its aspect kept, to the least size that covers `cover`; never up."""
    scale = min(1, max(side / edge for side, edge in zip(cover, size, strict=True)))
    return tuple(math.ceil(edge * scale) for edge in size)


def reduced(array: np.ndarray, cover: tuple[int, int] | None) -> np.ndarray:
    """Scales `[H W 3]` down to the least size that covers `cover`; None keeps the size."""
    size = array.shape[:2] if cover is None else least_cover(array.shape[:2], cover)
    if size == array.shape[:2]:
        return array
    return np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.LANCZOS))


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


def resize_frame(frame: np.ndarray, size: tuple[int, int], fit: str = CROP) -> np.ndarray:
    """Scales `[H W 3]` uint8 and crops its centre, or pads it, to `size = (h, w)`."""
    return fit_image(frame, size, Image.Resampling.LANCZOS, fit)


def image_to_rgb(image: Image.Image, background: int = 0, managed: bool = True) -> np.ndarray:
    """Converts a Pillow image of any mode to `[h w 3]` uint8, in sRGB.

    Args:
      image: the image.
      background: the grey level under transparent pixels; 0 is black.
      managed: whether the image's colour profile is applied; values that are no colours have none.
    """
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip it at 255
        grey = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    image = to_srgb(image) if managed else image
    if image.has_transparency_data:
        return _composite(np.asarray(image.convert("RGBA")), background)
    return np.asarray(image.convert("RGB"))


def _composite(rgba: np.ndarray, background: int = 0) -> np.ndarray:
    """Composites `[h w 4]` with straight alpha over a grey level (0 is black) to `[h w 3]`."""
    alpha = rgba[..., 3:].astype(np.uint16)
    product = rgba[..., :3] * alpha + background * (255 - alpha)
    return ((product + 127) // 255).astype(np.uint8)


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB to CIE L*a*b* (D65), in which distances are about as large as they look.

    Args:
      rgb: `[... 3]` values from 0 to 255.

    Returns:
      `[... 3]` float64.
    """
    unit = np.asarray(rgb, np.float64) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(  # IEC 61966-2-1
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
