"""Segments: regions of like colour, each of which gets a colour of a palette.

Frames are smoothed by mean shift (Comaniciu and Meer 2002), which keeps edges. Their colours are
then told apart by k-means over the whole video, so that a region has one colour in all frames. The
palette says nothing of the look of the source: regions are numbered by their brightness alone.
"""

from collections.abc import Iterator

import numpy as np

from gen1_jax.video.opencv import opencv
from gen1_jax.video.streams import Stream

PALETTE = np.array(
    [[70, 70, 200], [220, 60, 60], [60, 180, 75], [240, 200, 40], [70, 200, 220], [235, 235, 235]],
    np.uint8,
)  # as many as there are clusters, dark regions first
_SIDE = 128  # frames with a longer shorter side are smoothed at this one, which is ten times faster
_REACH = 1 / 32  # of mean shift, in shares of the shorter side
_ALIKE = 24  # grey levels up to which mean shift takes colours for one
_APART = 15  # distance in Lab from which on clusters are two
_SAMPLED_FRAMES, _SAMPLED_PIXELS = 16, 1024  # for k-means: frames, and pixels of each


def colour_segments(frames: Stream) -> Iterator[np.ndarray]:
    """Yields the segments of frames `[H W 3]` uint8 in colours, `[H W 3]` uint8."""
    centres = _find_centres(frames)
    for frame in frames:
        lab = _smooth(frame)
        distances = np.square(lab[:, :, None] - centres).sum(-1)
        labels = opencv().medianBlur(distances.argmin(-1).astype(np.uint8), 3)
        yield PALETTE[labels]


def _find_centres(frames: Stream) -> np.ndarray:
    """Returns the colours that regions have, `[k 3]` in Lab, dark ones first."""
    cv2 = opencv()
    every, sampled = max(1, -(-frames.count // _SAMPLED_FRAMES)), []
    for index, frame in enumerate(frames):
        if index % every == 0:
            pixels = _smooth(frame).reshape(-1, 3)
            sampled.append(pixels[:: max(1, len(pixels) // _SAMPLED_PIXELS)])
    pixels = np.concatenate(sampled)
    # The start follows from the pixels, so that the same video always has the same segments.
    ranks = np.argsort(np.argsort(pixels[:, 0], kind="stable"), kind="stable")
    labels = (ranks * len(PALETTE) // len(pixels)).astype(np.int32)[:, None]
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.1)
    _, _, found = cv2.kmeans(pixels, len(PALETTE), labels, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    kept: list[np.ndarray] = []
    for centre in found[np.argsort(found[:, 0], kind="stable")]:
        if all(np.linalg.norm(centre - other) >= _APART for other in kept):
            kept.append(centre)
    return np.stack(kept)


def _smooth(frame: np.ndarray) -> np.ndarray:
    """Returns a frame without texture, in Lab `[H W 3]` float32."""
    cv2, size = opencv(), frame.shape[1::-1]
    factor = _SIDE / min(size)
    if factor < 1:
        frame = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    reach = max(2, round(_REACH * min(frame.shape[:2])))
    smooth = cv2.pyrMeanShiftFiltering(np.ascontiguousarray(frame), reach, _ALIKE, maxLevel=0)
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab if factor >= 1 else cv2.resize(lab, size, interpolation=cv2.INTER_LINEAR)
