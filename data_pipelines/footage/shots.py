"""Where a video's shots begin: PySceneDetect fed with pictures that were decoded here.

Two of its detectors look at the change from picture to picture (mean difference of hue, saturation
and value, 0..255), and either may call a cut: `AdaptiveDetector`, where the change is at least
`RATIO` times that of the two pictures before and after, so that fast motion is no cut; and
`ContentDetector`, where it is beyond what motion makes, so that a cut amid fast motion is one. A
cut too many costs a few frames; a cut missed puts two scenes into one clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from gen1_jax.video.sources import Picture

RATIO = 2.5  # PySceneDetect's 3 misses cuts from or to motion
LEAST_CHANGE = 8.0  # PySceneDetect's 15 misses cuts between dark or pale scenes
SURE_CHANGE = 35.0  # PySceneDetect's 27 takes fast motion for cuts
SIDE = 160  # pixels; the longer side of what is compared
_REACH = 2  # pictures that AdaptiveDetector looks ahead
_RATE = Fraction(25)  # of no consequence: pictures are counted


def mark_cuts(
    pictures: Iterator[tuple[Picture, int, int]],
) -> Iterator[tuple[Picture, int, int, bool]]:
    """Adds to each picture whether a shot begins with it; comes two pictures late.

    Args:
        pictures: with the slots they fill, as `video_sources.on_grid` gives them.

    A picture after a gap, or of another size than the one before, begins a shot too.
    """
    stretch = None  # of pictures that can be compared

    for picture, begin, end in pictures:
        image = np.ascontiguousarray(picture.thumbnail(SIDE)[..., ::-1])  # BGR
        begins = stretch is None or picture.follows_gap or image.shape != stretch.shape
        if begins:
            yield from stretch.finish() if stretch else ()
            stretch = _Stretch(image.shape)
        yield from stretch.add((picture, begin, end), image)
    yield from stretch.finish() if stretch else ()


class _Stretch:
    """Pictures of one size without a gap, put before the detectors in order.

    Beyond both ends the pictures are taken to go back again, so that motion there is no cut, and a
    cut in the first or last two pictures is found as any other.
    """

    def __init__(self, shape: tuple[int, ...]):
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        self.shape = shape
        self._detectors = [
            AdaptiveDetector(
                adaptive_threshold=RATIO,
                min_content_val=LEAST_CHANGE,
                min_scene_len=0,
                window_width=_REACH,
            ),
            ContentDetector(threshold=SURE_CHANGE, min_scene_len=0),
        ]
        self._waiting: deque = deque()  # added and not yet given back
        self._recent: deque[np.ndarray] = deque(maxlen=_REACH + 1)
        self._seen: int = 0  # by the detectors
        self._next: int | None = None  # the detectors' number of the first that waits
        self._first: int = 0
        self._cuts: set[int] = set()

    def add(self, item: tuple, image: np.ndarray) -> Iterator[tuple]:
        self._waiting.append(item)
        self._recent.append(image)
        if self._next is not None:
            self._look(image)
        elif len(self._recent) > _REACH:
            self._start()
        yield from self._drain(_REACH)

    def finish(self) -> Iterator[tuple]:
        if self._next is None:
            self._start()
        back = list(self._recent)[-2::-1]
        for image in (*back, *_REACH * [self._recent[-1]])[:_REACH]:
            self._look(image)
        yield from self._drain(0)

    def _start(self) -> None:
        images = list(self._recent)
        self._first = self._next = len(images) - 1
        for image in images[:0:-1] + images:
            self._look(image)

    def _look(self, image: np.ndarray) -> None:
        from scenedetect.common import FrameTimecode

        timecode = FrameTimecode(self._seen, _RATE)
        for detector in self._detectors:
            self._cuts.update(cut.frame_num for cut in detector.process_frame(timecode, image))
        self._seen += 1

    def _drain(self, keep: int) -> Iterator[tuple]:
        while self._next is not None and len(self._waiting) > keep:
            yield *self._waiting.popleft(), self._next == self._first or self._next in self._cuts
            self._cuts.discard(self._next)
            self._next += 1
