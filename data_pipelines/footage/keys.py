"""The split of a picture or clip, and the sizes of pictures."""

from __future__ import annotations

import hashlib

from gen1_jax.text import name_of

# (height, width); Gen-1 paper, section 4.1: 320x320, 384x320, 448x256 and their flips.
BUCKETS = ((320, 320), (320, 384), (384, 320), (256, 448), (448, 256))
TRAIN, VALIDATION = "train", "validation"


def name_split(source: str, fraction: float, bucket: tuple[int, int] | None = None) -> str:
    """Returns the split of a source's records, which follows from a hash of the source's name.

    All records of a source are therefore in one split.

    Args:
      source: path of the input.
      fraction: share of sources whose records go to the validation split.
      bucket: (height, width) of an image, which is made a part of the name: `train_256x448`.
    """
    digest = hashlib.sha256(name_of(source).encode()).digest()
    split = VALIDATION if int.from_bytes(digest[:8], "big") < fraction * 2**64 else TRAIN
    return split if bucket is None else f"{split}_{bucket[0]}x{bucket[1]}"
