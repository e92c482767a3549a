"""An invisible mark in the pixels, which says that a video is synthetic.

Each frame's luma is written in cosines, and the 75 coarse ones (about 3 to 9 half waves over the
picture) are moved towards the nearest point of a secret lattice: quantisation index modulation
with distortion compensation (Chen and Wornell, 2001). Coarse cosines stay through H.264 and
scaling, and a lattice does not mind what the picture shows. The key is in this file, so the mark
tells the honest from the forgetful; whoever wants to remove or to forge it can. Cropping, turning
and changes of contrast lose it.

The detector averages each cosine's phase on the lattice over the frames. In a video without the
mark, phases have nothing to do with the key. The score, a sum over the cosines, then has mean 0 and
deviation 1, and is above s for at most exp(−s²/2) of all keys, whatever the video shows.
"""

import functools
import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_WAVES = 10  # cosines along each side
_BAND = (2.5, 9.5)  # of their distance from the constant one
# Distance of the lattice's points, in units of a frame of 32x32. Smaller frames need more, because
# H.264 harms them more. The detector tries all, since a frame may have been scaled.
_STEPS, _AREAS = (64.0, 40.0, 24.0), (48 * 48, 128 * 128)
_SHARE = 0.65  # of the way to the lattice
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709
THRESHOLD = 4.5


class Found(NamedTuple):
    """What the detector found.

    Attributes:
      is_marked: whether the video has the mark.
      score: standard deviations above what is to be expected without it.
      chance: how probable such a score is at most without the mark.
    """

    is_marked: bool
    score: float
    chance: float


def mark_frame(frame: np.ndarray) -> np.ndarray:
    """Returns a frame `[h w 3]` uint8 with the mark."""
    height, width = frame.shape[:2]
    step = _STEPS[sum(height * width >= area for area in _AREAS)]
    values = _values(frame)
    moves = _SHARE * step * (np.round(values / step - _key()) - (values / step - _key()))
    spectrum = np.zeros((_WAVES, _WAVES))
    spectrum[_band()] = moves * math.sqrt(height * width) / 32
    luma = _cosines(height).T @ spectrum.astype(np.float32) @ _cosines(width)
    return np.clip(np.round(frame + luma[..., None]), 0, 255).astype(np.uint8)


def find_mark(frames: Iterable[np.ndarray]) -> Found:
    """Looks for the mark in frames `[h w 3]` uint8; memory does not grow with their number."""
    total = np.zeros((len(_STEPS), len(_key())), complex)
    for frame in frames:
        values = _values(frame)
        total += np.exp(2j * np.pi * (values / np.array(_STEPS)[:, None] - _key()))
    spread = np.sqrt((np.abs(total) ** 2).sum(axis=1) / 2)
    score = float((total.real.sum(axis=1) / np.maximum(spread, 1e-9)).max())
    chance = min(1.0, len(_STEPS) * math.exp(-(max(score, 0) ** 2) / 2))
    return Found(score >= THRESHOLD, score, chance)


def _values(frame: np.ndarray) -> np.ndarray:
    """Returns the coarse cosines' share in a frame's luma, `[75]`, as if it had 32x32 pixels."""
    height, width = frame.shape[:2]
    spectrum = _cosines(height) @ (frame @ _LUMA) @ _cosines(width).T
    return spectrum[_band()] * 32 / math.sqrt(height * width)


@functools.cache
def _cosines(length: int) -> np.ndarray:
    """Returns the orthonormal rows of the DCT-II, `[10 length]` float32."""
    waves, places = np.arange(_WAVES)[:, None], np.arange(length) + 0.5
    rows = np.cos(np.pi * waves * places / length) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows.astype(np.float32)


@functools.cache
def _band() -> np.ndarray:
    distance = np.hypot(*np.mgrid[:_WAVES, :_WAVES])
    return (distance >= _BAND[0]) & (distance < _BAND[1])


@functools.cache
def _key() -> np.ndarray:
    """Returns the lattice's offset for each cosine, in steps, `[75]`: numbers that a hash draws.

    Those of this text are such that a picture of one colour has a score far below 0.
    """
    count = int(_band().sum())
    words = (hashlib.sha256(f"synthetic video of gen1-jax {k}".encode()) for k in range(count))
    return np.array([int.from_bytes(word.digest()[:8], "big") / 2**64 for word in words])
