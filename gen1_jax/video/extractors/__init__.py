"""What makes structure maps of frames on the host, one extractor a file.

An extractor goes through the frames of a whole video, as often as it needs: first for what it has
to know of all of them, such as thresholds, which would flicker if each frame had its own. It yields
one map after another, so that memory does not grow with the video's length.
"""

from collections.abc import Callable, Iterator

import numpy as np

from gen1_jax.video.extractors.canny import draw_canny
from gen1_jax.video.extractors.flow_magnitude import measure_flow
from gen1_jax.video.extractors.scribbles import draw_scribbles
from gen1_jax.video.extractors.segments import colour_segments
from gen1_jax.video.streams import Stream

# Frames [H W 3] uint8 → grey maps [H W] float32, or maps in colours [H W 3] uint8.
EXTRACT: dict[str, Callable[[Stream], Iterator[np.ndarray]]] = {
    "canny": draw_canny,
    "scribbles": draw_scribbles,
    "segments": colour_segments,
    "flow": measure_flow,
}


def extract(name: str, frames: Stream) -> Stream:
    """Returns the maps of frames `[H W 3]` uint8; `EXTRACT` names the extractors."""
    return Stream(frames.count, lambda: EXTRACT[name](frames))


def extract_clip(name: str, frames: np.ndarray) -> np.ndarray:
    """Returns the maps of a clip `[n H W 3]` uint8: `[n H W]`, or in colours `[n H W 3]`."""
    return extract(name, Stream.of(frames)).array()
