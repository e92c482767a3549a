"""The measures of an edit, and how sure one may be of them. Pure functions of arrays, on the host.

Paper, section 4: frame consistency (cosine of CLIP image embeddings of consecutive frames), prompt
consistency (cosine of the CLIP text embedding and each frame's image embedding). Added here: does
the output keep the input's depth, does the object keep its mask and take the colour asked for, and
does a colour flicker.

Measures of a batch take `[b ...]` and give one number per clip, `[b]` float64; average them with
`confidence_interval`, compare two settings on the same clips with `paired_interval`.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from gen1_jax.video.pixels import rgb_to_lab

Array = np.ndarray

# A pixel has a colour within this distance in Lab, lightness counted half (shading changes it
# most). On moving shapes as rendered, an object's mask and its own colour's pixels have an IoU of
# 0.79, with another colour's 0.03 (60 clips, 8 colours, 7 others each).
COLOUR_THRESHOLD = 35.0
_LIGHTNESS_WEIGHT = 0.5


# --- CLIP -----------------------------------------------------------------------------------------


def frame_consistency(embeddings: Array) -> Array:
    """`[b n d]` image embeddings of frames -> `[b]`: mean cosine of consecutive frames, n >= 2."""
    unit = _normalised(embeddings)
    if unit.ndim != 3 or unit.shape[1] < 2:
        raise ValueError(f"[b n d] with n >= 2 wanted, not {unit.shape}")
    return np.sum(unit[:, 1:] * unit[:, :-1], axis=-1).mean(axis=-1)


def prompt_consistency(image_embeds: Array, text_embeds: Array) -> Array:
    """`[b n d]` frames, `[b d]` prompts -> `[b]`: mean cosine of the prompt and each frame."""
    return np.einsum("bnd,bd->bn", _normalised(image_embeds), _normalised(text_embeds)).mean(-1)


# --- structure ------------------------------------------------------------------------------------


def align_depth(pred: Array, target: Array, mask: Array | None = None) -> Array:
    """Brings a relative depth to the target's scale and shift by least squares over the clip.

    Args:
        pred: `[b n h w]` estimated (inverse) depth, known up to scale and shift.
        target: `[b n h w]`.
        mask: `[b n h w]`, True where `target` is known; everywhere by default.

    Returns:
        `[b n h w]`: a pred + b, with a and b of each clip. A constant `pred` becomes the mean.
    """
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    weight = np.ones_like(pred) if mask is None else np.asarray(mask, np.float64)
    axes = (1, 2, 3)
    total = np.maximum(weight.sum(axes, keepdims=True), 1e-12)

    def mean(x: Array) -> Array:
        return (weight * x).sum(axes, keepdims=True) / total

    pred_mean, target_mean = mean(pred), mean(target)
    variance = mean((pred - pred_mean) ** 2)
    covariance = mean((pred - pred_mean) * (target - target_mean))
    scale = np.where(variance > 1e-12, covariance / np.maximum(variance, 1e-12), 0.0)
    return scale * (pred - pred_mean) + target_mean


def structure_error(pred: Array, target: Array, mask: Array | None = None) -> Array:
    """`[b n h w]` twice -> `[b]`: RMSE after `align_depth`, in standard deviations of the target.

    0 is the same structure, 1 is no better than the target's mean. A scale below zero is allowed,
    so a depth turned inside out scores well here; `structure_correlation` tells it apart.
    """
    target = np.asarray(target, np.float64)
    weight = np.ones_like(target) if mask is None else np.asarray(mask, np.float64)
    total = np.maximum(weight.sum((1, 2, 3)), 1e-12)
    error = (weight * (align_depth(pred, target, mask) - target) ** 2).sum((1, 2, 3)) / total
    mean = (weight * target).sum((1, 2, 3)) / total
    variance = (weight * (target - mean[:, None, None, None]) ** 2).sum((1, 2, 3)) / total
    return np.sqrt(error / np.maximum(variance, 1e-12))


def structure_correlation(pred: Array, target: Array, mask: Array | None = None) -> Array:
    """`[b n h w]` twice -> `[b]`: Pearson correlation over the clip, 0 where either is constant."""
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    weight = np.ones_like(pred) if mask is None else np.asarray(mask, np.float64)
    total = np.maximum(weight.sum((1, 2, 3), keepdims=True), 1e-12)
    pred = pred - (weight * pred).sum((1, 2, 3), keepdims=True) / total
    target = target - (weight * target).sum((1, 2, 3), keepdims=True) / total
    covariance = (weight * pred * target).sum((1, 2, 3))
    norm = np.sqrt((weight * pred**2).sum((1, 2, 3)) * (weight * target**2).sum((1, 2, 3)))
    return np.where(norm > 1e-9, covariance / np.maximum(norm, 1e-9), 0.0)


# --- colour ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColourMask:
    """How the pixels of a colour lie to an object's mask; each `[b]`, from 0 to 1.

    Attributes:
        coverage: share of the mask that has the colour.
        leak: share of the pixels outside the mask that have it.
        iou: of the mask and the coloured pixels.
    """

    coverage: Array
    leak: Array
    iou: Array


def mask_colour_iou(
    frames: Array, mask: Array, rgb: Array, threshold: float = COLOUR_THRESHOLD
) -> ColourMask:
    """Does the object stay where it was, in the colour asked for?

    `leak` counts whatever else has that colour, the background too: use it where the colour is new
    to the scene.

    Args:
        frames: `[b n h w 3]` uint8, the output.
        mask: `[b n h w]` bool, the source's object.
        rgb: `[b 3]` (or `[3]`) uint8, the colour asked for.
        threshold: Lab distance, lightness counted half.
    """
    mask = np.asarray(mask, bool)
    wanted = np.broadcast_to(np.asarray(rgb), (len(mask), 3))
    lab = rgb_to_lab(wanted)[:, None, None, None]
    difference = (rgb_to_lab(frames) - lab) * (_LIGHTNESS_WEIGHT, 1, 1)
    coloured = np.linalg.norm(difference, axis=-1) < threshold

    def share(part: Array, whole: Array) -> Array:
        return part.sum((1, 2, 3)) / np.maximum(whole.sum((1, 2, 3)), 1)

    return ColourMask(
        coverage=share(coloured & mask, mask),
        leak=share(coloured & ~mask, ~mask),
        iou=share(coloured & mask, coloured | mask),
    )


def flicker(frames: Array, source: Array | None = None, still: float = 2.0) -> Array:
    """How much colours waver where the *source* stands still: `[b n h w 3]` -> `[b]`, Lab units.

    The mean Lab distance between consecutive frames of the output, over the pixels whose source
    changes by less than `still` Lab units between these frames: motion is no flicker, and what the
    source itself wavers there is subtracted. Without `source` every pixel counts. A pair of frames
    without a still pixel counts nothing; a clip without any gives NaN.

    Args:
        frames: the output, uint8, n >= 2.
        source: the input it was made from, `[b n h w 3]` uint8.
        still: Lab distance.
    """
    change = _change(frames)
    if source is None:
        return change.mean((1, 2, 3))
    before = _change(source)
    where = before < still
    count = where.sum((1, 2, 3))
    excess = (np.where(where, change - before, 0.0)).sum((1, 2, 3))
    return np.where(count > 0, excess / np.maximum(count, 1), np.nan)


# --- how sure -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval: `low`, `high` by bootstrap, `half_width` by the normal
    approximation (1.96 standard errors at 95 %), over `count` clips."""

    mean: float
    low: float
    high: float
    half_width: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}] (n = {self.count})"


