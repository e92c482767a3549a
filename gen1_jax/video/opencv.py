"""OpenCV, imported where it is first used: it is large, and commands start without it."""

import functools


@functools.cache
def opencv():
    """Returns the module, on one thread a call: several pictures are worked on at once."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
