"""Whether the output moves as its source does, by optical flow (gen1_jax/video/flow.py).

The flow is that of OpenCV's DIS. Published figures for these measures come mostly of RAFT or of
point tracks, so they compare within this project only.
"""

import numpy as np

from gen1_jax.video.flow import Flow, find_motion_edges, warp

Array = np.ndarray

# Pixels that move less than this from frame to frame count as still. On rendered moving shapes of
# 64 pixels DIS sees still backgrounds move by 0.6 pixels, objects by 3.3.
STILL = 0.5


def warp_error(frames: Array, source_flow: Flow) -> Array:
    """Returns how far the output differs from itself one frame later, moved by the source, `[b]`.

    It is Lai et al. 2018 ("Learning blind video temporal consistency"): the mean squared difference
    of each frame and the next one, brought onto it by the flow of the source, over the pixels that
    are neither occluded nor at an edge of motion; values are in [0, 1]. Lai et al. take FlowNet2.
    NaN: one frame, or no pixel is left.

    An output that moves otherwise than its source is punished, however smooth it is, and blur is
    rewarded.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      source_flow: the flow of the source.
    """
    unit = np.asarray(frames, np.float32) / 255
    moved, _ = warp(unit[:, 1:], source_flow.forward)
    sure = ~(source_flow.occluded | find_motion_edges(source_flow.forward))
    squared = ((moved - unit[:, :-1]) ** 2).mean(-1, dtype=np.float64)
    return _nan_mean(_masked_mean(squared, sure, axes=(2, 3)))


def motion_fidelity(flow: Flow, source_flow: Flow, still: float = STILL) -> Array:
    """Returns the mean cosine of the output's motion and the source's, `[b]` from −1 to 1.

    It is taken where the source moves and is not occluded, weighted by the source's speed. Output
    that moves by less than `still` has a cosine that shrinks with its speed, to 0 at rest. NaN:
    nothing moves in the source.

    The motion fidelity of Yatim et al. 2024 ("Space-time diffusion features") compares point tracks
    over the whole clip, each with the most similar one of the other video, wherever that is. This
    one compares in place and frame by frame, so an object that moves alike elsewhere has none.

    Args:
      flow: the flow of the output.
      source_flow: the flow of the source.
      still: pixels a frame.
    """
    ours, theirs = (np.asarray(x.forward, np.float64) for x in (flow, source_flow))
    speed, moves = _speed_where_moving(source_flow, still)
    product = (ours * theirs).sum(-1)
    own = np.maximum(np.linalg.norm(ours, axis=-1), still)
    # The source's length cancels: weighted by it, the cosine is the product over the own length.
    return _ratio(np.where(moves, product / own, 0.0), speed)


def motion_error(flow: Flow, source_flow: Flow, still: float = STILL) -> Array:
    """Returns the end-point error of the output's flow, relative to the source's speed, `[b]`.

    It is the sum of |w − w'| over the sum of |w'|, with w' the source's flow, where the source
    moves and is not occluded: 0 is the same motion, 1 as far off as standing still. NaN: nothing
    moves in the source.

    Args:
      flow: the flow of the output.
      source_flow: the flow of the source.
      still: pixels a frame.
    """
    speed, moves = _speed_where_moving(source_flow, still)
    off = np.linalg.norm(np.asarray(flow.forward, np.float64) - source_flow.forward, axis=-1)
    return _ratio(np.where(moves, off, 0.0), speed)


# ---- shared steps


def _speed_where_moving(source_flow: Flow, still: float) -> tuple[Array, Array]:
    """Returns the source's speed, 0 where it stands still or is occluded, and where it moves."""
    speed = np.linalg.norm(np.asarray(source_flow.forward, np.float64), axis=-1)
    moves = (speed >= still) & ~source_flow.occluded
    return np.where(moves, speed, 0.0), moves


def _ratio(values: Array, weights: Array) -> Array:
    """Returns the sum of values over that of weights, `[b n h w]` → `[b]`; NaN for no weight."""
    total = weights.sum((1, 2, 3))
    return np.where(total > 0, values.sum((1, 2, 3)) / np.where(total > 0, total, 1), np.nan)


def _masked_mean(values: Array, where: Array, axes: tuple[int, ...]) -> Array:
    """Returns the mean of the chosen values over axes; NaN where none is chosen."""
    count = where.sum(axes)
    total = np.where(where, values, 0.0).sum(axes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _nan_mean(values: Array) -> Array:
    """Returns the mean over the frames that have a value, `[b n]` → `[b]`; NaN where none has."""
    return _masked_mean(np.nan_to_num(values), np.isfinite(values), axes=(1,))
