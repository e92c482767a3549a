"""Shows the results of an evaluation: means in a table, trends in a plot, edits in pictures."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import CONTROLS, METRICS, Record
from gen1_jax.evaluation.statistics import compare, interval_of, videos_of
from gen1_jax.files import replacing, write_json
from gen1_jax.video import pictures
from gen1_jax.video.io import write_video

# The measures that metrics.json names first, as those of the first setting.
HEADLINE = ("colour_accuracy", "structure_correlation", "frame_consistency", "prompt_consistency")

_LABELS = {"temporal_scale": "ω_t", "structure_level": "t_s", "guidance_scale": "ω"}


def write_summary(records: Sequence[Record], folder: Path, left_out: Sequence[str] = ()) -> str:
    """Writes table.md, metrics.json and, if a control varies, trends.png.

    Args:
      records: of all clips and settings, in the order of the grid.
      folder: where to write.
      left_out: what was not evaluated because it could not be read, a line each.

    Returns:
      The table as plain text.
    """
    rows = summarise(records)
    table = format_table(rows, markdown=True) + "\n"
    if changes := _changes(records):
        title = "Differences to the first setting, on the same videos:"
        table += f"\n{title}\n\n{format_table(changes, markdown=True)}\n"
    if left_out:
        table += f"\n{len(left_out)} prompts were left out:\n\n"
        table += "".join(f"- {line}\n" for line in left_out)
    with replacing(folder / "table.md") as part:
        part.write_text(table, encoding="utf-8")
    more = {"left_out": list(left_out)} if left_out else {}
    write_json(folder / "metrics.json", metrics_of(records, rows) | more)
    # Clips of a single frame have no frame consistency to plot.
    if _varied(records) and any("frame_consistency" in record for record in records):
        plot_trends(records, folder / "trends.png")
    return format_table(rows)


def metrics_of(records: Sequence[Record], rows: Sequence[Mapping]) -> dict:
    """Returns the content of metrics.json.

    Args:
      records: of all clips and settings, in the order of the settings.
      rows: of `summarise`.

    Returns:
      The headline measures of the first setting, and in `settings` every setting: its controls, the
      numbers of its `records` and `videos`, and each measure's `mean` over videos with its 95 %
      interval: `half_width`, `low` and `high` (null where there is none). Every setting but the
      first has `change`: each measure's difference to the first setting on the same videos.
    """
    fields = _fields(records)
    places = {tuple(record.get(name) for name in fields): None for record in records}
    by_setting = {tuple(row.get(name) for name in fields): row for row in rows}
    ordered = [by_setting[place] for place in places]
    headline = {
        name: float(ordered[0][name].mean)
        for name in HEADLINE
        if ordered and name in ordered[0] and not math.isnan(ordered[0][name].mean)
    }
    settings = []
    for row in ordered:
        controls = {name: row[name] for name in fields if row.get(name) is not None}
        counts = {"records": row["count"], "videos": row["videos"]}
        settings.append({**controls, **counts, **_as_json(row)})
    for setting, changes in zip(settings[1:], _changes(records), strict=True):
        setting["change"] = _as_json(changes)
    return {**headline, "settings": settings}


def _changes(records: Sequence[Record]) -> list[dict]:
    """Returns rows of the differences of each setting, from the second on, to the first."""
    fields, by_setting = _fields(records), {}
    for record in records:
        by_setting.setdefault(tuple(record.get(name) for name in fields), []).append(record)
    (_, first), *others = by_setting.items() or [((), [])]
    return [
        dict(zip(fields, setting, strict=True), **compare(first, group))
        for setting, group in others
    ]


def _fields(records: Sequence[Record]) -> list[str]:
    """Returns what tells settings apart: the controls, and the method if there are several."""
    several = len({record.get("method") for record in records}) > 1
    return [*(["method"] if several else []), *CONTROLS]


def _as_json(row: Mapping[str, object]) -> dict:
    """Returns the intervals of a row as metrics.json holds them."""
    names = ("mean", "half_width", "low", "high")
    return {
        metric: {name: _or_none(getattr(row[metric], name)) for name in names}
        for metric in METRICS
        if metric in row
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


# ---- means and tables


def summarise(
    records: Sequence[Record],
    by: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
) -> list[dict]:
    """Returns means with confidence intervals for each setting of `by`, in rising order.

    By default the settings are the controls, and the method if there are several.

    A video that occurs several times in a group (with other prompts or seeds, or controls not in
    `by`) counts once, with its mean: records of one video are not independent of each other.

    Returns:
      Rows: the setting's values, `count` (records), `videos`, and for every metric that any record
      has, a `statistics.Interval` over videos under the metric's name.
    """
    by = _fields(records) if by is None else by
    by = [name for name in by if any(name in record for record in records)]
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in by), []).append(record)
    present = [name for name in metrics if any(name in record for record in records)]
    rows = []
    for values in sorted(groups, key=lambda v: [(x is not None, str(type(x)), x) for x in v]):
        group = groups[values]
        row = dict(zip(by, values, strict=True), count=len(group))
        row["videos"] = len(set(videos_of(group)))
        row |= {name: interval_of(group, name, level) for name in present}
        rows.append(row)
    return rows


def format_table(rows: Sequence[Mapping[str, object]], markdown: bool = False) -> str:
    """Returns rows of `summarise` (or any dicts) as aligned plain text or as a Markdown table.

    An interval reads "mean ± half width". A column that no row has is left out.
    """
    if not rows:
        return "(no records)"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        [cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in cells
    ]
    if markdown:
        rule = ["-" * (width - 1) + ":" for width in map(lambda w: max(w, 3), widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in (lines[0], rule, *lines[1:]))


def _cell(value: object) -> str:
    if hasattr(value, "half_width"):
        if math.isnan(value.mean):
            return "-"
        plus = "" if math.isnan(value.half_width) else f" ± {value.half_width:.3f}"
        return f"{value.mean:.3f}{plus}"
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- the plot


def _of_first_method(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.get("method") == records[0].get("method")]


def _varied(records: Sequence[Record], controls: Sequence[str] = CONTROLS) -> list[str]:
    """Returns the controls that take several values, in the edits of the first method."""
    own = _of_first_method(records)
    return [name for name in controls if len({r.get(name) for r in own if name in r}) > 1]


def plot_trends(
    records: Sequence[Record],
    path: str | os.PathLike,
    controls: Sequence[str] = CONTROLS,
    x: str = "frame_consistency",
    y: str = "prompt_consistency",
) -> None:
    """Plots the paper's trade-off figure: `y` against `x` as each control takes its values.

    Each control that varies has a panel. In it, each setting of the other controls has a curve, and
    each value of the control a point with 95 % error bars both ways and the value beside it.

    Raises:
      UserError: no control varies, a metric is missing, or the picture cannot be written.
    """
    records = _of_first_method(records)
    varied = _varied(records, controls)
    for metric in (x, y):
        if not any(metric in record for record in records):
            raise UserError(f"no record holds {metric}; nothing to plot")
    if not varied:
        raise UserError(f"nothing to plot: none of {', '.join(controls)} takes two values or more")
    # Without pyplot, a figure needs no display and heeds no setting of the user's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(varied), 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    records = [record for record in records if all(record.get(n) is not None for n in varied)]
    rows = summarise(records, by=varied, metrics=(x, y))
    panels = figure.subplots(1, len(varied), squeeze=False)[0]
    for panel, control in zip(panels, varied, strict=True):
        others = [name for name in varied if name != control]
        curves: dict[tuple, list[dict]] = {}
        for row in rows:
            curves.setdefault(tuple(row[name] for name in others), []).append(row)
        _plot_curves(panel, control, others, curves, x, y)
        panel.set_xlabel(x.replace("_", " "))
        panel.set_ylabel(y.replace("_", " "))
        panel.set_title(f"{control.replace('_', ' ')} {_LABELS.get(control, '')}", fontsize=11)
        panel.grid(alpha=0.3, linewidth=0.6)
        panel.margins(0.12)
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path}: not a plot's name; accepted are .png, .svg, .pdf")
    with replacing(path) as part:
        figure.savefig(part)


def _plot_curves(panel, control: str, others: list[str], curves: dict, x: str, y: str) -> None:
    """Draws one panel. A legend of more than eight curves would cover the points: it has none."""
    for index, (setting, rows) in enumerate(sorted(curves.items(), key=str)):
        rows = sorted(rows, key=lambda row: row[control])
        label = ", ".join(
            f"{_LABELS.get(n, n)} = {_cell(v)}" for n, v in zip(others, setting, strict=True)
        )
        colour = f"C{index % 10}"
        panel.errorbar(
            [row[x].mean for row in rows],
            [row[y].mean for row in rows],
            xerr=np.nan_to_num([row[x].half_width for row in rows]),
            yerr=np.nan_to_num([row[y].half_width for row in rows]),
            marker="o",
            markersize=4,
            linewidth=1.4,
            elinewidth=0.7,
            capsize=2,
            color=colour,
            label=label,
        )
        for row in rows:
            panel.annotate(
                _cell(row[control]),
                (row[x].mean, row[y].mean),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
    if others and len(curves) <= 8:
        panel.legend(fontsize=8, framealpha=0.7)


# ---- pictures


def picture_edits(rows: list[dict[str, np.ndarray]], folder: Path) -> None:
    """Writes a contact sheet, a side-by-side mp4 of each clip, and a GIF of the first six clips.

    Args:
      rows: one for each clip: title → clip `[n h w 3]`; the source, its depth, and the edits.
      folder: where to write.
    """
    brief = [dict(list(row.items())[:3]) for row in rows]  # source, depth, first edit
    pictures.save_image(folder / "contact_sheet.png", pictures.contact_sheet(brief))
    if len(rows[0]) > 3:
        pictures.save_image(folder / "controls.png", pictures.contact_sheet(rows, 2))
    for i, row in enumerate(rows):
        clip = _to_and_fro(pictures.side_by_side(row))
        write_video(folder / "videos" / f"edit_{i:02d}.mp4", clip, fps=8, overwrite=True)
    scale = max(1, 128 // brief[0]["source"].shape[1])
    panels = [pictures.side_by_side(row, scale=scale) for row in brief[:6]]
    width, height = (max(panel.shape[axis] for panel in panels) for axis in (2, 1))
    panels = [
        np.pad(p, ((0, 0), (0, height - p.shape[1]), (0, width - p.shape[2]), (0, 0)), mode="edge")
        for p in panels
    ]
    half = -(-len(panels) // 2)
    panels += [np.zeros_like(panels[0])] * (2 * half - len(panels))
    columns = [np.concatenate(column, axis=1) for column in (panels[:half], panels[half:])]
    write_video(folder / "edits.gif", np.concatenate(columns, axis=2), fps=8, overwrite=True)


def _to_and_fro(clip: np.ndarray, times: int = 4) -> np.ndarray:
    """Returns the clip played forward and backward several times, since it is short."""
    return np.concatenate([clip, clip[-2:0:-1]] * times)
