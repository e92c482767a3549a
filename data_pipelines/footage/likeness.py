"""A fingerprint of what is seen, 256 bits, that survives scaling and recompression.

Difference hashes (is a cell brighter than its right neighbour?) of 16 x 16 cells of an image, or of
8 x 8 cells of each of four frames of a clip. Copies of one picture differ in a few bits.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS = 256
DISTANCE = 7  # bits in which what counts as the same may differ
_MARGIN = 2  # levels; flat areas must not give random bits


def hash_image(frame: np.ndarray) -> bytes:
    """[h w 3] uint8 -> 32 bytes."""
    return _differences(frame, 16).tobytes()


def hash_clip(frames: np.ndarray) -> bytes:
    """[n h w 3] uint8 -> 32 bytes, of the first, last and two frames between."""
    picks = np.linspace(0, len(frames) - 1, 4).round().astype(int)
    return b"".join(_differences(frames[pick], 8).tobytes() for pick in picks)


def _differences(frame: np.ndarray, cells: int) -> np.ndarray:
    grey = Image.fromarray(frame).convert("L")
    small = np.asarray(grey.resize((cells + 1, cells), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, :-1] > small[:, 1:] + _MARGIN)


def bands(fingerprint: bytes) -> list[bytes]:
    """Pieces of a fingerprint: two that differ in at most `DISTANCE` bits share one of them, since
    there is one piece more than bits that differ."""
    width = len(fingerprint) // (DISTANCE + 1)
    return [
        bytes([piece]) + fingerprint[piece * width : (piece + 1) * width]
        for piece in range(DISTANCE + 1)
    ]
