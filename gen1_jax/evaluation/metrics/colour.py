"""Whether colours flicker."""

import numpy as np

from gen1_jax.video.pixels import rgb_to_lab

Array = np.ndarray


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


def _change(frames: Array) -> Array:
    """Returns the Lab distance of each pixel to the frame before, `[b n h w 3]` → `[b n-1 h w]`."""
    lab = rgb_to_lab(frames)
    return np.linalg.norm(lab[:, 1:] - lab[:, :-1], axis=-1)
