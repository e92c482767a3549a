"""Windows over a video that is longer than the clips a model takes, and their fusion.

Each step of sampling predicts all windows, and takes the weighted mean where they overlap (as
MultiDiffusion does over a wide picture, Bar-Tal et al. 2302.08113). All windows therefore share one
state, which is decoded once, and no window is the continuation of another.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen1_jax.errors import UserError


class Windows(NamedTuple):
    """Clips that cover a video.

    Attributes:
      frames: the index of each frame of each window, [k n] int32.
      weights: how much a window's prediction counts at each of its frames, [k n] float32. At each
        frame of the video the weights sum to 1.
    """

    frames: np.ndarray
    weights: np.ndarray


def place_windows(count: int, length: int, overlap: int, stride: int = 1) -> Windows:
    """Places windows evenly, so that the first begins with the video and the last ends with it.

    With a stride, a window takes every stride-th frame, as far apart as clips were in training. The
    frames between belong to further windows, which begin a frame later.

    Args:
      count: frames of the video.
      length: frames of a window; a shorter video is one window.
      overlap: frames that consecutive windows share at least.
      stride: frames of the video from one frame of a window to the next; a video that is too short
        for it is taken closer together.

    Raises:
      UserError: the overlap is negative, or not below the length.
    """
    if not 0 <= overlap < length:
        raise UserError(f"an overlap of {overlap} frames; 0 to {length - 1} are accepted")
    length = min(length, count)
    overlap = min(overlap, length - 1)
    stride = max(1, min(stride, count // length))
    frames = []
    for phase in range(stride):
        own = np.arange(phase, count, stride)
        number = -(-(len(own) - length) // (length - overlap)) + 1
        starts = np.linspace(0, len(own) - length, number).round().astype(int)
        frames += [own[start : start + length] for start in starts]
    frames = np.stack(frames).astype(np.int32)
    place = np.arange(1, length + 1)
    weights = np.broadcast_to(np.minimum(place, place[::-1]), frames.shape).astype(np.float64)
    sums = np.zeros(count)
    np.add.at(sums, frames, weights)
    return Windows(frames, (weights / sums[frames]).astype(np.float32))


def touching(windows: Windows, wanted: np.ndarray) -> tuple[Windows, np.ndarray]:
    """Returns the windows that hold any wanted frame, over the frames that they hold.

    Args:
      windows: over a video of n frames.
      wanted: [n] bool.

    Returns:
      The windows, with new numbers for the frames that are left, and the old numbers of those, [m].
      Weights are as before, so they sum to 1 at each wanted frame.
    """
    is_part = wanted[windows.frames].any(axis=1)
    frames = windows.frames[is_part]
    left = np.unique(frames)
    numbers = np.searchsorted(left, frames).astype(np.int32)
    return Windows(numbers, windows.weights[is_part]), left


def in_batches(values: np.ndarray, size: int, batches: int) -> np.ndarray:
    """Returns what belongs to windows, [k ...], as [batches size ...], filled up with zeros."""
    filled = np.zeros((batches * size, *values.shape[1:]), values.dtype)
    filled[: len(values)] = values
    return filled.reshape(batches, size, *values.shape[1:])


def fuse(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    z: jax.Array,
    windows: Windows,
    count: jax.Array,
) -> jax.Array:
    """Returns the prediction for all frames.

    Args:
      predict: (i, z of a batch of windows [k n h w 4]) → their prediction.
      z: [f h w 4], of all frames.
      windows: in batches, [m k n].
      count: the number of batches that hold windows, at most m.

    Returns:
      [f h w 4] float32; 0 at frames that no window holds.
    """

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        frames, weights = windows.frames[i], windows.weights[i]
        weighted = weights[..., None, None, None] * predict(i, z[frames])
        return total.at[frames].add(weighted)

    return jax.lax.fori_loop(0, count, add, jnp.zeros(z.shape, jnp.float32))
