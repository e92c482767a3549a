"""Keys of a picture or clip: its split, and a fingerprint that finds duplicates."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

# (height, width); Gen-1 paper, section 4.1: 320x320, 384x320, 448x256 and their flips.
BUCKETS = ((320, 320), (320, 384), (384, 320), (256, 448), (448, 256))
TRAIN, VALIDATION = "train", "validation"
DISTANCE = 7  # fingerprints that differ in at most so many bits count as the same
_MARGIN = 2  # levels; without it, noise in flat areas would give random bits


# ---- split


def name_split(content: str, fraction: float) -> str:
    """Returns the split of an input's records, which follows from the hash of its content.

    All records of an input are therefore in one split, and in the same one wherever it lies.

    Args:
      content: hash of the input's content, by `identity`.
      fraction: share of inputs whose records go to the validation split.
    """
    digest = hashlib.sha256(content.encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8], "big") < fraction * 2**64 else TRAIN


def in_bucket(split: str, bucket: tuple[int, int]) -> str:
    """Returns the name of a split's images of a size (height, width): `train_256x448`."""
    return f"{split}_{bucket[0]}x{bucket[1]}"


# ---- fingerprint: 256 bits that survive scaling and recompression
#
# A fingerprint is a difference hash: each bit says whether a cell is brighter than its right
# neighbour. It has 16 x 16 cells of an image, or 8 x 8 cells of each of four frames of a clip.


def hash_image(frame: np.ndarray) -> bytes:
    """Returns the fingerprint, 32 bytes, of an image [h w 3] uint8."""
    return _differences(frame, 16).tobytes()


def hash_clip(frames: np.ndarray) -> bytes:
    """Returns the fingerprint, 32 bytes, of frames [n h w 3] uint8.

    It covers the first frame, the last one and two between them.
    """
    picks = np.linspace(0, len(frames) - 1, 4).round().astype(int)
    return b"".join(_differences(frames[pick], 8).tobytes() for pick in picks)


def _differences(frame: np.ndarray, cells: int) -> np.ndarray:
    grey = Image.fromarray(frame).convert("L")
    small = np.asarray(grey.resize((cells + 1, cells), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, :-1] > small[:, 1:] + _MARGIN)


def cut_fingerprint(fingerprint: bytes) -> list[bytes]:
    """Returns the pieces of a fingerprint, each beginning with its number.

    There is one piece more than `DISTANCE`, so two fingerprints that differ in at most `DISTANCE`
    bits have at least one piece in common.
    """
    width = len(fingerprint) // (DISTANCE + 1)
    return [
        bytes([piece]) + fingerprint[piece * width : (piece + 1) * width]
        for piece in range(DISTANCE + 1)
    ]
