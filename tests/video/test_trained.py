"""A video is read at the pace, the length and the size of a model's training."""

from fractions import Fraction

import numpy as np
import pytest
from video_files import clip, encode

from gen1_jax.errors import UserError
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.pace import Pace, longest_stride
from gen1_jax.video.trained import TrainedClips

SETTINGS = {"size": [48, 64], "num_frames": 4}


@pytest.mark.parametrize(
    ("rate", "stride"),
    [(24, 4), (30, 5), (Fraction(24000, 1001), 4), (60, 10), (12, 2), (6, 1), (5, 1), (1, 1)],
)
def test_the_time_between_frames_is_that_of_training(rate, stride):
    assert Pace(4, 24.0).stride_at(rate) == stride
    assert Pace(4).stride_at(rate) == 4  # a world of frames without a rate


@pytest.mark.parametrize(
    ("wanted", "available", "num_frames", "stride"),
    [(4, 29, 8, 4), (4, 28, 8, 3), (4, 8, 8, 1), (4, 3, 8, 1), (4, None, 8, 4), (4, 9, 1, 4)],
)
def test_a_short_video_is_taken_closer_together(wanted, available, num_frames, stride):
    assert longest_stride(wanted, available, num_frames) == stride


def test_a_video_is_read_as_in_training(tmp_path):
    frames = clip(20)
    path = encode(tmp_path / "a.mp4", frames, fps=30)
    trained = TrainedClips.of(SETTINGS | {"stride": 4, "frame_rate": 24.0}, max_frames=32)
    video = trained.read(path)
    np.testing.assert_array_equal(video.frames, read_video(path, stride=5, num_frames=4).frames)
    assert video.fps == 6  # the motion keeps its speed
    assert video.taken.describe() == "frames 1 to 16 of 20, every 5th as in training"
    assert trained.read(path, start=10).taken.describe() == (
        "frames 11 to 20 of 20, every 3rd (every 5th in training)"
    )
    assert trained.read(path, stride=2).taken.describe() == "frames 1 to 7 of 20, every 2nd"
    write_video(tmp_path / "short", frames[:4], 30)
    short = trained.read(tmp_path / "short")  # a folder counts as 24 frames a second
    assert short.taken.describe() == "frames 1 to 4 of 4 (every 4th in training)"
    assert len(trained.read(path, num_frames=3)) == 3


def test_a_short_video_that_states_no_length_is_taken_closer_together(tmp_path):
    path = encode(tmp_path / "stream.h264", clip(20), fps=25)  # without a container
    trained = TrainedClips.of(SETTINGS | {"stride": 10, "frame_rate": 25.0}, max_frames=32)
    video = trained.read(path)
    assert video.taken.describe() == "frames 1 to 19 of 20, every 6th (every 10th in training)"
    np.testing.assert_array_equal(video.frames, read_video(path).frames[:19:6])


def test_a_pipeline_that_knows_no_pace_takes_neighbouring_frames(tmp_path):
    path = encode(tmp_path / "a.mp4", clip(8), fps=30)
    earlier = TrainedClips.of(SETTINGS, max_frames=3)
    assert earlier.sizes == ((48, 64),) and earlier.num_frames == 3
    assert earlier.read(path).taken.describe() == "frames 1 to 3 of 8"
    assert TrainedClips.of(SETTINGS | {"stride": 1}, 3).pace == earlier.pace


@pytest.mark.parametrize(
    ("name", "value"),
    [("stride", "4"), ("stride", -1), ("stride", 1.5)]
    + [("frame_rate", value) for value in ("24", -3, float("nan"))],
)
def test_a_pace_that_a_user_wrote_wrongly_is_refused(name, value):
    with pytest.raises(UserError, match=f"^gen1.json: {name} is .* is accepted$"):
        TrainedClips.of(SETTINGS | {name: value}, max_frames=4)
    assert TrainedClips.of(SETTINGS | {"stride": 4, "frame_rate": 0}, 4).pace == Pace(4)
