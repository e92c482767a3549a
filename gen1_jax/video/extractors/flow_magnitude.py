"""How far each thing moves from frame to frame, by the optical flow of `gen1_jax/video/flow.py`."""

from collections.abc import Iterator

import numpy as np

from gen1_jax.video.flow import flow_of_pair, prepare_frame
from gen1_jax.video.streams import Stream


def measure_flow(frames: Stream) -> Iterator[np.ndarray]:
    """Yields ln(1 + pixels of motion) for frames `[H W 3]` uint8, as `[H W]` float32.

    The flow goes from a frame to the one before it; that of the first goes to the next. The
    logarithm keeps one fast thing from hiding all others. A single frame has none.
    """
    before = None
    for index, frame in enumerate(frames):
        grey, size = prepare_frame(frame), frame.shape[:2]
        if index == 0 and frames.count == 1:
            yield np.zeros(size, np.float32)
        elif index == 1:
            yield _magnitude(before, grey, size)
        if index > 0:
            yield _magnitude(grey, before, size)
        before = grey


def _magnitude(one: np.ndarray, other: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.log1p(np.linalg.norm(flow_of_pair(one, other, size), axis=-1))
