"""Names the colour of an object, in rendered frames and in generated, blurry ones."""

from __future__ import annotations

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS
from gen1_jax.errors import UserError
from gen1_jax.video.pixels import rgb_to_lab

# Shading and texture change lightness far more than chroma, so lightness counts less.
_LIGHTNESS_WEIGHT = 0.5
_MAX_PIXELS = 20_000


_NAMES = tuple(COLOURS)
_PALETTE = rgb_to_lab(np.array(list(COLOURS.values())))


def erode(mask: np.ndarray, times: int = 1) -> np.ndarray:
    """Removes `times` pixels from the edge of a mask [n h w]."""
    for _ in range(times):
        inner = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
        mask = (
            mask
            & inner[:, :-2, 1:-1]
            & inner[:, 2:, 1:-1]
            & inner[:, 1:-1, :-2]
            & inner[:, 1:-1, 2:]
        )
    return mask


def colour_of(frames: np.ndarray, mask: np.ndarray) -> tuple[str, dict[str, float]]:
    """Returns the palette colour that is nearest to the colour of a masked object.

    The object's colour is the trimmed mean in CIELAB over its mask without the edge, where
    neighbours bleed in.

    Args:
      frames: [n h w 3] uint8.
      mask: [n h w] bool, the object.

    Returns:
      The colour's name, and the distance to every palette colour, in weighted CIELAB units.

    Raises:
      UserError: the shapes do not match, or the mask is empty.
    """
    if frames.shape[:-1] != mask.shape:
        raise UserError(
            f"mask {mask.shape} does not fit frames {frames.shape}; [n h w] is accepted"
        )
    if not mask.any():
        raise UserError("the mask is empty; at least one pixel must be set")
    for times in (2, 1, 0):
        inner = erode(mask, times)
        if inner.sum() * 8 >= mask.sum():
            break
    pixels = frames[inner]
    lab = rgb_to_lab(pixels[:: 1 + len(pixels) // _MAX_PIXELS])
    middle = np.median(lab, axis=0)
    far = np.linalg.norm(lab - middle, axis=1)
    mean = lab[far <= np.quantile(far, 0.9)].mean(axis=0)
    weights = np.array([_LIGHTNESS_WEIGHT, 1.0, 1.0])
    distances = np.linalg.norm((mean - _PALETTE) * weights, axis=1)
    return _NAMES[int(distances.argmin())], {
        name: float(d) for name, d in zip(_NAMES, distances, strict=True)
    }
