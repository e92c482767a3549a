"""Measures against numbers worked out by hand or by NumPy, and their invariances."""

import dataclasses

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.metrics import colour, consistency, structure
from gen1_jax.evaluation.metrics.table import check_needs
from gen1_jax.video.pixels import rgb_to_lab

RNG = np.random.default_rng(0)


def test_frame_consistency_by_hand():
    clip = np.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0]]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(consistency.frame_consistency(clip), [half, 0.0], atol=1e-12)
    with pytest.raises(ValueError, match="n >= 2"):
        consistency.frame_consistency(clip[:, :1])


def test_a_measure_that_no_clip_allows_is_refused():
    plain = Item("a", "a", np.zeros((2, 8, 8, 3), np.uint8), "a cat")
    masked = dataclasses.replace(plain, mask=np.ones((2, 8, 8), bool))
    check_needs(["psnr_outside", "flicker"], [plain, masked])
    with pytest.raises(UserError, match="psnr_outside needs a mask, which no clip has"):
        check_needs(["flicker", "psnr_outside"], [plain])


def test_prompt_consistency_by_hand():
    images = np.array([[[2.0, 0.0], [0.0, 5.0]]])
    found = consistency.prompt_consistency(images, [[3.0, 4.0]])
    np.testing.assert_allclose(found, [(0.6 + 0.8) / 2])


def test_align_depth_is_least_squares():
    pred, target = RNG.normal(size=(2, 2, 3, 4, 5))
    aligned = structure.align_depth(pred, target)
    for i in range(2):
        x = np.stack([pred[i].ravel(), np.ones(pred[i].size)], axis=1)
        (a, b), *_ = np.linalg.lstsq(x, target[i].ravel(), rcond=None)
        np.testing.assert_allclose(aligned[i], a * pred[i] + b, atol=1e-10)


def test_structure_ignores_scale_and_shift():
    depth = RNG.normal(size=(3, 4, 8, 8))
    same = depth * np.array([0.1, 3.0, 7.0])[:, None, None, None] + 5
    np.testing.assert_allclose(structure.structure_error(same, depth), 0, atol=1e-7)
    np.testing.assert_allclose(structure.structure_correlation(same, depth), 1)
    np.testing.assert_allclose(structure.structure_correlation(-same, depth), -1)


def test_structure_of_noise_and_constants():
    depth, noise = RNG.normal(size=(2, 2, 4, 16, 16))
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(noise, depth, strict=True)]
    correlation = structure.structure_correlation(noise, depth)
    np.testing.assert_allclose(correlation, expected, atol=1e-12)
    # with both optimal, the error is what the correlation leaves over
    np.testing.assert_allclose(
        structure.structure_error(noise, depth), np.sqrt(1 - correlation**2), atol=1e-12
    )
    flat = np.ones_like(depth)
    np.testing.assert_allclose(structure.structure_error(flat, depth), 1)
    np.testing.assert_allclose(structure.structure_correlation(flat, depth), 0)
    assert np.isnan(structure.structure_error(depth, flat)).all()


def test_depth_against_the_truth_by_hand():
    """Inverse depths 1/4, 1/2, 1: depths 4, 2, 1, with another scale and shift."""
    true = np.array([0.25, 0.5, 1.0, 0.0]).reshape(1, 1, 2, 2)
    pred = 3 * true + 2
    np.testing.assert_allclose(structure.depth_abs_rel(pred, true), [0], atol=1e-12)
    np.testing.assert_allclose(structure.depth_accuracy(pred, true), [1])
    flat = np.ones_like(true)  # aligned to the mean, 0.4375; the pixel at infinity is left out
    expected = np.mean([abs(0.4375 - t) / 0.4375 for t in (0.25, 0.5, 1)])
    np.testing.assert_allclose(structure.depth_abs_rel(flat, true), [expected])
    np.testing.assert_allclose(structure.depth_accuracy(flat, true), [1 / 3])
    inverted = structure.depth_abs_rel(np.array([[[[0.9, 0.4, 0.6, -5]]]]), np.ones((1, 1, 1, 4)))
    assert np.isfinite(inverted).all()
    assert np.isnan(structure.depth_abs_rel(pred, 0 * true)[0])
    assert np.isnan(structure.depth_accuracy(pred, 0 * true)[0])


def test_structure_is_that_of_the_clip_not_of_frames():
    """Frames that are right each up to its own shift flicker: the clip's measure must see it."""
    depth = RNG.normal(size=(1, 4, 8, 8))
    flickering = depth + np.array([0.0, 3.0, 0.0, 3.0])[None, :, None, None]
    assert structure.structure_correlation(flickering, depth)[0] < 0.7


def test_lab_of_known_colours():
    lab = rgb_to_lab([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]])
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(lab, known, atol=0.02)


def test_flicker_is_of_what_stands_still():
    source = np.full((1, 4, 16, 16, 3), 100, np.uint8)
    for i in range(4):
        source[0, i, :4, 4 * i : 4 * i + 4] = 250  # moves, and is no flicker
    assert colour.flicker(source, source) == 0
    wavering = source.copy()
    wavering[0, ::2] -= 20
    step = np.linalg.norm(np.diff(rgb_to_lab([[100] * 3, [80] * 3]), axis=0))
    assert colour.flicker(wavering, source)[0] == pytest.approx(step, abs=1e-9)
    assert colour.flicker(wavering, source)[0] > colour.flicker(source, source)[0]
    noise = RNG.integers(0, 256, (1, 3, 4, 4, 3), np.uint8)
    assert np.isnan(colour.flicker(noise, noise, still=0.0))[0]
    assert np.isnan(colour.flicker(noise[:, :1], noise[:, :1]))[0]


def test_measures_take_jax_arrays():
    import jax.numpy as jnp

    clip = jnp.ones((1, 3, 4))
    np.testing.assert_allclose(consistency.frame_consistency(clip), [1.0], rtol=1e-6)
