"""Whether the output keeps the depth of the input."""

import numpy as np

Array = np.ndarray


def align_depth(pred: Array, target: Array) -> Array:
    """Returns a depth brought to another's scale and shift by least squares over the clip.

    Args:
      pred: `[b n h w]` estimated (inverse) depth, known up to scale and shift.
      target: `[b n h w]` the depth to align to.

    Returns:
      `[b n h w]`: a · pred + b, where each clip has its own a and b. A constant `pred` becomes the
      target's mean.
    """
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    pred_mean, target_mean = _clip_mean(pred), _clip_mean(target)
    variance = _clip_mean((pred - pred_mean) ** 2)
    covariance = _clip_mean((pred - pred_mean) * (target - target_mean))
    scale = np.where(variance > 1e-12, covariance / np.maximum(variance, 1e-12), 0.0)
    return scale * (pred - pred_mean) + target_mean


def structure_error(pred: Array, target: Array) -> Array:
    """Returns the RMSE after `align_depth`, in standard deviations of the target, `[b]`.

    0 means the same structure, 1 no better than the target's mean. The alignment allows a negative
    scale, so a depth turned inside out has no error; `structure_correlation` tells it apart. NaN:
    the target is constant.

    Args:
      pred: `[b n h w]`.
      target: `[b n h w]`.
    """
    target = np.asarray(target, np.float64)
    error = _clip_mean((align_depth(pred, target) - target) ** 2)
    variance = _clip_mean((target - _clip_mean(target)) ** 2)
    relative = np.sqrt(error / np.maximum(variance, 1e-12))
    return np.where(variance > 1e-12, relative, np.nan)[:, 0, 0, 0]


def structure_correlation(pred: Array, target: Array) -> Array:
    """Returns Pearson's correlation over the clip, `[b]`; 0 where either depth is constant.

    Args:
      pred: `[b n h w]`.
      target: `[b n h w]`.
    """
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    pred, target = pred - _clip_mean(pred), target - _clip_mean(target)
    covariance = (pred * target).sum((1, 2, 3))
    norm = np.sqrt((pred**2).sum((1, 2, 3)) * (target**2).sum((1, 2, 3)))
    return np.where(norm > 1e-9, covariance / np.maximum(norm, 1e-9), 0.0)


def depth_abs_rel(pred: Array, true: Array) -> Array:
    """Returns the mean of |d − d'| / d', with d the depth and d' the true one, `[b]`.

    It is AbsRel (Eigen et al. 2014) as MiDaS is measured (Ranftl et al. 2020): inverse depth is
    aligned by `align_depth`, then both are inverted, and no depth counts as more than the clip's
    farthest true one. NaN: there is no pixel of a positive true inverse depth.

    Args:
      pred: `[b n h w]` estimated inverse depth, up to scale and shift.
      true: `[b n h w]` the true inverse depth, in its true zero; pixels at infinity (0) are left
        out.
    """
    aligned, true, known = _aligned_to_truth(pred, true)
    return _known_mean(np.abs(true - aligned) / aligned, known)


def depth_accuracy(pred: Array, true: Array) -> Array:
    """Returns the share of pixels with max(d / d', d' / d) < 1.25, `[b]`.

    It is δ₁ of Eigen et al. 2014, after the alignment of `depth_abs_rel`.

    Args:
      pred: `[b n h w]` estimated inverse depth, up to scale and shift.
      true: `[b n h w]` the true inverse depth.
    """
    aligned, true, known = _aligned_to_truth(pred, true)
    ratio = np.maximum(aligned / true, true / aligned)
    return _known_mean((ratio < 1.25).astype(np.float64), known)


def _aligned_to_truth(pred: Array, true: Array) -> tuple[Array, Array, Array]:
    """Returns the aligned depth, the truth (1 where it is unknown), and where it is known."""
    true = np.asarray(true, np.float64)
    known = true > 1e-6
    nearest = np.where(known, true, np.inf).min((1, 2, 3), keepdims=True)
    least = np.where(np.isfinite(nearest), nearest, 1.0)
    aligned = np.maximum(align_depth(pred, true), least)
    return np.where(known, aligned, 1.0), np.where(known, true, 1.0), known


def _known_mean(values: Array, known: Array) -> Array:
    count = known.sum((1, 2, 3))
    total = np.where(known, values, 0.0).sum((1, 2, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _clip_mean(x: Array) -> Array:
    """Returns the mean over a clip, `[b n h w]` → `[b 1 1 1]`."""
    return x.mean((1, 2, 3), keepdims=True)
