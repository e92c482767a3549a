"""The paper's figure 6: prompt consistency against frame consistency, of all methods."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.evaluation.labels import Label, place_labels
from gen1_jax.evaluation.records import CONTROLS, Record
from gen1_jax.evaluation.statistics import Interval, compare_all, intervals_of, videos_of
from gen1_jax.evaluation.tables import group_records
from gen1_jax.files import replacing

OWN = "gen1"  # the method whose controls are arrows
SYMBOLS = {
    "temporal_scale": "$\\omega_t$",
    "structure_level": "$t_s$",
    "guidance_scale": "$\\omega$",
}
# Colours that the colour-blind tell apart: Okabe and Ito's ("Color Universal Design", 2008) without
# the yellow that fades on white, two of them darkened for text, then Paul Tol's muted ones. Shapes
# tell apart what black and white print does not.
_OWN_COLOUR = "#0072B2"
_COLOURS = (
    *("#D55E00", "#009E73", "#B7608F", "#000000", "#B57B00", "#2F8FC4", "#7F7F7F"),
    *("#882255", "#117733", "#332288", "#8A8A00"),
)
_SHAPES = "osD^vPX<>hp"
_STROKES = {"temporal_scale": "-", "structure_level": (0, (4, 1.5)), "guidance_scale": (0, (1, 1))}
# The controls have a panel of their own where their arrows span less of the first panel than this.
_SMALL = 0.3


@dataclasses.dataclass(frozen=True)
class Spot:
    """A setting of a method in the figure.

    Attributes:
      place: mean frame and prompt consistency.
      low: lower ends of their intervals.
      high: upper ends.
      value: of the control that varies along the curve.
    """

    place: np.ndarray
    low: np.ndarray
    high: np.ndarray
    value: object = None


@dataclasses.dataclass
class Curve:
    """What is drawn of a method: its first setting, and what becomes of it.

    Attributes:
      method: its name.
      base: the controls of its first setting.
      points: the first setting alone, or every strength in rising order.
      arrows: controls, and chains of settings that begin at the first one, upward or downward.
    """

    method: str
    base: Mapping[str, object]
    points: list[Spot]
    arrows: list[tuple[str, list[Spot]]] = dataclasses.field(default_factory=list)


def curves_of(records: Sequence[Record], x: str, y: str) -> list[Curve]:
    """Returns what the figure shows of each method, in the order of the records.

    A method stands at its first setting. Settings that differ from it in the strength make a curve;
    those that differ in one of our own method's other controls make arrows. Settings that differ in
    two controls at once are not shown, and neither is a setting without one of the two measures.
    """
    methods = group_records(records, ["method"])
    own = OWN if (OWN,) in methods else next(iter(methods), (None,))[0]
    curves = []
    for (method,), group in methods.items():
        settings = group_records(group, CONTROLS)
        base, first = next(iter(settings.items()))
        if (at := _mean_spot(first, x, y)) is None:
            continue
        curve = Curve(method or "", dict(zip(CONTROLS, base, strict=True)), [at])
        for place, control in enumerate(CONTROLS):
            # The values of this control, where all others are those of the first setting.
            along = {
                setting[place]: its
                for setting, its in settings.items()
                if setting[place] is not None
                and setting[:place] + setting[place + 1 :] == base[:place] + base[place + 1 :]
            }
            if len(along) < 2 or (control != "strength" and method != own):
                continue
            if control == "strength":
                spots = {value: _mean_spot(its, x, y) for value, its in sorted(along.items())}
                curve.points = [
                    dataclasses.replace(spot, value=value) for value, spot in spots.items() if spot
                ]
                continue
            values = sorted(along)
            middle = values.index(base[place])
            for chain in (values[middle + 1 :], values[:middle][::-1]):
                spots = [_changed_spot(at, first, along[value], value, x, y) for value in chain]
                if spots := [spot for spot in spots if spot]:
                    curve.arrows.append((control, [at, *spots]))
        curves.append(curve)
    return curves


def _mean_spot(records: Sequence[Record], x: str, y: str) -> Spot | None:
    found = intervals_of(records, (x, y))
    place, low, high = _ends(found[x], found[y])
    return None if np.isnan(place).any() else Spot(place, low, high)


def _changed_spot(
    at: Spot, before: Sequence[Record], after: Sequence[Record], value: object, x: str, y: str
) -> Spot | None:
    """Returns where a change leads to: its interval is that of the change on the same videos."""
    (found,) = compare_all(before, [after], (x, y))
    if not {x, y} <= found.keys():
        return None
    place, low, high = (at.place + end for end in _ends(found[x], found[y]))
    return None if np.isnan(place).any() else Spot(place, low, high, value)


def _ends(*intervals: Interval) -> Iterator[np.ndarray]:
    for name in ("mean", "low", "high"):
        yield np.array([getattr(interval, name) for interval in intervals])


def has_trade_off(
    records: Sequence[Record], x: str = "frame_consistency", y: str = "prompt_consistency"
) -> bool:
    """Returns whether there are two settings or more to show."""
    curves = curves_of(records, x, y)
    return len(curves) > 1 or any(len(c.points) > 1 or c.arrows for c in curves)


def plot_trade_off(
    records: Sequence[Record],
    path: str | os.PathLike,
    x: str = "frame_consistency",
    y: str = "prompt_consistency",
) -> None:
    """Plots the paper's figure 6: `y` against `x`, with 95 % intervals over videos as crosses.

    Raises:
      UserError: there is nothing to show, or the picture's name has no form that is known.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path}: not a plot's name; accepted are .png, .svg, .pdf")
    figure = draw_trade_off(records, x, y)
    with replacing(path) as part:
        figure.savefig(part)


