"""Finds where a video's shots begin, by PySceneDetect on pictures that were decoded here.

Two of its detectors measure the change from picture to picture (mean difference of hue, saturation
and value, 0..255), and either may report a cut. `AdaptiveDetector` reports one where the change is
at least `RATIO` times that of the two pictures before and after, so that fast motion is no cut.
`ContentDetector` reports one where the change is larger than motion makes it, so that a cut amid
fast motion is found. A false cut costs a few frames; a missed cut puts two scenes into one clip.
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
SIDE = 160  # longer side of the compared pictures, in pixels
_REACH = 2  # pictures that AdaptiveDetector looks ahead
_RATE = Fraction(25)  # any rate will do: pictures are counted


def mark_cuts(
    pictures: Iterator[tuple[Picture, int, int]],
) -> Iterator[tuple[Picture, int, int, bool]]:
    """Yields pictures with whether a shot begins with each; it lags two pictures behind.

    A picture after a gap, or of another size than the one before, begins a shot too.

    Args:
      pictures: pictures with the slots they fill, as `gen1_jax.video.sources.on_grid` yields them.
    """
    stretch = None  # the current run of pictures that can be compared

    for picture, begin, end in pictures:
        image = np.ascontiguousarray(picture.thumbnail(SIDE)[..., ::-1])  # BGR
        begins = stretch is None or picture.follows_gap or image.shape != stretch.shape
        if begins:
            yield from stretch.finish() if stretch else ()
            stretch = _Stretch(image.shape)
        yield from stretch.add((picture, begin, end), image)
    yield from stretch.finish() if stretch else ()


class _Stretch:
    """A run of pictures of one size without a gap, which is shown to the detectors in order.

    Beyond both ends, the pictures are mirrored in time. Motion there is therefore no cut, and a cut
    within the first or last two pictures is found like any other.
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
        self._waiting: deque = deque()  # pictures that were added and not yet yielded
        self._recent: deque[np.ndarray] = deque(maxlen=_REACH + 1)
        self._seen: int = 0  # number of pictures that the detectors have seen
        self._next: int | None = None  # the detectors' number of the first waiting picture
        self._first: int = 0  # the detectors' number of the run's first picture
        self._cuts: set[int] = set()

    def add(self, item: tuple, image: np.ndarray) -> Iterator[tuple]:
        """Adds a picture; yields those of which it is known by now whether they begin a shot."""
        self._waiting.append(item)
        self._recent.append(image)
        if self._next is not None:
            self._look(image)
        elif len(self._recent) > _REACH:
            self._start()
        yield from self._drain(_REACH)

    def finish(self) -> Iterator[tuple]:
        """Ends the run; yields the remaining pictures."""
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
