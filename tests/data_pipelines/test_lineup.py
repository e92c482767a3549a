"""The line-up names what frames show: rendered clips, blurry ones, unedited ones."""

import numpy as np
import pytest

from gen1_jax.data_pipelines.moving_shapes.lineup import Lineup
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.data_pipelines.moving_shapes.vocabulary import ATTRIBUTES
from gen1_jax.errors import UserError


def lineup_of(seed: int, wanted: dict, size: int = 32, camera: str | None = None) -> Lineup:
    truth = render(seed, size=size, camera=camera).truth
    return Lineup(seed, truth, wanted, num_frames=8, size=(size, size), camera=camera)


def other_values(seed: int) -> dict[str, str]:
    """Another value of every attribute; a shape that no other resembles."""
    truth, rng = render(seed, size=16).truth, np.random.default_rng(seed)
    values = {n: [v for v in ATTRIBUTES[n] if v != truth[n]] for n in ATTRIBUTES}
    values["shape"] = [s for s in ("ring", "star", "cross", "triangle") if s != truth["shape"]]
    return {name: str(rng.choice(options)) for name, options in values.items()}


@pytest.mark.parametrize(("size", "camera"), [(32, None), (64, None), (32, "shaky")])
def test_a_rendered_edit_is_told_from_the_clip_as_it_was(size, camera):
    for seed in range(300, 303):
        wanted = other_values(seed)
        lineup = lineup_of(seed, wanted, size, camera)
        edited = render(seed, size=size, camera=camera, changes=wanted)
        np.testing.assert_array_equal(lineup.wanted.frames, edited.frames)
        found = lineup.find(edited.frames)
        assert found.values == lineup.expected == wanted
        assert all(set(found.by_frame[name]) == {value} for name, value in wanted.items())
        overlap = (found.mask & edited.mask).sum() / (found.mask | edited.mask).sum()
        assert overlap > 0.85
        source = render(seed, size=size, camera=camera)
        left = lineup.find(source.frames).values
        assert left == {name: source.truth[name] for name in ATTRIBUTES}


def test_attributes_are_told_apart_in_blurry_noisy_frames():
    rng, right = np.random.default_rng(0), dict.fromkeys(ATTRIBUTES, 0)
    for seed in range(16):
        clip = render(seed, size=32)
        frames = clip.frames.astype(np.float32)
        for axis in (1, 2):
            frames = 0.5 * frames + 0.25 * (np.roll(frames, 1, axis) + np.roll(frames, -1, axis))
        frames = np.clip(frames * 0.92 + 10 + rng.normal(0, 8, frames.shape), 0, 255)
        found = lineup_of(seed, {}).find(frames.astype(np.uint8)).values
        for name in ATTRIBUTES:
            right[name] += found[name] == clip.truth[name]
    assert min(right.values()) >= 15, right


def test_frames_without_the_object_hold_none():
    lineup = lineup_of(7, {"colour": "green"})
    empty = render(7, size=32, has_hero=False).frames
    assert lineup.find(empty).mask.mean() < 0.1 < lineup.wanted.mask.mean()


def test_frames_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"no edit of a clip of \(8, 32, 32, 3\)"):
        lineup_of(1, {}).find(np.zeros((8, 16, 16, 3), np.uint8))