def draw_trade_off(records: Sequence[Record], x: str, y: str):
    """Returns the figure of `plot_trade_off`."""
    curves = curves_of(records, x, y)
    if not curves:
        raise UserError(f"no method has both {x} and {y}; nothing to plot")
    # Without pyplot, a figure needs no display and heeds no setting of the user's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    zoomed = _arrows_are_small(curves)
    figure = Figure(figsize=(10.5 if zoomed else 7.2, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if zoomed else 1, squeeze=False)[0]
    looks = _looks(curves)
    drawn = [
        _draw(panels[0], curves, looks, controls=not zoomed),
        *([_draw(panels[1], [c for c in curves if c.arrows], looks, True)] if zoomed else []),
    ]
    for panel in panels:
        panel.set_xlabel(f"{x.replace('_', ' ')} →")
        panel.set_ylabel(f"{y.replace('_', ' ')} →")
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.margins(0.16)
    panels[0].set_title(_explain(records, curves), fontsize=8, loc="left")
    if zoomed:
        panels[1].set_title("the controls, enlarged", fontsize=8, loc="left")
    figure.canvas.draw()  # fixes the panels' places, on which those of the labels depend
    figure.set_layout_engine("none")
    for panel, parts in zip(panels, drawn, strict=True):
        place_labels(panel, *parts)
    return figure


def _explain(records: Sequence[Record], curves: Sequence[Curve]) -> str:
    """Returns what the reader needs to know beside the labels."""
    videos = len(set(videos_of(records)))
    crosses = (
        f"crosses: 95 % intervals, {videos} videos" if videos > 1 else "one video: no intervals"
    )
    strength = any(len(curve.points) > 1 for curve in curves)
    lines = [crosses + ("; numbers on curves: strength" if strength else "")]
    for curve in curves:
        if curve.arrows:
            base = {name: value for name, value in curve.base.items() if value is not None}
            line = "★ " + ", ".join(f"{SYMBOLS[name]} = {value:g}" for name, value in base.items())
            lines.append(line + ("; at arrows, crosses are of the change" if videos > 1 else ""))
    shown = {curve.method for curve in curves}
    if hidden := sorted({record.get("method") or "" for record in records} - shown):
        lines.append(f"without these measures: {', '.join(hidden)}")
    return "\n".join(lines)


def _looks(curves: Sequence[Curve]) -> dict[str, tuple[str, str]]:
    """Returns the colour and the shape of each method."""
    looks, number = {}, 0
    for curve in curves:
        if curve.arrows or curve.method == OWN:
            looks[curve.method] = (_OWN_COLOUR, "*")
        else:
            colour, shape = _COLOURS[number % len(_COLOURS)], _SHAPES[number % len(_SHAPES)]
            looks[curve.method] = (colour, shape)
            number += 1
    return looks


def _arrows_are_small(curves: Sequence[Curve]) -> bool:
    """Whether arrows are too short beside the distances of the methods to be read."""
    arrows = [spot.place for c in curves for _, chain in c.arrows for spot in chain]
    if not arrows or len(curves) < 2:
        return False
    everything = [*arrows, *(spot.place for curve in curves for spot in curve.points)]
    return bool((np.ptp(arrows, axis=0) < _SMALL * np.ptp(everything, axis=0)).all())


def _draw(panel, curves: Sequence[Curve], looks: Mapping, controls: bool) -> tuple:
    """Draws the methods; returns their labels, and the lines and markers below them."""
    names, values, lines, markers = [], [], [], []
    for curve in curves:
        colour, shape = looks[curve.method]
        size = 14 if shape == "*" else 7
        for spot in curve.points:
            lines += _draw_cross(panel, spot, colour)
            markers.append((spot.place, size / 2))
        path = np.array([spot.place for spot in curve.points])
        panel.plot(*path.T, color=colour, lw=1.2, marker=shape, ms=size, mec="white", mew=0.6)
        lines.append(path)
        if curve.method:
            style = {"color": colour, "fontsize": 9, "fontweight": "bold"}
            names.append(Label(curve.method, path, style))
        if len(path) > 1:
            small = {"color": colour, "fontsize": 8}
            for spot in (curve.points[0], curve.points[-1]):
                values.append(Label(f"{spot.value:g}", spot.place[None], small))
        for control, chain in curve.arrows if controls else ():
            for spot in chain[1:]:
                lines += _draw_cross(panel, spot, colour)
                markers.append((spot.place, 2))
                symbol = f"{SYMBOLS[control]} = " if spot is chain[-1] else ""
                small = {"color": colour, "fontsize": 9 if symbol else 8}
                values.append(Label(f"{symbol}{spot.value:g}", spot.place[None], small))
            lines.append(_draw_arrow(panel, control, chain, colour))
    return [*names, *values], lines, markers


def _draw_cross(panel, spot: Spot, colour: str) -> list[np.ndarray]:
    """Draws the two intervals of a setting, where it has them; returns their lines."""
    if np.isnan(spot.low).any():
        return []
    (x, y), (left, bottom), (right, top) = spot.place, spot.low, spot.high
    lines = [np.array([(left, y), (right, y)]), np.array([(x, bottom), (x, top)])]
    for line in lines:
        panel.plot(*line.T, color=colour, lw=0.9, alpha=0.55, solid_capstyle="butt", zorder=1.8)
    return lines


def _draw_arrow(panel, control: str, chain: Sequence[Spot], colour: str) -> np.ndarray:
    """Draws an arrow through the settings of a chain; returns its line."""
    path = np.array([spot.place for spot in chain])
    panel.plot(*path.T, color=colour, ls=_STROKES[control], lw=1.3)
    panel.plot(*path[1:-1].T, color=colour, marker="o", ms=4, lw=0)
    head = {"arrowstyle": "-|>", "color": colour, "lw": 0, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", path[-1], path[-2], arrowprops={**head, "mutation_scale": 14})
    return path
