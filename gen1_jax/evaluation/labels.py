"""Places labels in a plot so that they cover neither each other nor what is drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DIRECTIONS = 16
_DISTANCES = (5, 10, 17, 26, 37, 50, 66)  # of a label from its point, in points (1/72 inch)
_LEADER = 15  # from this distance on, a line leads from the point to its label
_ROUNDS = 8
# Costs: of a label that is wholly covered by another, of one drawn spot (3 pixels long) under it,
# of a point of distance, and of a part of it outside the panel.
_COVERED, _SPOT, _DISTANCE, _OUTSIDE = 3000.0, 8.0, 1.0, 1e6


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point, or to any of several points.

    Attributes:
      text: may hold mathtext.
      points: `[k 2]` in the data's units.
      style: of `matplotlib.text.Text`, such as color and fontsize.
    """

    text: str
    points: np.ndarray
    style: dict


def place_labels(
    panel,
    labels: Sequence[Label],
    lines: Sequence[np.ndarray],
    markers: Sequence[tuple[np.ndarray, float]],
) -> None:
    """Adds labels to a panel whose limits and place in the figure are final.

    Each label takes the cheapest of the places around its points, in turn and several times over.

    Args:
      panel: matplotlib's Axes.
      labels: the important ones first.
      lines: what labels shall not cover: corners of lines `[k 2]` in the data's units.
      markers: likewise: points, and the radius of their markers, in points (1/72 inch).
    """
    from matplotlib.patheffects import withStroke

    figure = panel.figure
    renderer, pixels = figure.canvas.get_renderer(), figure.dpi / 72
    inside = panel.get_window_extent(renderer)
    spots = [_along(panel.transData.transform(line)) for line in lines]
    spots += [_around(panel.transData.transform(p), radius * pixels) for p, radius in markers]
    notes, choices = [], []
    for label in labels:
        note = panel.annotate(
            label.text,
            label.points[0],
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.8)],
            **label.style,
        )
        box = note.get_window_extent(renderer)
        points = panel.transData.transform(label.points)
        notes.append(note)
        choices.append(_Choices(points, (box.width + 4, box.height + 2), pixels))
    costs = [choice.fixed_costs(np.concatenate(spots), inside.extents) for choice in choices]
    chosen: list[int | None] = [None] * len(labels)
    for _ in range(_ROUNDS):
        before = list(chosen)
        for i, choice in enumerate(choices):
            others = [choices[j].boxes[k] for j, k in enumerate(chosen) if j != i and k is not None]
            chosen[i] = int((costs[i] + sum(map(choice.costs_of_covering, others))).argmin())
        if chosen == before:
            break
    for note, label, choice, place in zip(notes, labels, choices, chosen, strict=True):
        box, point = choice.boxes[place], choice.points[place]
        note.set_position(((box[:2] + box[2:]) / 2 - choice.points[0]) / pixels)
        if choice.distances[place] >= _LEADER:
            line = np.array([point, np.clip(point, box[:2], box[2:])])
            line = panel.transData.inverted().transform(line)
            panel.plot(*line.T, color=label.style.get("color"), lw=0.5, alpha=0.7, zorder=1.5)


class _Choices:
    """The places that a label may take.

    Attributes:
      boxes: `[c 4]` in pixels: left, bottom, right, top.
      points: `[c 2]` in pixels: the point that each place is of.
      distances: `[c]` from that point, in points.
    """

    def __init__(self, points: np.ndarray, size: tuple[float, float], pixels: float):
        angles = 2 * math.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
        directions = np.stack([np.cos(angles), np.sin(angles)], 1)
        distances = np.repeat(_DISTANCES, _DIRECTIONS).astype(float)
        away = np.tile(directions, (len(_DISTANCES), 1))
        away = away * (distances[:, None] * pixels + np.array(size) / 2)
        centres = (points[:, None] + away).reshape(-1, 2)
        self.boxes = np.concatenate([centres - np.array(size) / 2, centres + np.array(size) / 2], 1)
        self.points = np.repeat(points, len(away), axis=0)
        self.distances = np.tile(distances, len(points))
        ends = np.clip(self.points, self.boxes[:, :2], self.boxes[:, 2:])
        steps = np.linspace(0, 1, 12)[:, None, None]
        self._leaders = self.points + steps * (ends - self.points)

    def fixed_costs(self, spots: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Returns the costs of each place, whatever places the other labels have."""
        under = _are_in(spots, self.boxes[:, None])
        outside = (self.boxes[:, :2] < inside[:2]) | (self.boxes[:, 2:] > inside[2:])
        spotted = _SPOT * under.sum(1)
        return spotted + _OUTSIDE * outside.any(1) + _DISTANCE * self.distances

    def costs_of_covering(self, other: np.ndarray) -> np.ndarray:
        """Returns the costs of each place where another label has this box: a touch costs too."""
        sides = np.minimum(self.boxes[:, 2:], other[2:]) - np.maximum(self.boxes[:, :2], other[:2])
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1)
        covered = np.where(sides.min(1) > 0, 0.1 + sides.prod(1) / areas, 0)
        crossed = _are_in(self._leaders, other).any(0)
        return _COVERED * (covered + 0.1 * (crossed & (self.distances >= _LEADER)))


def _are_in(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Returns whether points `[… 2]` lie in boxes `[… 4]`."""
    (x, y), (left, bottom, right, top) = np.moveaxis(points, -1, 0), np.moveaxis(box, -1, 0)
    return (left <= x) & (x <= right) & (bottom <= y) & (y <= top)


def _along(corners: np.ndarray, every: float = 3.0) -> np.ndarray:
    """Returns spots along a line, a few pixels apart."""
    spots = [corners]
    for start, end in zip(corners[:-1], corners[1:], strict=True):
        steps = np.linspace(0, 1, int(np.hypot(*(end - start)) // every) + 2)[1:-1, None]
        spots.append(start + steps * (end - start))
    return np.concatenate(spots)


def _around(point: np.ndarray, radius: float) -> np.ndarray:
    """Returns spots within and on a circle."""
    angles = np.arange(12) * math.pi / 6
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.concatenate([point + share * radius * circle for share in (0, 0.5, 1)])
