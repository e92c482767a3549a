"""Intervals and tests over videos: against SciPy's, their coverage, and paired comparisons."""

import numpy as np
import pytest
from scipy import stats

from gen1_jax.errors import UserError
from gen1_jax.evaluation.statistics import (
    compare,
    compare_all,
    confidence_interval,
    confidence_intervals,
    effect_sizes,
    holm,
    interval_of,
    p_values,
)

RNG = np.random.default_rng(0)


def test_an_interval_is_near_the_normal_one():
    values = RNG.normal(3.0, 2.0, 400)
    interval = confidence_interval(values)
    assert interval.mean == pytest.approx(values.mean()) and interval.count == 400
    assert interval.half_width == pytest.approx(1.966 * values.std(ddof=1) / 20, rel=1e-3)
    assert interval.high - interval.mean == pytest.approx(interval.half_width, rel=0.12)
    assert interval.mean - interval.low == pytest.approx(interval.half_width, rel=0.12)
    assert interval == confidence_interval(values)  # the same values, the same interval
    wider = confidence_interval(values, level=0.99)
    assert wider.low < interval.low < interval.high < wider.high


@pytest.mark.parametrize("num_videos", [10, 40])
def test_intervals_cover_where_videos_have_several_prompts(num_videos):
    """Of 1000 evaluations, 93 to 97 % of the intervals hold the true mean, 0.

    Each has four prompts a video, and videos differ more than the prompts of one video. Where each
    prompt is taken for an independent clip, two thirds do.
    """
    shape = (1000, num_videos, 4)
    rng = np.random.default_rng(num_videos)
    trials = rng.normal(0, 1, shape[:2])[..., None] + rng.normal(0, 0.2, shape)
    videos = np.repeat(np.arange(num_videos), 4)
    found = [confidence_interval(trial.ravel(), videos, resamples=400) for trial in trials]
    assert {interval.count for interval in found} == {num_videos}
    assert 0.93 <= np.mean([i.low <= 0 <= i.high for i in found]) <= 0.97
    assert 0.93 <= np.mean([abs(i.mean) <= i.half_width for i in found]) <= 0.97
    clips = trials.reshape(1000, -1)
    assert np.mean(abs(clips.mean(1)) <= 1.96 * clips.std(1) / clips.shape[1] ** 0.5) < 0.7


def test_intervals_of_few():
    assert np.isnan(confidence_interval([]).mean)
    one = confidence_interval([0.5, np.nan])
    assert one.mean == 0.5 and one.count == 1 and np.isnan(one.half_width)
    same = confidence_interval([0.25] * 8)
    assert (same.low, same.high, same.half_width) == (0.25, 0.25, 0)


def records(video_effects: np.ndarray, change: float = 0.0) -> list[dict]:
    """Two prompts on each video, with prompt effects that both sides of a comparison share."""
    return [
        {"clip": f"{v}#{p}", "video": str(v), "prompt": str(p), "flicker": x + p + change * (1 + p)}
        for v, x in enumerate(video_effects)
        for p in range(2)
    ]


def test_a_video_counts_once():
    found = interval_of(records(np.array([0.0, 1.0, 5.0])), "flicker")
    assert found.count == 3 and found.mean == 2.5
    # Records without the name of their video count by their clip, as they were written earlier.
    old = [{"clip": c, "flicker": x} for c, x in (("a", 1.0), ("a", 3.0), ("b", None), ("c", 4.0))]
    assert interval_of(old, "flicker").count == 2 and interval_of(old, "flicker").mean == 3.0


def test_a_comparison_sees_a_change_far_smaller_than_videos_differ():
    videos = RNG.normal(0, 10, 30)
    before, after = records(videos), records(videos + RNG.normal(0, 0.05, 30), change=0.1)
    change = compare(before, after[::-1])["flicker"]  # in any order
    assert change.mean == pytest.approx(0.15, abs=0.05) and change.count == 30
    assert 0.1 < change.low < change.mean < change.high < 0.2
    assert interval_of(before, "flicker").half_width > 3
    assert compare(before, before)["flicker"].high == 0
    assert "mask_iou" not in compare(before, after)


