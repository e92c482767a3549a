"""Solids as signed distances: negative inside, in units of the solid's own radius.

All solids are unions or intersections of half-planes and circles, so a distance costs a few array
operations and no trigonometry. The edges, which antialiasing needs, are exact. Away from the edges
some functions are only bounds of the true distance.
"""

from __future__ import annotations

import functools
import math

import numpy as np

# Shapes of the neutral extras; the hero's shapes are vocabulary.SHAPES.
EXTRA_SHAPES = ("stone", "pillar")

Array = np.ndarray


def _half_planes(x: Array, y: Array, sides: int, inner: float, turn: float) -> list[Array]:
    """Returns distances to `sides` lines around the centre.

    The lines have the distance `inner` from the centre; the first one is at angle `turn`.
    """
    angles = [turn + 2 * math.pi * k / sides for k in range(sides)]
    return [x * np.float32(math.cos(a)) + y * np.float32(math.sin(a)) - inner for a in angles]


def _ball(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 1


def _box(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.84


def _diamond(x: Array, y: Array) -> Array:
    # A tall rhombus, because a square on its corner would look like a turned box.
    return np.abs(x) * np.float32(0.848) + np.abs(y) * np.float32(0.53) - 0.58


def _triangle(x: Array, y: Array) -> Array:
    # y points down: one side is below and the tip is above. The shift by 0.12 centres the area.
    return np.maximum.reduce(_half_planes(x, y - np.float32(0.12), 3, 0.55, math.pi / 2))


def _hexagon(x: Array, y: Array) -> Array:
    a, b, c = _half_planes(x, y, 6, 0.0, 0.0)[:3]
    return np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(c)) - np.float32(0.9)


def _star(x: Array, y: Array) -> Array:
    # A point is inside a five-pointed star if it is inside at least four of its five lines, so the
    # distance is the second largest of the five.
    largest = second = None
    for d in _half_planes(x, y, 5, 0.40, math.pi / 2):
        if largest is None:
            largest, second = d, np.full_like(d, -np.inf)
            continue
        second = np.maximum(second, np.minimum(largest, d))
        largest = np.maximum(largest, d)
    return np.maximum(second, largest - np.float32(1.2))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.72)) - np.float32(0.28)


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - np.float32(0.36), np.maximum(x, y) - 1)


def _heart(x: Array, y: Array) -> Array:
    # Two lobes, and the wedge between their tangents that meet in the tip.
    x = np.abs(x)
    lobe = np.sqrt((x - np.float32(0.48)) ** 2 + (y + np.float32(0.3)) ** 2) - np.float32(0.58)
    tangent = x * np.float32(0.686) + y * np.float32(0.728) - np.float32(0.6914)
    wedge = np.maximum(np.maximum(tangent, -y), x - np.float32(0.878))
    return np.minimum(lobe, wedge)


def _stone(x: Array, y: Array) -> Array:
    y = y * np.float32(1.35)
    return (np.sqrt(x * x + y * y) - 1) * np.float32(0.8)


def _pillar(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x) - np.float32(0.28), np.abs(y) - 1)


_DISTANCES = {
    "ball": _ball,
    "box": _box,
    "diamond": _diamond,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "hexagon": _hexagon,
    "heart": _heart,
    "stone": _stone,
    "pillar": _pillar,
}
# Distance from the edge, in radii, at which the surface reaches its full height.
_BEVELS = {"box": 0.36, "ring": 0.28, "cross": 0.36, "star": 0.4, "pillar": 0.28}
EXTENT = 1.3  # the furthest that any solid reaches from its centre, in radii


def distance(shape: str, x: Array, y: Array) -> Array:
    """Returns the signed distance [...] of points in the solid's own frame, in radii."""
    return _DISTANCES[shape](x, y)


def height(shape: str, d: Array) -> Array:
    """Returns the surface's height towards the viewer, from 0 at the edge to 1, at distances d."""
    k = np.clip(d * np.float32(-1 / _BEVELS.get(shape, 1.0 if shape == "ball" else 0.5)), 0, 1)
    return np.sqrt(k * (2 - k))  # a quarter circle makes a ball a true hemisphere


@functools.cache
def unit_area(shape: str) -> float:
    """Returns the area of the solid of radius 1."""
    axis = np.linspace(-EXTENT, EXTENT, 256, dtype=np.float32)
    inside = distance(shape, axis[None, :], axis[:, None]) < 0
    return float(inside.mean()) * (2 * EXTENT) ** 2


@functools.cache
def reach(shape: str) -> float:
    """Returns the largest distance of a point of the solid from its centre, in radii."""
    axis = np.linspace(-EXTENT, EXTENT, 256, dtype=np.float32)
    inside = distance(shape, axis[None, :], axis[:, None]) < 0
    radii = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
    return float(radii[inside].max())


@functools.cache
def overlap(shape: str, other: str) -> float:
    """Returns the IoU of two solids of the same centre, area and angle."""
    axis = np.linspace(-2, 2, 256, dtype=np.float32)
    inside = []
    for each in (shape, other):
        unit = axis * np.float32(math.sqrt(unit_area(each)))  # in radii of a solid of area 1
        inside.append(distance(each, unit[None, :], unit[:, None]) < 0)
    return float((inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum())


def pattern(texture: str, x: Array, y: Array, pixel: float) -> Array | None:
    """Returns the darkness [...] of a texture, 0..1, at points of the solid's frame.

    Args:
      texture: one of vocabulary.TEXTURES or UNSEEN.
      x: [...] in radii.
      y: [...] in radii.
      pixel: width of a pixel in radii, over which the texture's edges are blurred.

    Returns:
      The darkness, or None for a plain solid.
    """
    if texture == "plain":
        return None
    if texture == "striped":
        wave, period = _triangle_wave(x, 0.62), 0.62
    elif texture == "dotted":
        u, v = _triangle_wave(x, 0.62), _triangle_wave(y, 0.62)
        # The squared distance from the centre of the nearest dot; dots cover a quarter.
        wave, period = np.float32(1.3) - ((1 - u) ** 2 + (1 - v) ** 2), 0.45
    elif texture == "target":  # a dark disc in the middle
        wave, period = np.float32(1) - (x * x + y * y) / np.float32(0.5**2), 1.0
    else:
        wave, period = _triangle_wave(x, 0.9) * _triangle_wave(y, 0.9), 0.6
    sharpness = np.float32(min(period / (4 * pixel), 3.0))
    return np.clip(wave * sharpness + np.float32(0.5), 0, 1)


def _triangle_wave(x: Array, period: float) -> Array:
    """Returns a wave in -1..1 with slope ±4/period, which is 1 in the middle of each period."""
    phase = x * np.float32(1 / period)
    phase -= np.floor(phase)
    return 1 - 4 * np.abs(phase - np.float32(0.5))
