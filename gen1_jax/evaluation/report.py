"""Records of an evaluation: written as they come, read back to resume, summed up, tabled, plotted.

A record is a flat dict, one per clip and setting of the controls: `{"clip": "...", "prompt": "...",
"temporal_scale": 1.0, ..., "frame_consistency": 0.97, ...}`, one JSON object a line.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.metrics import Interval, confidence_interval, paired_interval
from gen1_jax.files import replacing

CONTROLS = ("temporal_scale", "structure_level", "guidance_scale")
METRICS = (
    "frame_consistency",
    "prompt_consistency",
    "structure_error",
    "structure_correlation",
    "colour_accuracy",
    "mask_iou",
    "flicker",
)
KEY = ("clip", "prompt", "method", "seed", *CONTROLS)
"""What tells one record from another."""

_LABELS = {"temporal_scale": "ω_t", "structure_level": "t_s", "guidance_scale": "ω"}

Record = Mapping[str, object]


# --- JSONL ----------------------------------------------------------------------------------------


def write_jsonl(path: str | os.PathLike, records: Iterable[Record]) -> int:
    """Appends records, each by one write of one whole line, on disk when this returns.

    A line torn by a kill in mid-write is closed off first, so that it spoils no later record.

    Returns:
        How many were written.

    Raises:
        UserError: the file cannot be written to.
    """
    path = Path(path)
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                os.write(handle, b"\n")
            for record in records:
                line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
                _write_all(handle, line.encode())
                count += 1
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    return count


def read_jsonl(path: str | os.PathLike) -> tuple[list[dict], int]:
    """Records written so far and how many torn lines were passed over; a missing file has none.

    Of several records with one key (two sweeps into one file) the last one counts.

    Raises:
        UserError: the file is not made of records at all.
    """
    path = Path(path)
    if not path.exists():
        return [], 0
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    records, torn = {}, 0
    for line in content.splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:  # JSON or UTF-8 cut in the middle
            record = None
        if isinstance(record, dict):
            records[record_key(record) or len(records)] = record
        else:
            torn += 1
    # Killed while the first record was written: it begins as one, and its line has no end.
    first_torn = torn == 1 and content.startswith(b"{") and b"\n" not in content
    if torn and not records and not first_torn:
        raise UserError(f"{path}: holds no records; a file of one JSON object a line is accepted")
    return list(records.values()), torn


def record_key(record: Record) -> tuple:
    """What tells a record from others: `KEY`'s values, of those it has; numbers compare by
    value."""
    return tuple((name, record[name]) for name in KEY if name in record)


def done_keys(records: Iterable[Record]) -> set[tuple]:
    """The keys to skip when a sweep goes on."""
    return {record_key(record) for record in records}


# --- sums and tables ------------------------------------------------------------------------------


def summarise(
    records: Sequence[Record],
    by: Sequence[str] = CONTROLS,
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
) -> list[dict]:
    """Means with confidence intervals for each setting of `by`, in rising order.

    A clip that occurs several times in a group (other seeds, controls not in `by`) counts once,
    with its mean: clips are independent, records of one clip are not.

    Returns:
        Rows: the setting's values, `count` (records), and for every metric that occurs in any
            record
        a `metrics.Interval` (over clips) under its name.
    """
    by = [name for name in by if any(name in record for record in records)]
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in by), []).append(record)
    present = [name for name in metrics if any(name in record for record in records)]
    rows = []
    for values in sorted(groups, key=lambda v: [(x is not None, str(type(x)), x) for x in v]):
        group = groups[values]
        row = dict(zip(by, values, strict=True), count=len(group))
        for name in present:
            pairs = [(r.get("clip", i), _number(r.get(name))) for i, r in enumerate(group)]
            row[name] = confidence_interval(list(_clip_means(pairs).values()), level)
        rows.append(row)
    return rows


def compare(
    records: Sequence[Record], metric: str, control: str, low: object, high: object
) -> Interval:
    """Interval of the change of `metric` from `control = low` to `high`, on the same clips.

    Records are paired by their keys without `control`, unpaired ones are left out, and the pairs of
    one clip are averaged before clips are counted.
    """

    def pick(value: object) -> dict[tuple, float]:
        return {
            tuple(pair for pair in record_key(record) if pair[0] != control): _number(
                record.get(metric)
            )
            for record in records
            if record.get(control) == value
        }

    before, after = pick(low), pick(high)
    shared = [key for key in before if key in after]
    clips = [dict(key).get("clip", index) for index, key in enumerate(shared)]
    befores = _clip_means(zip(clips, (before[key] for key in shared), strict=True))
    afters = _clip_means(zip(clips, (after[key] for key in shared), strict=True))
    return paired_interval(list(befores.values()), list(afters.values()))


def format_table(rows: Sequence[Mapping[str, object]], markdown: bool = False) -> str:
    """Rows of `summarise` (or any dicts) as aligned plain text, or as a Markdown table.

    Intervals read "mean ± half width"; columns that no row has are left out.
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


# --- plots ----------------------------------------------------------------------------------------


def plot_trends(
    records: Sequence[Record],
    path: str | os.PathLike,
    controls: Sequence[str] = CONTROLS,
    x: str = "frame_consistency",
    y: str = "prompt_consistency",
) -> None:
    """The paper's trade-off figure: `y` against `x` as each control goes through its values.

    One panel per control that varies, one curve per setting of the other controls, a point per
    value of the control with 95 % error bars both ways and the value written beside it.

    Raises:
        UserError: no control varies, a metric is missing, or the picture cannot be written.
    """
    varied = [name for name in controls if len({r.get(name) for r in records if name in r}) > 1]
    for metric in (x, y):
        if not any(metric in record for record in records):
            raise UserError(f"no record holds {metric}; nothing to plot")
    if not varied:
        raise UserError(f"nothing to plot: none of {', '.join(controls)} takes two values or more")
    # A figure of its own, without pyplot: no global state, no display, whatever the user's
    # settings.
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
    """Draws one panel; beyond eight curves the legend would cover the points and is left out."""
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


# --- parts ----------------------------------------------------------------------------------------


def _cell(value: object) -> str:
    if hasattr(value, "half_width"):
        if math.isnan(value.mean):
            return "-"
        plus = "" if math.isnan(value.half_width) else f" ± {value.half_width:.3f}"
        return f"{value.mean:.3f}{plus}"
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _clip_means(pairs: Iterable[tuple[object, float]]) -> dict[object, float]:
    """(clip, value) pairs -> the mean of each clip's values, NaNs left out, in order."""
    values: dict[object, list[float]] = {}
    for clip, value in pairs:
        values.setdefault(clip, []).append(value)
    known = {clip: [v for v in vs if not math.isnan(v)] for clip, vs in values.items()}
    return {clip: sum(vs) / len(vs) if vs else math.nan for clip, vs in known.items()}


def _number(value: object) -> float:
    return math.nan if value is None else float(value)


def _plain(value: object) -> object:
    """What JSON knows: NumPy's and JAX's numbers as Python's, NaN and infinities (JSON has none)
    null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write_all(handle: int, data: bytes) -> None:
    """One write as a rule; the rest again where the system took only a part."""
    while data:
        data = data[os.write(handle, data) :]
