"""Writes the results of an evaluation: tables, the same as JSON, and plots."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from gen1_jax.evaluation.clip_judge import OWN
from gen1_jax.evaluation.metrics.table import TABLE
from gen1_jax.evaluation.plots import plot_trends, varied_controls
from gen1_jax.evaluation.records import METRICS, Record
from gen1_jax.evaluation.statistics import Change, Interval
from gen1_jax.evaluation.tables import (
    compare_settings,
    explain_marks,
    fields_of,
    format_table,
    group_records,
    summarise,
    varied,
    verdict_of,
)
from gen1_jax.evaluation.trade_off import has_trade_off, plot_trade_off
from gen1_jax.files import replacing, write_json

# The measures that tables and metrics.json show first.
HEADLINE = ("colour_accuracy", "structure_correlation", "frame_consistency", "prompt_consistency")
GROUPS = ("kind", "camera")  # fields of records that have tables of their own, where they vary
# Seconds are those of a machine, so they are shown where they are asked for.
SHOWN = tuple(name for name in METRICS if name != "seconds")
_COLUMNS = 6  # measures side by side in table.md


def write_summary(
    records: Sequence[Record],
    folder: Path,
    shown: Sequence[str] | None = None,
    left_out: Sequence[str] = (),
    metrics: Sequence[str] = SHOWN,
    groups: Sequence[str] = GROUPS,
    fvd: Sequence[Mapping] = (),
) -> str:
    """Writes table.md, metrics.json, and plots of what varies: trends.png and trade_off.png.

    Args:
      records: of all clips and settings, in the order of the grid.
      folder: where to write.
      shown: measures of the returned table; None: the headline ones.
      left_out: what was not evaluated because it could not be read, a line each.
      metrics: the measures to write; others of the records are left out.
      groups: fields of records that have tables of their own, where they vary.
      fvd: of each setting; see `fvd.KeptFeatures`.

    Returns:
      The means, and their differences to the first setting, as plain text.
    """
    hidden = set(METRICS) - set(metrics)
    records = [{k: v for k, v in record.items() if k not in hidden} for record in records]
    rows, changes = summarise(records), compare_settings(records)
    by_group = {
        group: summarise(records, [*fields_of(records), group]) for group in varied(records, groups)
    }
    with replacing(folder / "table.md") as part:
        text = _as_markdown(rows, changes, by_group)
        if fvd:
            text += f"\nFVD, of the edits against the clips:\n\n{format_table(fvd, True)}\n"
        if left_out:
            text += f"\nLeft out, since they cannot be read ({len(left_out)}):\n\n"
            text += "".join(f"- {line}\n" for line in left_out)
        part.write_text(text, encoding="utf-8")
    more = {"left_out": list(left_out)} if left_out else {}
    more |= {"fvd": list(fvd)} if fvd else {}
    write_json(folder / "metrics.json", metrics_of(records, rows, changes, by_group) | more)
    # Clips of a single frame have no frame consistency to plot, and --metrics may leave one out.
    names = {name for record in records for name in record}
    has_both = {"frame_consistency", "prompt_consistency"} <= names
    if varied_controls(records) and has_both:
        plot_trends(records, folder / "trends.png")
    if has_both and has_trade_off(records):
        plot_trade_off(records, folder / "trade_off.png")
    text = _as_text(records, rows, changes, shown)
    return f"{text}\n\n{format_table(fvd)}" if fvd else text


# ---- tables


def _as_markdown(
    rows: Sequence[Mapping], changes: Sequence[Mapping], by_group: Mapping[str, Sequence[Mapping]]
) -> str:
    """Returns the content of table.md: all measures, some side by side, the headline ones first."""
    parts = ["Means over videos, with 95 % intervals:", *_split(rows)]
    if changes:
        parts += ["Differences to the first setting, on the same videos:", *_split(changes)]
        parts += [explain_marks(changes)]
    for group, grouped in by_group.items():
        parts += [f"By {group}:", *_split(grouped)]
    return "\n\n".join(parts) + "\n"


def _split(rows: Sequence[Mapping]) -> list[str]:
    """Returns tables that together show all measures of the rows."""
    names = [name for name in METRICS if any(name in row for row in rows)]
    names = sorted(names, key=lambda name: name not in HEADLINE)
    return [
        format_table([_columns(row, names[start : start + _COLUMNS]) for row in rows], True)
        for start in range(0, max(1, len(names)), _COLUMNS)
    ]


def _as_text(
    records: Sequence[Record],
    rows: Sequence[Mapping],
    changes: Sequence[Mapping],
    shown: Sequence[str] | None,
) -> str:
    """Returns the tables of the terminal, which show only what differs, and some measures."""
    names = [name for name in shown or HEADLINE if any(name in row for row in rows)]
    names = names or [name for name in METRICS if any(name in row for row in rows)]
    fields = [*varied(records, fields_of(records)), "videos"]
    text = format_table([_columns(row, names, fields) for row in rows])
    if changes:
        table = format_table([_columns(row, names, fields) for row in changes])
        text += f"\n\ndifferences to the first setting, on the same videos\n{table}\n"
        text += explain_marks(changes)
    return text


def _columns(row: Mapping, names: Sequence[str], fields: Sequence[str] | None = None) -> dict:
    """Returns a part of a row: fields (None: all) that are no measures, and some measures."""
    rest = [name for name in row if name not in METRICS] if fields is None else fields
    return {name: row[name] for name in (*rest, *names) if name in row}


# ---- JSON


def metrics_of(
    records: Sequence[Record],
    rows: Sequence[Mapping],
    changes: Sequence[Mapping],
    by_group: Mapping[str, Sequence[Mapping]],
) -> dict:
    """Returns the content of metrics.json.

    Args:
      records: of all clips and settings, in the order of the settings.
      rows: of `summarise`.
      changes: of `compare_settings`.
      by_group: field, such as "kind" → rows of `summarise` by setting and this field.

    Returns:
      The headline measures of the first setting. `measures`: where each measure comes from, and
      whether higher is better. `settings`: every setting's controls, the numbers of its `records`
      and `videos`, and each measure's `mean` over videos with its 95 % interval, `half_width`,
      `low` and `high` (null where there is none). Every setting but the first has `change`: each
      measure's difference to the first setting on the same videos, with its p-value, effect sizes
      and verdict. `by_kind` and `by_camera`, where these vary: the same as `settings`.
    """
    fields = fields_of(records)
    by_setting = {tuple(row.get(name) for name in fields): row for row in rows}
    ordered = [by_setting[place] for place in group_records(records, fields)]
    headline = {
        name: float(ordered[0][name].mean)
        for name in HEADLINE
        if ordered and name in ordered[0] and not math.isnan(ordered[0][name].mean)
    }
    settings = [_as_json(row, fields) for row in ordered]
    for setting, change in zip(settings[1:], changes, strict=True):
        setting["change"] = _as_json(change, ())
    return {
        **headline,
        "measures": _sources(records),
        "settings": settings,
        **{
            f"by_{group}": [_as_json(row, (*fields, group)) for row in grouped]
            for group, grouped in by_group.items()
        },
    }


def _sources(records: Sequence[Record]) -> dict:
    """Returns where each measure of the records comes from."""
    # A record of an earlier version was measured by the pipeline's own CLIP.
    clips = {str(record.get("metric_clip_name", OWN)) for record in records}
    return {
        name: {
            "source": metric.source,
            "backbone": metric.backbone
            + (f": {', '.join(sorted(clips))}" if metric.backbone == "CLIP" else ""),
            "scale": metric.scale,
            "higher_is_better": metric.higher_is_better,
        }
        for name, metric in TABLE.items()
        if any(name in record for record in records)
    }


def _as_json(row: Mapping[str, object], fields: Sequence[str]) -> dict:
    """Returns a row as metrics.json holds it."""
    counts = {"count": "records", "videos": "videos", "alone": "without_partner"}
    return {
        **{name: row[name] for name in fields if row.get(name) is not None},
        **{name: row[count] for count, name in counts.items() if row.get(count) is not None},
        **{name: _measure_as_json(name, row[name]) for name in METRICS if name in row},
    }


def _measure_as_json(name: str, interval: Interval) -> dict:
    found = {key: _or_none(value) for key, value in vars(interval).items() if key != "count"}
    found["videos"] = interval.count
    return found | ({"verdict": verdict_of(name, interval)} if isinstance(interval, Change) else {})


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
