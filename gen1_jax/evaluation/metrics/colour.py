"""Whether the object takes the colour asked for in its place, and whether colours flicker."""

import numpy as np
from scipy.ndimage import label

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
    counts too, the background included: use it where the colour is new to the scene. NaN: the mask
    is empty.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      mask: `[b n h w]` bool, the object in the source.
      rgb: `[b 3]` (or `[3]`) uint8, the colour asked for.
      threshold: distance in Lab, with lightness counted half.
    """
    mask, coloured = np.asarray(mask, bool), _coloured(frames, rgb, threshold)
    shared, either = (coloured & mask).sum((1, 2, 3)), (coloured | mask).sum((1, 2, 3))
    return np.where(mask.any((1, 2, 3)), shared / np.maximum(either, 1), np.nan)


def path_error(
    frames: Array, mask: Array, rgb: Array, threshold: float = COLOUR_THRESHOLD
) -> Array:
    """Returns how far the object lies from its true place, the mean over frames, `[b]`.

    The object is the largest connected patch of the colour asked for. Its distance is that of its
    centroid and the mask's, in units of the object's size, the root of the mask's area. Frames
    without the object, or in which nothing has the colour, do not count. NaN: no frame counts;
    `mask_iou` is 0 then.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      mask: `[b n h w]` bool, the object in the source.
      rgb: `[b 3]` (or `[3]`) uint8, the colour asked for.
      threshold: distance in Lab, with lightness counted half.
    """
    mask, coloured = np.asarray(mask, bool), _coloured(frames, rgb, threshold)
    found = []
    for masks, patches in zip(mask, coloured, strict=True):
        distances = [
            np.linalg.norm(_centroid(_largest_patch(patch)) - _centroid(true)) / np.sqrt(true.sum())
            for true, patch in zip(masks, patches, strict=True)
            if true.any() and patch.any()
        ]
        found.append(np.mean(distances) if distances else np.nan)
    return np.array(found, np.float64)


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


def _coloured(frames: Array, rgb: Array, threshold: float) -> Array:
    """Returns which pixels have a colour, `[b n h w]` bool."""
    wanted = np.broadcast_to(np.asarray(rgb), (len(frames), 3))
    lab = rgb_to_lab(wanted)[:, None, None, None]
    difference = (rgb_to_lab(frames) - lab) * (_LIGHTNESS_WEIGHT, 1, 1)
    return np.linalg.norm(difference, axis=-1) < threshold


def _largest_patch(where: Array) -> Array:
    """Returns the largest connected part of what is marked, `[h w]` bool."""
    parts, _ = label(where)
    return parts == np.bincount(parts[where]).argmax()


def _centroid(where: Array) -> Array:
    """Returns the mean (row, column) of what is marked, `[h w]` bool → `[2]`."""
    return np.argwhere(where).mean(0)


def _change(frames: Array) -> Array:
    """Returns the Lab distance of each pixel to the frame before, `[b n h w 3]` → `[b n-1 h w]`."""
    lab = rgb_to_lab(frames)
    return np.linalg.norm(lab[:, 1:] - lab[:, :-1], axis=-1)
