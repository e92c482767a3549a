"""Means over videos with confidence intervals, and paired comparisons of sets of records.

The unit is the video. Several prompts, or seeds, on one video are not independent of each other, so
they become one number first: their mean.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import METRICS, Record

# Two records are paired if they agree in these fields. `training_seed` tells models of one setting
# apart, where a comparison trained several.
PAIR = ("video", "clip", "prompt", "seed", "training_seed")
DOUBT = 0.05  # a change is beyond doubt where its p-value is smaller, after Holm's correction
_AT_ONCE = 1 << 22  # random numbers held at once


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


@dataclass(frozen=True)
class Change(Interval):
    """The mean difference of two settings, or models, on the same videos.

    Attributes:
      p: p-value of the test whose null is that the two are alike; see `p_values`.
      p_holm: the same after Holm's correction over all comparisons made at once.
      d_z: Cohen's d_z, the mean difference in standard deviations of the differences.
      risen: share of the videos on which the measure is higher than before; a tie is a half. The
        effect size that supposes no normal distribution: "probability of superiority".
      risen_low: lower end of its interval, Wilson's.
      risen_high: upper end.
    """

    p: float
    p_holm: float
    d_z: float
    risen: float
    risen_low: float
    risen_high: float

    @property
    def is_beyond_doubt(self) -> bool:
        """Whether such a difference is hardly one of chance, many comparisons considered."""
        return self.p_holm < DOUBT


# ---- means


def interval_of(records: Sequence[Record], metric: str, level: float = 0.95) -> Interval:
    """Returns a metric's mean over the videos of records; a record without it is left out."""
    return intervals_of(records, [metric], level)[metric]


def intervals_of(
    records: Sequence[Record], metrics: Sequence[str], level: float = 0.95
) -> dict[str, Interval]:
    """Returns each metric's mean over the videos of records; a record without it is left out."""
    values, _ = by_video(_numbers(records, metrics), videos_of(records))
    return dict(zip(metrics, confidence_intervals(values, level), strict=True))


def confidence_interval(
    values: Sequence[float] | np.ndarray,
    videos: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 4000,
) -> Interval:
    """Returns the mean over videos with its confidence interval, by the bootstrap over videos.

    Args:
      values: numbers. NaNs are left out; the interval of a single video is NaNs.
      videos: the video of each value; None: each value is of a video of its own.
      level: e.g. 0.95.
      seed: of the bootstrap. The same values give the same interval.
      resamples: of the bootstrap.
    """
    values = np.asarray(values, np.float64).reshape(-1, 1)
    if videos is not None:
        values, _ = by_video(values, videos)
    return confidence_intervals(values, level, seed, resamples)[0]


def confidence_intervals(
    values: np.ndarray, level: float = 0.95, seed: int = 0, resamples: int = 4000
) -> list[Interval]:
    """Returns the mean of each column with its confidence interval, by the bootstrap over rows.

    The bootstrap is the percentile one, at the expanded level of Hesterberg (2015, "What teachers
    should know about the bootstrap", section 5.3): a sample of n has a spread that is too small by
    √((n − 1) / n), and Student's tails. Columns that lack the same videos share their resamples.

    Args:
      values: a row for each video, a column for each measure; NaN where a video lacks it.
      level: e.g. 0.95.
      seed: of the bootstrap.
      resamples: of the bootstrap.
    """
    from scipy.stats import t  # a second to import

    known = ~np.isnan(values)
    found: list[Interval | None] = [None] * values.shape[1]
    alike: dict[bytes, list[int]] = {}
    for column in range(values.shape[1]):
        alike.setdefault(known[:, column].tobytes(), []).append(column)
    for columns in alike.values():
        sample = values[known[:, columns[0]]][:, columns]
        count = len(sample)
        means = sample.mean(0) if count else np.full(len(columns), np.nan)
        lows = highs = half_widths = np.full(len(columns), np.nan)
        if count > 1:
            quantile = t.ppf((1 + level) / 2, count - 1)
            half_widths = quantile * sample.std(0, ddof=1) / np.sqrt(count)
            tail = NormalDist().cdf(-quantile * math.sqrt(count / (count - 1)))
            # Around the mean, so that equal values have an interval of no width at all.
            around = _resampled_means(sample - means, seed, resamples)
            lows, highs = means + np.quantile(around, [tail, 1 - tail], axis=0)
        for column, *ends in zip(columns, means, lows, highs, half_widths, strict=True):
            found[column] = Interval(*map(float, ends), count)
    return found


