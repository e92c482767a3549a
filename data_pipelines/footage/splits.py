"""Which split a record belongs to: by a hash of its source's name, so that no source is in two."""

from __future__ import annotations

import hashlib

TRAIN, VALIDATION = "train", "validation"


def name_split(source: str, fraction: float, bucket: tuple[int, int] | None = None) -> str:
    """`train` or, for about `fraction` of the sources, `validation`; of images with their bucket,
    height first: `train_256x448`."""
    digest = hashlib.sha256(source.encode()).digest()
    split = VALIDATION if int.from_bytes(digest[:8], "big") < fraction * 2**64 else TRAIN
    return split if bucket is None else f"{split}_{bucket[0]}x{bucket[1]}"
