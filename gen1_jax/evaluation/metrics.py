"""The measures of an edit: pure functions on the host.

Frame consistency and prompt consistency are the paper's (section 4). The others ask what the two
do not: whether the output keeps the depth of the input, whether the object stays in its place and
takes the colour asked for, and whether colours flicker.

Each measure takes a batch of clips and returns one number per clip, `[b]` float64. statistics.py
has the confidence intervals of their means, and comparisons of two settings.
"""

import numpy as np

from gen1_jax.video.pixels import rgb_to_lab

Array = np.ndarray

# A pixel has a colour if it lies within this distance in Lab, with lightness counted half, because
# shading changes lightness most. On rendered moving shapes an object's mask and the pixels of its
# own colour have an IoU of 0.79, with another colour 0.03 (60 clips, 8 colours, 7 others each).
COLOUR_THRESHOLD = 35.0
_LIGHTNESS_WEIGHT = 0.5


# ---- CLIP


def frame_consistency(embeddings: Array) -> Array:
    """Returns the mean cosine of the CLIP embeddings of consecutive frames, `[b]`.

    Args:
      embeddings: `[b n d]`, one for each frame, n >= 2.
    """
    unit = _normalised(embeddings)
    if unit.ndim != 3 or unit.shape[1] < 2:
        raise ValueError(f"[b n d] with n >= 2 wanted, not {unit.shape}")
    return np.sum(unit[:, 1:] * unit[:, :-1], axis=-1).mean(axis=-1)


def prompt_consistency(image_embeddings: Array, text_embeddings: Array) -> Array:
    """Returns the mean cosine of the prompt's CLIP embedding and that of each frame, `[b]`.

    Args:
      image_embeddings: `[b n d]`, one for each frame.
      text_embeddings: `[b d]`, one for each prompt.
    """
    images, texts = _normalised(image_embeddings), _normalised(text_embeddings)
    return np.einsum("bnd,bd->bn", images, texts).mean(-1)


# ---- structure


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


# ---- colour


def mask_iou(frames: Array, mask: Array, rgb: Array, threshold: float = COLOUR_THRESHOLD) -> Array:
    """Returns the IoU of the object's mask and the pixels of the colour asked for, `[b]`.

    It is high if the object stays where it was and takes that colour. Whatever else has the colour
    counts too, the background included: use it where the colour is new to the scene.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      mask: `[b n h w]` bool, the object in the source.
      rgb: `[b 3]` (or `[3]`) uint8, the colour asked for.
      threshold: distance in Lab, with lightness counted half.
    """
    mask = np.asarray(mask, bool)
    wanted = np.broadcast_to(np.asarray(rgb), (len(mask), 3))
    lab = rgb_to_lab(wanted)[:, None, None, None]
    difference = (rgb_to_lab(frames) - lab) * (_LIGHTNESS_WEIGHT, 1, 1)
    coloured = np.linalg.norm(difference, axis=-1) < threshold
    shared, either = (coloured & mask).sum((1, 2, 3)), (coloured | mask).sum((1, 2, 3))
    return shared / np.maximum(either, 1)


def flicker(frames: Array, source: Array, still: float = 2.0) -> Array:
    """Returns how much colours waver where the source stands still, `[b]` in Lab units.

    It is the mean Lab distance between consecutive frames of the output, less that of the source,
    over the pixels whose source changes by less than `still`: motion is no flicker. A clip without
    any still pixel gives NaN.

    Args:
      frames: `[b n h w 3]` uint8, the output, n >= 2.
      source: `[b n h w 3]` uint8, the video that it was made from.
      still: distance in Lab.
    """
    change, before = _change(frames), _change(source)
    where = before < still
    count = where.sum((1, 2, 3))
    excess = (np.where(where, change - before, 0.0)).sum((1, 2, 3))
    return np.where(count > 0, excess / np.maximum(count, 1), np.nan)


# ---- shared steps


def _normalised(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _clip_mean(x: Array) -> Array:
    """Returns the mean over a clip, `[b n h w]` → `[b 1 1 1]`."""
    return x.mean((1, 2, 3), keepdims=True)


def _change(frames: Array) -> Array:
    """Returns the Lab distance of each pixel to the frame before, `[b n h w 3]` → `[b n-1 h w]`."""
    lab = rgb_to_lab(frames)
    return np.linalg.norm(lab[:, 1:] - lab[:, :-1], axis=-1)