def _resampled_means(sample: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Returns the means `[resamples m]` of rows `[n m]` drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(sample)
    means = []
    for rows in _parts(resamples, count):
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append(times.astype(np.float64) @ sample / count)
    return np.concatenate(means)


def _parts(total: int, width: int) -> Iterator[int]:
    """Yields numbers of rows of this width, `total` in all, of which memory holds each part."""
    size = max(1, _AT_ONCE // max(1, width))
    for start in range(0, total, size):
        yield min(size, total - start)


# ---- comparisons


def compare(
    before: Sequence[Record],
    after: Sequence[Record],
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
) -> dict[str, Change]:
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
    if lonely := unpaired(before, after):
        names = dict(zip(PAIR, lonely[0], strict=True))
        raise UserError(
            f"{len(lonely)} records have no partner to compare with, such as "
            f"{ {k: v for k, v in names.items() if v is not None} }"
        )
    return compare_all(before, [after], metrics, level)[0]


def unpaired(before: Sequence[Record], after: Sequence[Record]) -> list[tuple]:
    """Returns what is in one of two sets of records only, as values of `PAIR`.

    Raises:
      UserError: two records of one side are of the same edit.
    """
    return sorted(_by_pair(before).keys() ^ _by_pair(after).keys(), key=str)


def compare_all(
    before: Sequence[Record],
    others: Sequence[Sequence[Record]],
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
) -> list[dict[str, Change]]:
    """Returns the changes from one set of records to each of several; see `compare`.

    Holm's correction is over all of these comparisons: every other set times every metric. Records
    without a partner are left out; `Interval.count` says how many videos are there.

    Args:
      before: records that all others are compared with.
      others: e.g. those of each other setting.
      metrics: those that no record of a pair has are left out.
      level: e.g. 0.95.

    Raises:
      UserError: two records of one side are of the same edit.
    """
    first, places, columns = _by_pair(before), [], []
    videos = {video: row for row, video in enumerate(dict.fromkeys(videos_of(before)))}
    for number, other in enumerate(others):
        second = _by_pair(other)
        pairs = [pair for pair in first if pair in second]
        own, its = [first[pair] for pair in pairs], [second[pair] for pair in pairs]
        taken = [name for name in metrics if any(name in record for record in (*own, *its))]
        change = _numbers(its, taken) - _numbers(own, taken)
        means, names = by_video(change, videos_of(own))
        whole = np.full((len(videos), len(taken)), np.nan)
        whole[[videos[name] for name in names]] = means
        columns.append(whole)
        places += [(number, name) for name in taken]
    changes: list[dict[str, Change]] = [{} for _ in others]
    if not places:
        return changes
    values = np.concatenate(columns, axis=1)
    ps = p_values(values)
    found = zip(confidence_intervals(values, level), ps, holm(ps), values.T, strict=True)
    for (number, name), (interval, p, p_holm, column) in zip(places, found, strict=True):
        effects = effect_sizes(column, level)
        changes[number][name] = Change(
            **vars(interval), p=float(p), p_holm=float(p_holm), **effects
        )
    return changes


def p_values(differences: np.ndarray, flips: int | None = None, seed: int = 0) -> np.ndarray:
    """Returns a p-value for the mean of each column, by flipping the signs of rows at random.

    If two methods are alike, each video's difference could as well have had the other sign. So the
    mean is compared with the means after signs are flipped: Fisher's test of 1935 ("The Design of
    Experiments", section 21), two-sided. It supposes nothing about the distribution; for measures
    of 0 and 1 it is McNemar's exact test. Up to about 13 videos every way to flip is tried; from
    there on ways are drawn, and counted as Phipson and Smyth say (2010, "Permutation p-values
    should never be zero"). With five videos or fewer, no p-value is below 0.05.

    Args:
      differences: a row for each video, a column for each comparison. A NaN is left out.
      flips: ways to draw; None: 20,000, or 100 for each comparison, so that Holm's correction
        leaves a p-value room to be small.
      seed: of the draws.
    """
    known = ~np.isnan(differences)
    values = np.where(known, differences, 0)  # a zero adds nothing, whatever its sign
    count = len(values)
    flips = flips or max(20_000, 100 * values.shape[1])
    # Sums of the same numbers in another order differ in their last digits.
    least = np.abs(values.sum(0)) - 1e-9 * np.abs(values).sum(0)
    as_far, total, is_exact = np.zeros(values.shape[1]), 0, 2 ** min(count, 60) <= flips
    rng = np.random.default_rng(seed)
    width = max(values.shape)
    for rows in _parts(2**count if is_exact else flips, width):
        if is_exact:
            bits = np.arange(total, total + rows)[:, None] >> np.arange(count) & 1
        else:
            bits = rng.integers(2, size=(rows, count), dtype=np.int8)
        as_far += (np.abs((2.0 * bits - 1) @ values) >= least).sum(0)
        total += rows
    found = as_far / total if is_exact else (as_far + 1) / (total + 1)
    return np.where(known.any(0), found, np.nan)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns p-values corrected for their number, by Holm's step-down rule (1979).

    Where those below 0.05 are taken for real, the chance that any of them is not is below 5 %.
    NaNs stay, and do not count.
    """
    p_values = np.asarray(p_values, np.float64)
    found = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaNs come last
    steps = p_values[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return found


def effect_sizes(differences: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """Returns `d_z` and `risen` with its ends; see `Change`. A NaN is left out."""
    known = differences[~np.isnan(differences)]
    count = len(known)
    if not count:
        return dict.fromkeys(("d_z", "risen", "risen_low", "risen_high"), math.nan)
    spread = known.std(ddof=1) if count > 1 else math.nan
    risen = float((np.sign(known) + 1).mean() / 2)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (risen + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(risen * (1 - risen) / count + (z / (2 * count)) ** 2)
    reach /= 1 + z * z / count
    return {
        "d_z": float(known.mean() / spread) if spread else math.nan,
        "risen": risen,
        "risen_low": max(middle - reach, 0.0),
        "risen_high": min(middle + reach, 1.0),
    }


# ---- records by video


def videos_of(records: Sequence[Record]) -> list[Hashable]:
    """Returns the video of each record; one that names none counts by its clip, or for itself."""
    return [r.get("video", r.get("clip", number)) for number, r in enumerate(records)]


def by_video(values: np.ndarray, videos: Sequence[Hashable]) -> tuple[np.ndarray, list[Hashable]]:
    """Returns the mean of each video's values without NaNs, and the videos in their order.

    Args:
      values: `[r m]`, a row for each record.
      videos: of each row.

    Returns:
      Means `[v m]`, NaN where a video has no value, and the v videos.
    """
    names = {video: row for row, video in enumerate(dict.fromkeys(videos))}
    rows = np.array([names[video] for video in videos], int)
    known = ~np.isnan(values)
    totals = np.zeros((len(names), values.shape[1]))
    counts = np.zeros_like(totals)
    np.add.at(totals, rows, np.where(known, values, 0))
    np.add.at(counts, rows, known)
    means = np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)
    return means, list(names)


def _by_pair(records: Sequence[Record]) -> dict[tuple, Record]:
    found = {tuple(record.get(name) for name in PAIR): record for record in records}
    if len(found) < len(records):
        raise UserError(
            f"{len(records) - len(found)} records of one comparison have the same "
            f"{', '.join(PAIR)} as another; records of one setting are accepted"
        )
    return found


def _numbers(records: Sequence[Record], metrics: Sequence[str]) -> np.ndarray:
    """Returns the metrics of records `[r m]`, NaN where one is not there or not known."""
    values = [[record.get(name) for name in metrics] for record in records]
    return np.array(values, np.float64).reshape(len(records), len(metrics))
