"""Means of each setting, and its differences to another, as rows and as tables of text."""

import math
from collections.abc import Mapping, Sequence

from gen1_jax.evaluation.metrics.table import TABLE
from gen1_jax.evaluation.records import CONTROLS, METRICS, RUN, Record
from gen1_jax.evaluation.statistics import (
    DOUBT,
    PAIR,
    Change,
    Interval,
    compare_all,
    intervals_of,
    unpaired,
    videos_of,
)

MARKS = {"better": "✓", "worse": "✗", "different": "*"}
_MOST_DIGITS = 5  # behind the point


# ---- rows


def fields_of(records: Sequence[Record]) -> list[str]:
    """Returns what tells settings apart: controls, and the method or model if there are several."""
    return [*varied(records, ("method",)), *CONTROLS, *varied(records, RUN)]


def varied(records: Sequence[Record], fields: Sequence[str]) -> list[str]:
    """Returns the fields in which the records differ."""
    return [name for name in fields if len({record.get(name) for record in records}) > 1]


def group_records(records: Sequence[Record], by: Sequence[str]) -> dict[tuple, list[Record]]:
    """Returns the records of each setting, in the order in which settings come first."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in by), []).append(record)
    return groups


def newest_of_each(records: Sequence[Record]) -> list[Record]:
    """Returns the last record of each setting and edit, where files of records hold several.

    Such records differ in what is no setting: other frames of the video, or a mask that changed.
    """
    fields = (*fields_of(records), *PAIR)
    newest = {tuple(record.get(name) for name in fields): record for record in records}
    return list(newest.values())


def summarise(
    records: Sequence[Record],
    by: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
) -> list[dict]:
    """Returns means with confidence intervals for each setting of `by`.

    By default the settings are the controls, and the method if there are several. Numbers are in
    rising order, words in the order in which they come first.

    A video that occurs several times in a group (with other prompts or seeds, or controls not in
    `by`) counts once, with its mean: records of one video are not independent of each other.

    Returns:
      Rows: the setting's values, `count` (records), `videos`, and for every metric that any record
      has, a `statistics.Interval` over videos under the metric's name.
    """
    by = fields_of(records) if by is None else by
    by = [name for name in by if any(name in record for record in records)]
    groups = group_records(records, by)
    present = [name for name in metrics if any(name in record for record in records)]
    words = {value: place for place, value in enumerate(v for g in groups for v in g)}

    def order(setting: tuple) -> list[tuple]:
        ranks = [words[value] if isinstance(value, str) else value for value in setting]
        return [(v is not None, isinstance(v, str), r) for v, r in zip(setting, ranks, strict=True)]

    rows = []
    for values in sorted(groups, key=order):
        group = groups[values]
        row = dict(zip(by, values, strict=True), count=len(group))
        row["videos"] = len(set(videos_of(group)))
        rows.append(row | intervals_of(group, present, level))
    return rows


def compare_settings(
    records: Sequence[Record], metrics: Sequence[str] = METRICS, level: float = 0.95
) -> list[dict]:
    """Returns the differences of each setting, from the second on, to the first.

    Holm's correction is over all of them: every setting times every metric.

    Returns:
      Rows in the order of the settings: the setting's values, `count` (pairs of records), `alone`
      (records without a partner, which are left out), and for every metric a `statistics.Change`.
    """
    fields = fields_of(records)
    (_, first), *others = group_records(records, fields).items() or [((), [])]
    changes = compare_all(first, [group for _, group in others], metrics, level)
    rows = []
    for (setting, group), change in zip(others, changes, strict=True):
        alone = len(unpaired(first, group))
        count = (len(first) + len(group) - alone) // 2
        rows.append(dict(zip(fields, setting, strict=True), count=count, alone=alone) | change)
    return rows


# ---- text


def verdict_of(metric: str, change: Change) -> str | None:
    """Returns what a change is beyond doubt, of `MARKS`; None if it may be one of chance."""
    if not change.is_beyond_doubt:
        return None
    higher_is_better = TABLE[metric].higher_is_better if metric in TABLE else None
    if higher_is_better is None:
        return "different"
    return "better" if (change.mean > 0) == higher_is_better else "worse"


def explain_marks(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns a sentence on the marks of a table of differences."""
    changes = [value for row in rows for value in row.values() if isinstance(value, Change)]
    said = (
        f"✓ better, ✗ worse, * different where neither is better, all beyond doubt: p < {DOUBT:g} "
        f"after Holm's correction for the table's {len(changes)} comparisons."
    )
    videos = max((change.count for change in changes), default=0)
    if len(changes) * 2.0 ** (1 - videos) >= DOUBT:  # the least p-value that signs can give
        said += f" {videos} videos are too few for any of them: give more, or fewer --metrics."
    return said


def format_table(rows: Sequence[Mapping[str, object]], markdown: bool = False) -> str:
    """Returns rows of `summarise` (or any dicts) as aligned plain text or as a Markdown table.

    An interval reads "mean ± half width", a change beyond doubt has its mark, in Markdown in bold.
    A column that no row has is left out.
    """
    if not rows:
        return "(no records)"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = [_format_column(name, [row.get(name) for row in rows], markdown) for name in columns]
    widths = [max(map(len, column)) for column in texts]
    lines = [
        [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        for line in zip(*texts, strict=True)
    ]
    if markdown:
        rule = ["-" * (width - 1) + ":" for width in map(lambda w: max(w, 3), widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in (lines[0], rule, *lines[1:]))


def _format_column(name: str, values: Sequence[object], markdown: bool) -> list[str]:
    """Returns the head and the cells of a column, all intervals with the same number of digits."""
    widths = [v.half_width for v in values if isinstance(v, Interval) and v.half_width > 0]
    # As many digits as the narrowest interval needs to be more than 0.
    digits = min(max(3, math.ceil(-math.log10(min(widths)))), _MOST_DIGITS) if widths else 3
    marks = [verdict_of(name, v) if isinstance(v, Change) else None for v in values]
    cells = [name.replace("_", " ")]
    for value, mark in zip(values, marks, strict=True):
        text = format_cell(value, digits)
        if mark:
            text = f"{text} {MARKS[mark]}"
            text = f"**{text}**" if markdown else text
        elif any(marks) and not markdown:
            text += "  "  # figures stand below each other
        cells.append(text)
    return cells


def format_cell(value: object, digits: int = 3) -> str:
    """Returns a value as a table shows it."""
    if isinstance(value, Interval):
        if math.isnan(value.mean):
            return "-"
        sign = "+" if isinstance(value, Change) else ""
        plus = "" if math.isnan(value.half_width) else f" ± {value.half_width:.{digits}f}"
        return f"{value.mean:{sign}.{digits}f}{plus}"
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
