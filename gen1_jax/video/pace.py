"""How far apart in time the frames of a clip are."""

from fractions import Fraction
from typing import NamedTuple


class Pace(NamedTuple):
    """The pace of the clips that a model was trained on.

    Attributes:
      stride: source frames from one frame of a clip to the next.
      frame_rate: frames a second of the sources; None: not known, so that frames are counted.
    """

    stride: int = 1
    frame_rate: float | None = None

    def stride_at(self, rate: Fraction | float) -> int:
        """Returns the stride that takes as long in a source of `rate` frames a second."""
        if self.frame_rate is None:
            return self.stride
        return max(1, round(self.stride * float(rate) / self.frame_rate))


def longest_stride(wanted: int, available: int | None, num_frames: int | None) -> int:
    """Returns the stride, at most `wanted`, at which an input gives as many frames as it can.

    Args:
      wanted: the stride of a long input.
      available: frames of the input; None: not known.
      num_frames: frames to take; None: all.
    """
    if available is None or num_frames is None or num_frames < 2:
        return wanted
    return max(1, min(wanted, (available - 1) // (num_frames - 1)))