def test_a_comparison_names_records_without_a_partner():
    whole = records(np.arange(3.0))
    with pytest.raises(UserError, match="2 records have no partner .*'video': '2'"):
        compare(whole, whole[:-2])
    with pytest.raises(UserError, match="6 records of one comparison have the same"):
        compare(whole + whole, whole)


def test_columns_have_the_intervals_that_they_have_alone():
    values = RNG.normal(size=(20, 3))
    values[:5, 1] = np.nan
    for found, column in zip(confidence_intervals(values), values.T, strict=True):
        assert vars(found) == pytest.approx(vars(confidence_interval(column)))
    drawn = stats.bootstrap(
        (values[:, 0],), np.mean, method="percentile", n_resamples=20_000, rng=RNG
    ).confidence_interval
    narrower = confidence_interval(values[:, 0], level=0.925)  # what Hesterberg's level undoes
    assert (narrower.low, narrower.high) == pytest.approx((drawn.low, drawn.high), abs=0.03)


# ---- p-values


def test_p_values_are_those_of_scipy():
    values = RNG.normal(0.5, 1, (10, 3))
    expected = stats.permutation_test(
        (values,),
        lambda v, axis: v.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    np.testing.assert_allclose(p_values(values), expected)
    # a NaN is a video less, also where signs are drawn
    more = np.concatenate([values, np.full((20, 3), np.nan)])
    np.testing.assert_allclose(p_values(more), expected, atol=0.01)
    assert np.isnan(p_values(np.full((4, 1), np.nan))).all()
    # of measures that are 0 or 1, McNemar's exact test
    gains = np.repeat([[1.0], [-1.0], [0.0]], [9, 1, 30], axis=0)
    assert p_values(gains)[0] == pytest.approx(stats.binomtest(1, 10).pvalue, abs=0.003)
    assert p_values(np.zeros((9, 1))) == 1


@pytest.mark.parametrize("num_videos", [10, 20, 64])
@pytest.mark.parametrize("tails", ["normal", "t2", "lognormal"])
def test_one_in_twenty_p_values_is_below_a_twentieth_where_nothing_differs(num_videos, tails):
    rng = np.random.default_rng(num_videos)
    draw = {
        "normal": rng.normal,
        "t2": lambda size: rng.standard_t(2, size),
        "lognormal": lambda size: rng.lognormal(0, 1.5, size),
    }[tails]
    shape = (num_videos, 1000)
    ps = p_values(draw(size=shape) - draw(size=shape), flips=4000)
    assert 0.03 <= np.mean(ps < 0.05) <= 0.07
    assert np.mean(ps < 0.5) == pytest.approx(0.5, abs=0.06)


def test_holm_by_hand():
    np.testing.assert_allclose(
        holm([0.01, 0.04, 0.03, np.nan, 0.5]), [0.04, 0.09, 0.09, np.nan, 0.5]
    )
    assert holm([0.4, 0.9]).tolist() == [0.8, 0.9] and holm([]).size == 0


def test_comparisons_made_at_once_are_corrected_together():
    videos = RNG.normal(0, 10, 12)
    before = records(videos)
    afters = [records(videos + RNG.normal(0, 1, 12), change=c) for c in (0.0, 0.3, 0.6, 3.0)]
    found = [change["flicker"] for change in compare_all(before, afters)]
    alone = [compare(before, after)["flicker"] for after in afters]
    assert [c.p for c in found] == [c.p for c in alone] == [c.p_holm for c in alone]
    assert [c.p_holm for c in found] == holm([c.p for c in alone]).tolist()
    assert found[-1].is_beyond_doubt and not found[0].is_beyond_doubt
    assert found[-1].p == 2 / 2**12  # every way to flip the signs of 12 videos was tried
    assert compare_all(before, []) == []


def test_effect_sizes():
    found = effect_sizes(np.array([1.0, 3.0, np.nan, 0.0, -1.0]))
    assert found["d_z"] == pytest.approx(0.75 / np.std([1, 3, 0, -1], ddof=1))
    assert found["risen"] == 0.625  # the tie is a half
    whole = effect_sizes(np.ones(20))
    wilson = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (whole["risen_low"], whole["risen_high"]) == pytest.approx((wilson.low, wilson.high))
    assert np.isnan(whole["d_z"]) and np.isnan(effect_sizes(np.array([]))["risen"])
