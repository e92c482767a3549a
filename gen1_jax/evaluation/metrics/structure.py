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
    scale, so a depth turned inside out has no error; `structure_correlation` tells it apart.

    Args:
      pred: `[b n h w]`.
      target: `[b n h w]`.
    """
    target = np.asarray(target, np.float64)
    error = _clip_mean((align_depth(pred, target) - target) ** 2)
    variance = _clip_mean((target - _clip_mean(target)) ** 2)
    return np.sqrt(error / np.maximum(variance, 1e-12))[:, 0, 0, 0]


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


def _clip_mean(x: Array) -> Array:
    """Returns the mean over a clip, `[b n h w]` → `[b 1 1 1]`."""
    return x.mean((1, 2, 3), keepdims=True)
