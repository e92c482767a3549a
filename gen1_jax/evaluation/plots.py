"""Plots of an evaluation: trends over the controls, and the trade-off of all methods."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import CONTROLS, Record
from gen1_jax.evaluation.tables import format_cell, summarise
from gen1_jax.files import replacing

_LABELS = {"temporal_scale": "ω_t", "structure_level": "t_s", "guidance_scale": "ω"}


def _of_first_method(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.get("method") == records[0].get("method")]


def varied_controls(records: Sequence[Record], controls: Sequence[str] = CONTROLS) -> list[str]:
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
    varied = varied_controls(records, controls)
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
            f"{_LABELS.get(n, n)} = {format_cell(v)}" for n, v in zip(others, setting, strict=True)
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
                format_cell(row[control]),
                (row[x].mean, row[y].mean),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
    if others and len(curves) <= 8:
        panel.legend(fontsize=8, framealpha=0.7)
