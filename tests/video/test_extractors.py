"""Structure maps of frames, by OpenCV: each is right, steady in time, and streams."""

import cv2
import numpy as np
import pytest

from gen1_jax.structure_settings import EXTRACTORS
from gen1_jax.video.extractors import EXTRACT, extract, extract_clip
from gen1_jax.video.extractors.segments import PALETTE
from gen1_jax.video.streams import Stream

NAMES = tuple(EXTRACT)


def moving_box(n: int = 6, height: int = 48, width: int = 64, step: int = 3) -> np.ndarray:
    """A bright box with noise that moves to the right before a dark noisy ground."""
    rng = np.random.default_rng(0)
    frames = np.full((n, height, width, 3), (40, 60, 50), np.uint8)
    for i in range(n):
        frames[i, 14:34, 8 + step * i : 28 + step * i] = (220, 90, 60)
    return np.clip(frames + rng.integers(-3, 4, frames.shape), 0, 255).astype(np.uint8)


def test_the_table_names_all():
    assert set(EXTRACT) == {name for name, x in EXTRACTORS.items() if x.place == "host"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(48, 64), (16, 16), (160, 200)])
def test_maps_have_the_frames_size_and_the_kind_that_the_table_says(name, size):
    frames = moving_box(3, *size) if min(size) > 40 else moving_box(3)[:, : size[0], : size[1]]
    maps = extract_clip(name, frames)
    colours = EXTRACTORS[name].colours
    assert maps.shape == (3, *size, 3) if colours else maps.shape == (3, *size)
    assert maps.dtype == (np.uint8 if colours else np.float32) and np.isfinite(maps).all()
    np.testing.assert_array_equal(extract_clip(name, frames), maps)  # the same every time


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_gone_through_and_never_held(name):
    """Maps come one by one; no more than two frames of the video are alive at a time."""
    frames, alive, most = moving_box(12), set(), 0

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def make():
        nonlocal most
        for frame in frames:
            own = frame.copy().view(Counted)
            alive.add(id(own))
            most = max(most, len(alive))
            yield own
            del own

    maps = iter(extract(name, Stream(len(frames), make)))
    assert len([None for _ in maps]) == 12 and most <= 3


@pytest.mark.parametrize("name", ["canny", "scribbles"])
def test_lines_are_where_the_box_ends(name):
    maps = extract_clip(name, moving_box())
    assert set(np.unique(maps)) == {0, 1}
    for i, lines in enumerate(maps):
        near = np.zeros((48, 64), bool)
        near[10:38, 4 + 3 * i : 32 + 3 * i] = True
        near[18:30, 12 + 3 * i : 24 + 3 * i] = False  # the inside
        assert lines[near].sum() > 50 and not lines[~near].any()
    thickness = maps.sum((1, 2)).mean() / 80  # the box's outline is 80 pixels
    assert thickness < 1.3 if name == "canny" else 1.7 < thickness < 4


def test_thresholds_are_those_of_the_whole_video():
    """A faint line stays faint in a frame without strong ones, so that nothing flickers."""
    frames = np.zeros((2, 48, 64, 3), np.uint8)
    frames[:, :, 40:] = 18
    frames[0, :, 4:36:4] = frames[0, :, 5:36:4] = 255
    alone, both = extract_clip("canny", frames[1:]), extract_clip("canny", frames)
    assert alone[0, :, 38:42].any() and not both[1].any()
    np.testing.assert_array_equal(extract_clip("canny", frames[[1, 0]])[::-1], both)


def test_segments_are_even_and_keep_their_colours():
    maps = extract_clip("segments", moving_box())
    for i, colours in enumerate(maps):
        box = colours[16:32, 10 + 3 * i : 26 + 3 * i].reshape(-1, 3)
        assert (box == PALETTE[1]).all() and (colours[:10] == PALETTE[0]).all()


def test_segments_say_nothing_of_the_look():
    frames = moving_box()
    other = np.where(frames[..., :1] > 120, np.uint8([[200, 200, 90]]), np.uint8([[90, 30, 30]]))
    np.testing.assert_array_equal(
        extract_clip("segments", frames)[:, 16:32, 44:],
        extract_clip("segments", other)[:, 16:32, 44:],
    )


def test_flow_is_how_far_things_move():
    """Textures tell DIS what moved: the ground stands still, the box goes 4 pixels a frame."""
    ground, box = (cv2.GaussianBlur(noise(seed), (0, 0), 1.5) for seed in range(2))
    frames = np.stack([ground] * 5)
    for i in range(5):
        frames[i, 40:88, 16 + 4 * i : 64 + 4 * i] = box[:48, :48]
    maps = np.expm1(extract_clip("flow", frames))
    for i, far in enumerate(maps):
        assert abs(np.median(far[50:78, 26 + 4 * i : 54 + 4 * i]) - 4) < 0.3
        assert np.median(far[:24]) < 0.3
    assert not extract_clip("flow", frames[:1]).any()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (128, 128, 3)).astype(np.uint8)