def confidence_interval(
    values: Array, level: float = 0.95, seed: int = 0, resamples: int = 4000
) -> Interval:
    """The mean of `values [b]` and where it may lie. NaNs are left out; one value has no width.

    Args:
        values: one number per independent clip.
        level: e.g. 0.95.
        seed: of the bootstrap; the same values give the same interval.
        resamples: of the bootstrap (percentile method).
    """
    values = np.asarray(values, np.float64).ravel()
    values = values[~np.isnan(values)]
    count = len(values)
    if count == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    if count == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    generator = np.random.default_rng(seed)
    means = np.concatenate(  # in blocks: an evaluation may have many thousand clips
        [
            values[generator.integers(0, count, (min(200, resamples - first), count))].mean(1)
            for first in range(0, resamples, 200)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    z = NormalDist().inv_cdf(1 - tail)
    half_width = z * values.std(ddof=1) / np.sqrt(count)
    return Interval(mean, float(low), float(high), float(half_width), count)


def paired_interval(a: Array, b: Array, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean of `b - a`, both `[b]` over the *same* clips in the same order.

    Clips differ far more among each other than two settings on one clip do: a trend is judged by
    this interval (all above zero: it rises), not by whether two intervals overlap.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values are of one shape, not {a.shape} and {b.shape}")
    return confidence_interval(b - a, level, seed)


# --- parts ----------------------------------------------------------------------------------------


def _normalised(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _change(frames: Array) -> Array:
    """`[b n h w 3]` uint8 -> `[b n-1 h w]`, Lab distance to the frame before."""
    lab = rgb_to_lab(frames)
    return np.linalg.norm(lab[:, 1:] - lab[:, :-1], axis=-1)
