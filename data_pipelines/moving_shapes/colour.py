"""Which of the eight colours an object is, in rendered frames and in generated, blurry ones."""

from __future__ import annotations

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS
from gen1_jax.errors import UserError

# Shading and texture change lightness far more than chroma, so lightness counts for less.
_LIGHTNESS_WEIGHT = 0.5
_MAX_PIXELS = 20_000


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB [... 3] in 0..255 to CIELAB [... 3] (D65)."""
    c = np.asarray(rgb, np.float32) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [
            116 * f[..., 1] - 16,
            500 * (f[..., 0] - f[..., 1]),
            200 * (f[..., 1] - f[..., 2]),
        ],
        axis=-1,
    )


_NAMES = tuple(COLOURS)
_PALETTE = to_lab(np.array(list(COLOURS.values())))


def erode(mask: np.ndarray, times: int = 1) -> np.ndarray:
    """Takes `times` pixels off the edge of mask [n h w]."""
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
    """The palette colour nearest to a masked object.

    The colour is the trimmed mean in CIELAB over the mask less its edge, where neighbours bleed in.

    Args:
        frames: [n h w 3] uint8.
        mask: [n h w] bool, the object.

    Returns:
        The name, and the distance to every palette colour (in weighted CIELAB units).

    Raises:
        UserError: shapes that do not match, or an empty mask.
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
    lab = to_lab(pixels[:: 1 + len(pixels) // _MAX_PIXELS])
    middle = np.median(lab, axis=0)
    far = np.linalg.norm(lab - middle, axis=1)
    mean = lab[far <= np.quantile(far, 0.9)].mean(axis=0)
    weights = np.array([_LIGHTNESS_WEIGHT, 1.0, 1.0])
    distances = np.linalg.norm((mean - _PALETTE) * weights, axis=1)
    return _NAMES[int(distances.argmin())], {
        name: float(d) for name, d in zip(_NAMES, distances, strict=True)
    }
