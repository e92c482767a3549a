"""Whether an edit became what it should, by the truth of the moving-shapes world."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import label

Array = np.ndarray


def is_right(found: Sequence[str], wanted: Sequence[str]) -> Array:
    """Returns 1 where an edit shows what it should, else 0, `[b]`."""
    return np.array([float(f == w) for f, w in zip(found, wanted, strict=True)])


def success(
    values: Mapping[str, str],
    by_frame: Mapping[str, Sequence[str | None]],
    wanted: Mapping[str, str],
    source: Mapping[str, str],
) -> float:
    """Returns 1 if all that was asked for is there and what it replaces is in no frame, else 0.

    Args:
      values: attribute → what the edit shows.
      by_frame: attribute → what each of its frames shows; None where that cannot be told.
      wanted: attribute → what was asked for. NaN is returned if that is nothing.
      source: attribute → what the source shows.
    """
    if not wanted:
        return np.nan
    return float(
        all(
            values[name] == value and (value == source[name] or source[name] not in by_frame[name])
            for name, value in wanted.items()
        )
    )


def mask_iou(masks: Array, wanted: Array) -> Array:
    """Returns the overlap of the object that is seen and the one that should be, `[b]`.

    NaN: no object should be seen.

    Args:
      masks: `[b n h w]` bool.
      wanted: `[b n h w]` bool.
    """
    shared, either = (masks & wanted).sum((1, 2, 3)), (masks | wanted).sum((1, 2, 3))
    return np.where(wanted.any((1, 2, 3)), shared / np.maximum(either, 1), np.nan)


def path_error(masks: Array, wanted: Array) -> Array:
    """Returns how far the object lies from its true place, the mean over frames, `[b]`.

    The object is the largest connected patch that looks like it. Its distance is that of its
    centroid and the true one, in units of the object's size, the root of its true area. Frames in
    which the object is not seen, or should not be, do not count. NaN: no frame counts; `mask_iou`
    is 0 then.

    Args:
      masks: `[b n h w]` bool, the pixels that look like the object.
      wanted: `[b n h w]` bool.
    """
    found = []
    for seen, true in zip(masks, wanted, strict=True):
        distances = [
            np.linalg.norm(_centroid(_largest_patch(s)) - _centroid(t)) / np.sqrt(t.sum())
            for s, t in zip(seen, true, strict=True)
            if s.any() and t.any()
        ]
        found.append(np.mean(distances) if distances else np.nan)
    return np.array(found, np.float64)


def _largest_patch(where: Array) -> Array:
    """Returns the largest connected part of what is marked, `[h w]` bool."""
    parts, _ = label(where)
    return parts == np.bincount(parts[where]).argmax()


def _centroid(where: Array) -> Array:
    """Returns the mean (row, column) of what is marked, `[h w]` bool → `[2]`."""
    return np.argwhere(where).mean(0)
