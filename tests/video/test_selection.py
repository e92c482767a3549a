"""An edit says which part of its input it took."""

import numpy as np
import pytest
from PIL import Image
from video_files import clip, encode

from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.selection import Selection, describe_size, ordinal


@pytest.mark.parametrize(
    ("start", "stride", "count", "total", "exact", "said"),
    [
        (0, 1, 8, 80, True, "frames 1 to 8 of 80"),
        (10, 4, 8, 80, True, "frames 11 to 39 of 80, every 4th"),
        (79, 1, 1, 80, True, "frame 80 of 80"),
        (0, 1, 8, 80, False, "frames 1 to 8 of about 80"),
        (0, 2, 8, None, False, "frames 1 to 15 of an unknown number, every 2nd"),
        (0, 1, 8, 8, True, ""),
    ],
)
def test_frames_are_named(start, stride, count, total, exact, said):
    selection = Selection(start, stride, count, total, exact, (32, 32), (32, 32))
    assert selection.describe() == said


@pytest.mark.parametrize(
    ("source", "size", "said"),
    [
        ((480, 480), (32, 32), "480×480 → 32×32"),
        (
            (480, 854),
            (32, 32),
            "480×854 (height × width) cropped to its middle 480×480, 44 % cut off → 32×32",
        ),
        (
            (480, 854),
            (64, 48),
            "480×854 (height × width) cropped to its middle 480×360, 58 % cut off → 64×48",
        ),
        ((16, 16), (32, 32), "16×16 → 32×32"),
        ((32, 48), (32, 48), ""),
    ],
)
def test_sizes_are_named(source, size, said):
    assert describe_size(source, size) == said


def test_padding_is_named():
    said = "854×480 (height × width) → 32×18 within 32×56, padded"
    assert describe_size((854, 480), (32, 56), "pad") == said
    assert describe_size((480, 480), (32, 32), "pad") == "480×480 → 32×32"


def test_flags_and_sound_are_named():
    selection = Selection(0, 1, 8, 80, True, (480, 480), (32, 32), has_sound=True)
    assert selection.describe("--frames", "--size", size_is_models=True) == (
        "frames 1 to 8 of 80 (--frames), 480×480 → 32×32, the size of this model (--size), "
        "without its sound"
    )
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 112th".split()
    )


@pytest.mark.parametrize(
    ("name", "total"), [("a.mp4", "20"), ("a.mkv", "about 20"), ("a.h264", "an unknown number")]
)
def test_the_number_of_frames_is_known_without_decoding(tmp_path, name, total):
    path = encode(tmp_path / name, clip(20), fps=24)
    assert read_video(path, num_frames=3).taken.describe() == f"frames 1 to 3 of {total}"
    # Who takes the last frame knows the number.
    assert read_video(path, num_frames=3, start=17).taken.describe() == "frames 18 to 20 of 20"
    for all_of_it in ({}, {"num_frames": 20}):
        assert read_video(path, **all_of_it).taken.describe() == ""


def test_images_know_their_number(tmp_path):
    for name in ("a.gif", "folder"):
        write_video(tmp_path / name, clip(6), 12)
        taken = read_video(tmp_path / name, num_frames=2, stride=2).taken
        assert taken.describe() == "frames 1 to 3 of 6, every 2nd"
    Image.fromarray(clip(1)[0]).save(tmp_path / "still.png")
    assert read_video(tmp_path / "still.png", num_frames=8, shorter=True).taken.describe() == ""
    assert np.prod(read_video(tmp_path / "still.png").taken.source_size) == 48 * 64
