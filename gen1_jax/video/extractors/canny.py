"""Canny's edges (1986) by OpenCV: thin lines, 1 on an edge and 0 elsewhere."""

from collections.abc import Iterator

import numpy as np

from gen1_jax.video.opencv import opencv
from gen1_jax.video.streams import Stream

# The stronger threshold is this quantile of all gradients of the video, the weaker one a share of
# it. One pair of thresholds for all frames: with their own, lines would come and go.
_QUANTILE, _WEAKER = 0.9, 0.4
# A stronger threshold is no lower: there lie the gradients of noise, which a blur divides.
_LEAST = 40
_MOST = 2048  # above any gradient of 8 bits: 1020 along each axis


def draw_canny(frames: Stream) -> Iterator[np.ndarray]:
    """Yields the edges of frames `[H W 3]` uint8 as `[H W]` float32."""
    for lines in find_lines(frames, blur=1.0):
        yield lines.astype(np.float32)


def find_lines(frames: Stream, blur: float) -> Iterator[np.ndarray]:
    """Yields Canny's edges `[H W]` bool.

    Args:
      frames: `[H W 3]` uint8.
      blur: standard deviation, in pixels, of the blur that goes before.
    """
    cv2 = opencv()
    counts = np.zeros(_MOST, np.int64)
    for frame in frames:
        across, down = _gradients(_smooth(frame, blur))
        counts += np.bincount(np.hypot(across, down).astype(int).ravel(), minlength=_MOST)
    stronger = max(
        _LEAST / max(1.0, blur), int(np.searchsorted(np.cumsum(counts), _QUANTILE * counts.sum()))
    )
    for frame in frames:
        gradients = _gradients(_smooth(frame, blur))
        yield cv2.Canny(*gradients, _WEAKER * stronger, stronger, L2gradient=True) > 0


def _smooth(frame: np.ndarray, blur: float) -> np.ndarray:
    cv2 = opencv()
    return cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (0, 0), blur)


def _gradients(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cv2 = opencv()
    return cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)
