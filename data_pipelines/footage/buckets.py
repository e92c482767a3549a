"""Aspect-ratio buckets: the sizes that batches of images have, and which one suits a picture."""

from collections.abc import Sequence

from gen1_jax.errors import UserError

# (height, width); Gen-1 paper, section 4.1: 320x320, 384x320, 448x256 and their flips.
BUCKETS = ((320, 320), (320, 384), (384, 320), (256, 448), (448, 256))


def best_bucket(
    height: int, width: int, buckets: Sequence[tuple[int, int]] = BUCKETS
) -> tuple[int, int]:
    """The bucket (height, width) whose crop loses the least of a picture; the first of equals.

    A picture is scaled to just cover its bucket, so what is lost depends on aspect ratios alone.

    Raises:
        UserError: a side that is not positive, or no bucket.
    """
    if not buckets or min(height, width, *(side for size in buckets for side in size)) < 1:
        raise UserError(f"no bucket of {tuple(buckets)} for {height}x{width}; sides are 1 or more")
    return max(buckets, key=lambda size: kept_area((height, width), size))


def kept_area(size: tuple[int, int], bucket: tuple[int, int]) -> float:
    """The share of a picture of `size` that is left in `bucket`, 0..1; both (height, width)."""
    ratio = (size[0] * bucket[1]) / (size[1] * bucket[0])
    return min(ratio, 1 / ratio)
