"""Scribbles: thick smooth lines along the long edges, as a hand would draw them."""

from collections.abc import Iterator

import numpy as np

from gen1_jax.video.extractors.canny import find_lines
from gen1_jax.video.opencv import opencv
from gen1_jax.video.streams import Stream

_SIDE = 96  # pixels of the shorter side at which lines are found; finer details are no outlines
_BLUR = 1.5  # pixels there
_LENGTH = 1 / 5  # lines that are shorter than this share of the shorter side are left out
_WIDTH = 1 / 32  # of a line, in shares of the shorter side


def draw_scribbles(frames: Stream) -> Iterator[np.ndarray]:
    """Yields scribbles of frames `[H W 3]` uint8: `[H W]` float32, 1 on a line and 0 elsewhere."""
    cv2 = opencv()
    size = next(iter(frames)).shape[:2]
    factor = min(1.0, _SIDE / min(size))
    small = [max(1, round(side * factor)) for side in size]
    width = max(2, round(_WIDTH * min(small)))
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))

    def shrink(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, small[::-1], interpolation=cv2.INTER_AREA)

    for lines in find_lines(frames.map(shrink), _BLUR):
        _, labels, found, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8))
        extent = np.hypot(found[:, cv2.CC_STAT_WIDTH], found[:, cv2.CC_STAT_HEIGHT])
        is_long = extent >= _LENGTH * min(small)
        is_long[0] = False  # what is no line
        thick = cv2.dilate(is_long[labels].astype(np.float32), pen)
        smooth = cv2.GaussianBlur(thick, (0, 0), width / 3)
        smooth = cv2.resize(smooth, size[::-1], interpolation=cv2.INTER_LINEAR)
        yield (smooth > 0.5).astype(np.float32)
