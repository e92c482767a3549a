"""Brings pictures of any shape to a size that a model takes: cropped to it, or padded to it.

A cropped picture is scaled until it covers the size. A padded one is scaled until it lies inside,
in the middle; its mirror image fills the rest, which black bars would give an edge of depth.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gen1_jax.errors import UserError
from gen1_jax.settings import show

Size = tuple[int, int]  # height, width
CROP, PAD = "crop", "pad"


def check_fit(fit: Any) -> str:
    """Returns how a picture is fitted, or raises UserError if there is no such way."""
    if fit not in (CROP, PAD):
        raise UserError(f"fit is {show(fit)}; {CROP} and {PAD} are accepted")
    return fit


def best_size(size: Size, sizes: Sequence[Size]) -> Size:
    """Returns the one of `sizes` that a picture fits best, or the first of equals.

    A picture is scaled until it just covers the size, so the loss depends on aspect ratios alone.

    Args:
      size: height and width of the picture.
      sizes: heights and widths to choose from.

    Raises:
      UserError: a side is not positive, or there is no size.
    """
    if not sizes or min(side for each in (size, *sizes) for side in each) < 1:
        raise UserError(f"no size of {tuple(sizes)} for {size[0]}x{size[1]}; sides are 1 or more")
    return max(sizes, key=lambda each: kept_area(size, each))


def kept_area(size: Size, cropped: Size) -> float:
    """Returns the share of a picture's area that cropping it to another shape keeps, 0 to 1.

    It is the share of the padded picture that is no padding, too.
    """
    ratio = (size[0] * cropped[1]) / (size[1] * cropped[0])
    return min(ratio, 1 / ratio)


def place_inside(source: Size, size: Size) -> tuple[slice, slice]:
    """Returns the rows and columns of a padded picture of `size` that the source fills."""
    scale = min(side / edge for side, edge in zip(size, source, strict=True))
    inner = [
        min(side, max(1, round(edge * scale))) for side, edge in zip(size, source, strict=True)
    ]
    starts = [(side - own) // 2 for side, own in zip(size, inner, strict=True)]
    rows, columns = (slice(at, at + own) for at, own in zip(starts, inner, strict=True))
    return rows, columns


def fit_image(image: np.ndarray, size: Size, method: int, fit: str = CROP) -> np.ndarray:
    """Scales `[H W ...]` and crops or pads it to `size`.

    Args:
      image: `[H W 3]` uint8 or `[H W]` float32.
      size: height and width of the result.
      method: Pillow's resampling.
      fit: "crop" or "pad".
    """
    if image.shape[:2] == tuple(size):
        return image
    picture = Image.fromarray(image)
    if fit == CROP:
        return np.asarray(ImageOps.fit(picture, (size[1], size[0]), method))
    inside = place_inside(image.shape[:2], size)
    height, width = (part.stop - part.start for part in inside)
    scaled = np.asarray(picture.resize((width, height), method))
    around = [(part.start, side - part.stop) for part, side in zip(inside, size, strict=True)]
    return np.pad(scaled, around + [(0, 0)] * (scaled.ndim - 2), mode="symmetric")
