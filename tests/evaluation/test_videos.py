"""Videos of edits: how much room they take."""

import numpy as np

from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.videos import EditVideos

SETTINGS = [{"method": "gen1", "seed": seed} for seed in range(3)]


def test_the_room_counts_what_is_there(tmp_path):
    """An evaluation that goes on, or makes a video anew, takes no more room than was given."""
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    item = Item("clip", "clip", frames, "a red ball")
    videos = EditVideos(tmp_path, {}, most_bytes=1e9)
    assert videos.write(item, SETTINGS[0], frames)["output"].endswith("seed-0.mp4")
    assert not videos.is_missing(item, SETTINGS[0]) and videos.is_missing(item, SETTINGS[1])
    size = sum(path.stat().st_size for path in tmp_path.glob("videos/*/*.mp4"))

    full = EditVideos(tmp_path, {}, most_bytes=size)
    assert not any(full.is_missing(item, setting) for setting in SETTINGS)
    assert full.write(item, SETTINGS[1], frames) == {}
    assert full.left_out == 2  # the one that was written, and is there, is none of them

    for _ in range(3):
        shared = EditVideos(tmp_path, {}, most_bytes=size + 2, processes=2)
        assert shared.write(item, SETTINGS[0], frames) and shared.is_missing(item, SETTINGS[1])
