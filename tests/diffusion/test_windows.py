"""Windows over long videos: where they lie, what they weigh, and that their fusion is a mean."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.diffusion.windows import Windows, fuse, in_batches, place_windows, touching
from gen1_jax.errors import UserError

CASES = itertools.product((1, 2, 7, 8, 9, 23, 64), (1, 2, 8), (0, 1, 4), (1, 2, 5))


@pytest.mark.parametrize("case", [c for c in CASES if c[2] < c[1]])
def test_windows_cover_every_frame_and_weigh_one(case):
    count, length, overlap, stride = case
    frames, weights = place_windows(*case)
    assert frames.shape == weights.shape and frames.shape[1] == min(length, count)
    sums = np.zeros(count)
    np.add.at(sums, frames, weights)
    np.testing.assert_allclose(sums, 1, rtol=1e-6)
    steps = np.unique(np.diff(frames, axis=1))
    expected = max(1, min(stride, count // min(length, count)))
    assert set(steps) <= {expected}  # one pace in all windows
    for phase in range(expected):
        own = frames[frames[:, 0] % expected == phase]
        assert own.min() == phase and own.max() + expected >= count
        shared = own[:-1, -1] - own[1:, 0]  # in frames of the video
        assert (shared >= expected * (min(overlap, own.shape[1] - 1) - 1)).all()


def test_weights_fall_towards_the_ends():
    frames, weights = place_windows(12, 8, 4)
    assert frames[:, 0].tolist() == [0, 4]
    np.testing.assert_allclose(weights[0], [1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose(weights[1], weights[0][::-1])
    one = place_windows(8, 8, 4)
    assert (one.weights == 1).all() and one.frames.tolist() == [list(range(8))]


@pytest.mark.parametrize("overlap", [-1, 8, 9])
def test_an_overlap_is_below_the_window(overlap):
    with pytest.raises(UserError, match=f"overlap of {overlap} frames; 0 to 7 are accepted"):
        place_windows(20, 8, overlap)


def test_fusion_is_the_weighted_mean_of_predictions():
    rng = np.random.default_rng(0)
    windows = place_windows(11, 4, 2)
    z = rng.normal(size=(16, 2, 2, 4)).astype(np.float32)  # five frames more than the video has
    gain = np.arange(1.0, len(windows.frames) + 1)  # each window predicts in its own way
    batches = Windows(*(jnp.asarray(in_batches(part, 2, 4)) for part in windows))
    gains = in_batches(gain, 2, 4)
    used = -(-len(gain) // 2)
    got = fuse(
        lambda i, x: x * jnp.asarray(gains)[i, :, None, None, None, None],
        jnp.asarray(z),
        batches,
        used,
    )
    wanted = np.zeros_like(z)
    for frames, weights, own in zip(*windows, gain, strict=True):
        wanted[frames] += own * weights[:, None, None, None] * z[frames]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert not np.asarray(got)[11:].any()


def test_windows_that_touch_a_section_are_taken_alone():
    windows = place_windows(30, 8, 4, 2)
    wanted = np.zeros(30, bool)
    wanted[11:15] = True
    part, left = touching(windows, wanted)
    frames = left[part.frames]
    assert len(frames) < len(windows.frames) and wanted[frames].any(1).all()
    assert set(np.flatnonzero(wanted)) < set(left.tolist()) == set(frames.ravel().tolist())
    sums = np.zeros(30)
    np.add.at(sums, frames, part.weights)
    np.testing.assert_allclose(sums[wanted], 1, rtol=1e-6)
