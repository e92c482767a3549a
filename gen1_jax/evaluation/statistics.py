"""Means over videos with confidence intervals, and paired comparisons of two sets of records.

The unit is the video. Several prompts, or seeds, on one video are not independent of each other, so
they become one number first: their mean.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import METRICS, Record

# Two records are paired if they agree in these fields. `training_seed` tells models of one setting
# apart, where a comparison trained several.
PAIR = ("video", "clip", "prompt", "seed", "training_seed")


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
      mean: of one number per video.
      low: lower end of the interval, by bootstrap.
      high: upper end of the interval, by bootstrap.
      half_width: of the interval by Student's t: 2.0 standard errors at 95 % for 60 videos.
      count: videos.
    """

    mean: float
    low: float
    high: float
    half_width: float
    count: int


def confidence_interval(
    values: Sequence[float] | np.ndarray,
    videos: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 4000,
) -> Interval:
    """Returns the mean over videos with its confidence interval, by the bootstrap over videos.

    The bootstrap is the percentile one, at the expanded level of Hesterberg (2015, "What teachers
    should know about the bootstrap", section 5.3): a sample of n has a spread that is too small by
    √((n − 1) / n), and Student's tails.

    Args:
      values: numbers. NaNs are left out; the interval of a single video is NaNs.
      videos: the video of each value; None: each value is of a video of its own.
      level: e.g. 0.95.
      seed: of the bootstrap. The same values give the same interval.
      resamples: of the bootstrap.
    """
    from scipy.stats import bootstrap, t  # a second to import

    values = np.asarray(values, np.float64).ravel()
    if videos is not None:
        values = np.array(list(means_by(zip(videos, values, strict=True)).values()), np.float64)
    values = values[~np.isnan(values)]
    count = len(values)
    if count == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    if count == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    quantile = t.ppf((1 + level) / 2, count - 1)
    half_width = quantile * values.std(ddof=1) / np.sqrt(count)
    expanded = 2 * NormalDist().cdf(quantile * math.sqrt(count / (count - 1))) - 1
    low, high = bootstrap(
        (values,),
        np.mean,
        confidence_level=expanded,
        method="percentile",
        n_resamples=resamples,
        batch=200,  # an evaluation may have many thousand videos
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(low), float(high), float(half_width), count)


def interval_of(records: Sequence[Record], metric: str, level: float = 0.95) -> Interval:
    """Returns a metric's mean over the videos of records; a record without it is left out."""
    values = [_number(record.get(metric)) for record in records]
    return confidence_interval(values, videos_of(records), level)


def compare(
    before: Sequence[Record],
    after: Sequence[Record],
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Returns the change of each metric between two settings, or models, on the same videos.

    Records are paired, differences `after − before` are averaged for each video, and the interval
    is that of the mean over videos. Videos differ far more from each other than two settings on
    one video, so this sees changes that the intervals of the two means do not show.

    Args:
      before: records of one setting or model.
      after: records of the other, of the same videos, prompts and seeds.
      metrics: those that no record has are left out.
      level: e.g. 0.95.

    Raises:
      UserError: a record has no partner on the other side, or two of one side are of the same edit.
    """
    first, second = _by_pair(before), _by_pair(after)
    if alone := sorted(first.keys() ^ second.keys(), key=str):
        names = dict(zip(PAIR, alone[0], strict=True))
        raise UserError(
            f"{len(alone)} records have no partner to compare with, such as "
            f"{ {k: v for k, v in names.items() if v is not None} }"
        )
    changes = {}
    for metric in metrics:
        if any(metric in record for record in (*before, *after)):
            values = [_number(second[p].get(metric)) - _number(first[p].get(metric)) for p in first]
            videos = videos_of(list(first.values()))
            changes[metric] = confidence_interval(values, videos, level)
    return changes


def means_by(pairs: Iterable[tuple[Hashable, float]]) -> dict[Hashable, float]:
    """Returns the mean of each name's values without NaNs, from (name, value) pairs, in order."""
    values: dict[Hashable, list[float]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    known = {name: [v for v in vs if not math.isnan(v)] for name, vs in values.items()}
    return {name: sum(vs) / len(vs) if vs else math.nan for name, vs in known.items()}


def videos_of(records: Sequence[Record]) -> list[Hashable]:
    """Returns the video of each record; one that names none counts by its clip, or for itself."""
    return [r.get("video", r.get("clip", number)) for number, r in enumerate(records)]


def _by_pair(records: Sequence[Record]) -> dict[tuple, Record]:
    found = {tuple(record.get(name) for name in PAIR): record for record in records}
    if len(found) < len(records):
        raise UserError(
            f"{len(records) - len(found)} records of one comparison have the same "
            f"{', '.join(PAIR)} as another; records of one setting are accepted"
        )
    return found


def _number(value: object) -> float:
    return math.nan if value is None else float(value)
