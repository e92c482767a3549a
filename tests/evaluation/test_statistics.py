"""Intervals over videos: against the normal one, their coverage, and paired comparisons."""

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.evaluation.statistics import compare, confidence_interval, interval_of

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
