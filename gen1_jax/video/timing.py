"""The rate of a stream by its time stamps, where what the file claims cannot be true."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

LEAP = 300.0  # seconds between pictures that may be a clock set anew, …
_LEAP_STEPS = 1000  # … if they are as many steps, too: a film of slides is none
_AGREE = 1.5  # a claimed rate may be this factor off the measured one, as of a variable rate
_MOST_STEPS = 36_000  # that one picture may fill, at rates that no film has
HEAD = 48  # packets at the beginning by which a claim is tested


def rate_of(times: Sequence[Fraction]) -> Fraction | None:
    """Returns the mean rate of pictures at these times, in seconds, leaps of the clock left out.

    None says that they are too few to tell.
    """
    steps = np.diff(np.unique(np.array([float(time) for time in times])))
    if len(steps) < 4:
        return None
    steps = steps[steps <= leap_after(float(np.median(steps)))]
    mean = float(steps.mean())
    return Fraction(1 / mean).limit_denominator(1001) or Fraction(1, round(mean))


def leap_after(step: float) -> float:
    """Returns after how many seconds without a picture the clock must have leapt."""
    return max(min(LEAP, _MOST_STEPS * step), _LEAP_STEPS * step)


def agree(claimed: Fraction, measured: Fraction | None) -> bool:
    """Returns whether a claimed rate can be true."""
    return measured is None or 1 / _AGREE < claimed / measured < _AGREE
