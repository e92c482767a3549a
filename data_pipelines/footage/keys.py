"""The split of a picture or clip, and the sizes of pictures."""

from __future__ import annotations

import hashlib

# (height, width); Gen-1 paper, section 4.1: 320x320, 384x320, 448x256 and their flips.
BUCKETS = ((320, 320), (320, 384), (384, 320), (256, 448), (448, 256))
TRAIN, VALIDATION = "train", "validation"


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
