"""Fitting a picture to a size: the size that loses the least of it, cropping and padding."""

import numpy as np
import pytest
from PIL import Image
from video_files import clip

from gen1_jax.data_pipelines.footage.keys import BUCKETS
from gen1_jax.errors import UserError
from gen1_jax.video.fitting import best_size, fit_image, kept_area, place_inside
from gen1_jax.video.io import read_video, resize_frame, write_video


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("scale", [1, 3, 0.25])
def test_a_picture_of_a_buckets_shape_goes_into_it(bucket, scale):
    assert best_size(tuple(round(side * scale) for side in bucket), BUCKETS) == bucket


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
    assert best_size(size, BUCKETS) == bucket


def test_no_other_size_would_keep_more():
    for height, width in np.random.default_rng(0).integers(1, 5000, (500, 2)):
        chosen = best_size((height, width), BUCKETS)
        kept = []
        for h, w in BUCKETS:  # scaled to cover, cropped: by pixels, not by the formula
            factor = max(h / height, w / width)
            kept.append(h * w / (height * factor * width * factor))
        np.testing.assert_allclose(kept_area((height, width), chosen), max(kept))


@pytest.mark.parametrize(("size", "sizes"), [((0, 5), BUCKETS), ((5, 5), ()), ((5, 5), ((0, 8),))])
def test_bad_sizes(size, sizes):
    with pytest.raises(UserError, match="1 or more"):
        best_size(size, sizes)


def test_a_padded_picture_is_whole_and_mirrored(tmp_path):
    write_video(tmp_path / "clip", clip(2, 64, 16), 12)
    video = read_video(tmp_path / "clip", size=(32, 48), fit="pad")
    rows, columns = video.taken.inside
    assert (rows, columns) == (slice(0, 32), slice(20, 28)) == place_inside((64, 16), (32, 48))
    assert video.frames.shape == (2, 32, 48, 3)
    whole = read_video(tmp_path / "clip", size=(32, 8)).frames
    np.testing.assert_array_equal(video.frames[:, rows, columns], whole)
    np.testing.assert_array_equal(video.frames[:, :, 28:36], whole[:, :, ::-1])
    np.testing.assert_array_equal(video.frames[:, :, 12:20], whole[:, :, ::-1])
    depth = np.arange(64 * 16, dtype=np.float32).reshape(64, 16)
    fitted = fit_image(depth, (32, 48), Image.Resampling.BILINEAR, "pad")
    np.testing.assert_array_equal(fitted[:, 28:36], fitted[:, 20:28][:, ::-1])
    assert read_video(tmp_path / "clip", size=(64, 16), fit="pad").taken.inside is None
    with pytest.raises(UserError, match="fit is 'stretch'; crop and pad are accepted"):
        read_video(tmp_path / "clip", fit="stretch")


def test_the_nearest_of_several_sizes_is_taken(tmp_path):
    write_video(tmp_path / "portrait", clip(2, 64, 36), 12)
    video = read_video(tmp_path / "portrait", size=[(16, 28), (28, 16), [20, 20]])
    assert video.frames.shape == (2, 28, 16, 3)
    assert video.taken.describe(size_is_models=True) == (
        "64×36 (height × width) cropped to its middle 63×36, 2 % cut off → 28×16, the nearest size "
        "of this model"
    )
    for size in ([], [(16, 28), (28,)], [(16, 28), 3]):
        with pytest.raises(UserError, match="two whole numbers .* or several such"):
            read_video(tmp_path / "portrait", size=size)


def test_pictures_of_several_shapes_have_their_padding_in_one_place(tmp_path):
    """The caller cuts one padding off all frames: later pictures take the shape of the first."""
    first, second = clip(1, 64, 16), clip(1, 16, 64)
    for name, frames in (("0", first), ("1", second)):
        write_video(tmp_path / name, frames, 12)
        next((tmp_path / name).iterdir()).rename(tmp_path / f"{name}.png")
        (tmp_path / name).rmdir()
    video = read_video(tmp_path, size=(32, 32), fit="pad")
    rows, columns = video.taken.inside
    assert video.taken.source_size == (64, 16) and columns == slice(12, 20)
    expected = resize_frame(resize_frame(second[0], (64, 16)), (32, 8))
    np.testing.assert_array_equal(video.frames[1][rows, columns], expected)
