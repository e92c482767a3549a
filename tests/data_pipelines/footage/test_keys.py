"""The keys of a picture: the bucket that loses the least of it, whatever its shape."""

import numpy as np
import pytest

from gen1_jax.data_pipelines.footage.keys import BUCKETS, best_bucket, kept_area
from gen1_jax.errors import UserError


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("scale", [1, 3, 0.25])
def test_a_picture_of_a_buckets_shape_goes_into_it(bucket, scale):
    assert best_bucket(*(round(side * scale) for side in bucket)) == bucket


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1080, 1920), (256, 448)),
        ((1920, 1080), (448, 256)),
        ((480, 640), (320, 384)),  # 4:3 loses a tenth; square a quarter
        ((640, 480), (384, 320)),
        ((1, 1), (320, 320)),
        ((10, 10_000), (256, 448)),
    ],
)
def test_usual_shapes(size, bucket):
    assert best_bucket(*size) == bucket


def test_no_other_bucket_would_keep_more():
    for height, width in np.random.default_rng(0).integers(1, 5000, (500, 2)):
        chosen = best_bucket(height, width)
        kept = []
        for h, w in BUCKETS:  # scaled to cover, cropped: by pixels, not by the formula
            factor = max(h / height, w / width)
            kept.append(h * w / (height * factor * width * factor))
        np.testing.assert_allclose(kept_area((height, width), chosen), max(kept))


@pytest.mark.parametrize("arguments", [(0, 5), (5, -1), (5, 5, ()), (5, 5, ((0, 8),))])
def test_bad_sizes(arguments):
    with pytest.raises(UserError, match="1 or more"):
        best_bucket(*arguments)
