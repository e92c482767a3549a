"""Measures on embeddings, crops and the distance of sets, against numbers worked out by hand."""

import time

import numpy as np
import pytest
import scipy.linalg

from gen1_jax.evaluation import crops
from gen1_jax.evaluation.metrics import clip
from gen1_jax.evaluation.metrics.frechet import frechet_distance
from gen1_jax.evaluation.stopwatch import Stopwatch, apart

RNG = np.random.default_rng(0)
X, Y = np.eye(2)


def test_all_pairs_count_each_pair_once():
    frames = np.array([[2 * X, X, 3 * Y]])  # cosines 1, 0, 0
    np.testing.assert_allclose(clip.all_pairs_consistency(frames), [1 / 3], atol=1e-12)
    # As LOVEU-TGVE's script: the matrix of cosines with its diagonal set to 0.
    frames = RNG.normal(size=(2, 5, 7))
    for found, own in zip(clip.all_pairs_consistency(frames), frames, strict=True):
        unit = own / np.linalg.norm(own, axis=1, keepdims=True)
        matrix = unit @ unit.T
        np.fill_diagonal(matrix, 0)
        assert found == pytest.approx(matrix.sum() / (5 * 4))


def test_directional_similarity_by_hand():
    source = np.array([[X, X, X, X]])
    output = np.array([[5 * Y, X - Y, 7 * X, -X]])  # towards the words, away, unchanged, opposite
    found = clip.directional_similarity(output, source, [2 * Y], [3 * X])
    to_y, away = Y - X, (X - Y) / np.sqrt(2) - X
    cosines = [1, away @ to_y / np.linalg.norm(away) / np.sqrt(2), 0, np.sqrt(0.5)]
    np.testing.assert_allclose(found, [np.mean(cosines)])
    assert np.isnan(clip.directional_similarity(output, source, [2 * X], [3 * X]))


def test_an_edit_succeeds_on_most_frames():
    frames = np.array([[Y, X, X + 2 * Y, X], [Y, Y, X + 2 * Y, X]])
    prompts, sources = np.array([Y, Y]), np.array([X, X])
    np.testing.assert_allclose(clip.share_nearer(frames, prompts, sources), [0.5, 0.75])
    np.testing.assert_allclose(clip.success(frames, prompts, sources), [0, 1])
    assert clip.success(np.array([[X + Y, X + Y]]), [Y], [X]) == 0  # as near to both


def test_frames_without_an_object_do_not_count():
    frames, seen = np.array([[X, Y], [X, Y]]), np.array([[True, False], [False, False]])
    np.testing.assert_allclose(clip.mean_cosine(frames, [X, X], seen), [1, np.nan])


@pytest.mark.parametrize(
    "rows, columns, box",
    [
        ((20, 30), (40, 60), (38, 13, 62, 37)),  # 20 wide: a square of 24 about its centre
        ((0, 10), (0, 4), (0, 0, 12, 12)),  # moved into the frame
        ((45, 50), (90, 100), (88, 38, 100, 50)),
        ((0, 50), (20, 80), (25, 0, 75, 50)),  # no larger than the frame
    ],
)
def test_the_crop_is_a_square_about_the_object(rows, columns, box):
    mask = np.zeros((50, 100), bool)
    mask[slice(*rows), slice(*columns)] = True
    assert crops.object_box(mask) == box


def test_crops_hold_the_object_and_no_more():
    frames = np.zeros((1, 2, 40, 60, 3), np.uint8)
    frames[0, 0, 10:20, 30:40] = 255
    masks = np.zeros((1, 2, 40, 60), bool)
    masks[0, 0, 10:20, 30:40] = True
    cut, seen = crops.crop_objects(frames, masks, 24)
    assert cut.shape == (1, 2, 24, 24, 3) and seen.tolist() == [[True, False]]
    assert cut[0, 0].mean() / 255 == pytest.approx((10 / 12) ** 2, abs=0.01) and not cut[0, 1].any()


def test_the_frechet_distance_is_that_of_the_formula():
    a, b = RNG.normal(size=(50, 6)), RNG.normal(size=(70, 6)) * [1, 2, 3, 1, 1, 0.5] + 0.3
    first, second = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)
    # For one feature it is that of the means, plus that of the standard deviations.
    one, other = np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]])
    assert frechet_distance(one, other) == pytest.approx(36 + 2)
    few = RNG.normal(size=(4, 30))  # fewer than features
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(few, few + 1) == pytest.approx(30)


def test_a_stopwatch_leaves_out_compiling_and_what_is_apart(quick, monkeypatch):
    """The clock is put forward by hours, so that the machine's own seconds do not matter."""
    import jax
    import jax.numpy as jnp

    now, hours = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)

    def wait(number: float) -> None:
        nonlocal hours
        hours += number

    @jax.jit
    def program(x):
        wait(100)  # while it is traced
        return jnp.sin(x) @ x

    with Stopwatch() as whole:
        with Stopwatch() as watch:
            program(np.ones((3, 3))).block_until_ready()
            with apart():
                wait(40)
                with apart():
                    wait(20)
            wait(10)
        wait(5)
    assert 10 <= watch.seconds / 3600 < 11
    assert 15 <= whole.seconds / 3600 < 16
    with Stopwatch() as again:
        watch.leave_out(0, 1e12)  # one that has ended
        wait(2)
    assert 2 <= again.seconds / 3600 < 3
