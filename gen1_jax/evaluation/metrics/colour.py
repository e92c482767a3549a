"""Whether the object takes the colour asked for in its place, and whether colours flicker."""

import numpy as np

from gen1_jax.video.pixels import rgb_to_lab

Array = np.ndarray

# A pixel has a colour if it lies within this distance in Lab, with lightness counted half, because
# shading changes lightness most. On rendered moving shapes an object's mask and the pixels of its
# own colour have an IoU of 0.79, with another colour 0.03 (60 clips, 8 colours, 7 others each).
COLOUR_THRESHOLD = 35.0
_LIGHTNESS_WEIGHT = 0.5


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


def _change(frames: Array) -> Array:
    """Returns the Lab distance of each pixel to the frame before, `[b n h w 3]` → `[b n-1 h w]`."""
    lab = rgb_to_lab(frames)
    return np.linalg.norm(lab[:, 1:] - lab[:, :-1], axis=-1)
