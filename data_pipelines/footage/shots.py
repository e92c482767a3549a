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

from gen1_jax.video_sources import Picture

RATIO = 2.5  # PySceneDetect's 3 misses cuts from or to motion
LEAST_CHANGE = 8.0  # PySceneDetect's 15 misses cuts between dark or pale scenes
SURE_CHANGE = 35.0  # PySceneDetect's 27 takes fast motion for cuts
SIDE = 160  # pixels; the longer side of what is compared
_REACH = 2  # pictures that AdaptiveDetector looks ahead


def mark_cuts(
    pictures: Iterator[tuple[Picture, int, int]],
) -> Iterator[tuple[Picture, int, int, bool]]:
    """Adds to each picture whether a shot begins with it; comes two pictures late.

    Args:
        pictures: with the slots they fill, as `video_sources.on_grid` gives them.

    A picture after a gap, or of another size than the one before, begins a shot too.
    """
    from scenedetect.common import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    rate = Fraction(25)  # of no consequence: pictures are counted

    def detectors() -> list:
        return [
            AdaptiveDetector(
                adaptive_threshold=RATIO,
                min_content_val=LEAST_CHANGE,
                min_scene_len=0,
                window_width=_REACH,
            ),
            ContentDetector(threshold=SURE_CHANGE, min_scene_len=0),
        ]

    waiting: deque = deque()
    active, count, shape, likeness = [], 0, None, None
    cuts: set[int] = set()

    def look(image: np.ndarray) -> None:
        """Shows the detectors one more picture; `count` is its number."""
        nonlocal count
        timecode = FrameTimecode(count, rate)
        for detector in active:
            cuts.update(cut.frame_num for cut in detector.process_frame(timecode, image))
        count += 1

    def drain(keep: int) -> Iterator[tuple[Picture, int, int, bool]]:
        while len(waiting) > keep:
            number, begins, *rest = waiting.popleft()
            yield *rest, begins or number in cuts
            cuts.discard(number)

    def finish() -> Iterator[tuple[Picture, int, int, bool]]:
        """The last pictures of a stretch: what is beyond is taken to be still."""
        for _ in range(_REACH if waiting else 0):
            look(likeness)
        yield from drain(0)

    for picture, begin, end in pictures:
        image = np.ascontiguousarray(picture.thumbnail(SIDE)[..., ::-1])  # BGR
        begins = shape is None or picture.follows_gap or image.shape != shape
        if begins:
            yield from finish()
            active, shape = detectors(), image.shape
            for _ in range(_REACH):  # and so is what came before
                look(image)
        likeness = image
        waiting.append((count, begins, picture, begin, end))
        look(image)
        yield from drain(_REACH)
    yield from finish()
