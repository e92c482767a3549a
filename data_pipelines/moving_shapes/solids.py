"""Solids as signed distances: negative inside, in units of the solid's own radius.

All are unions or intersections of half-planes and circles, so a distance costs a few array
operations and no trigonometry. Away from edges some are only bounds of the true distance; edges
themselves, which anti-aliasing needs, are exact.
"""

from __future__ import annotations

import functools
import math

import numpy as np

# Shapes of the neutral extras, beside the hero shapes of vocabulary.SHAPES.
EXTRA_SHAPES = ("stone", "pillar")

Array = np.ndarray


def _half_planes(x: Array, y: Array, sides: int, inner: float, turn: float) -> list[Array]:
    """Distances to `sides` lines at distance `inner` from the centre, the first at angle `turn`."""
    angles = [turn + 2 * math.pi * k / sides for k in range(sides)]
    return [x * np.float32(math.cos(a)) + y * np.float32(math.sin(a)) - inner for a in angles]


def _ball(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 1


def _box(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.84


def _diamond(x: Array, y: Array) -> Array:
    # A tall rhombus: a square stood on its corner would be a turned box.
    return np.abs(x) * np.float32(0.848) + np.abs(y) * np.float32(0.53) - 0.58


def _triangle(x: Array, y: Array) -> Array:
    # y points down: one side lies below, the tip above. 0.12 centres the area.
    return np.maximum.reduce(_half_planes(x, y - np.float32(0.12), 3, 0.55, math.pi / 2))


def _hexagon(x: Array, y: Array) -> Array:
    a, b, c = _half_planes(x, y, 6, 0.0, 0.0)[:3]
    return np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(c)) - np.float32(0.9)


def _star(x: Array, y: Array) -> Array:
    # A point is inside a five-pointed star when it is inside at least four of its five lines, so
    # the distance is the second largest of the five.
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
    "stone": _stone,
    "pillar": _pillar,
}
# How far from the edge, in radii, the surface has risen to its full height.
_BEVELS = {"box": 0.36, "ring": 0.28, "cross": 0.36, "star": 0.4, "pillar": 0.28}
EXTENT = 1.3  # no solid reaches further from its centre, in radii


def distance(shape: str, x: Array, y: Array) -> Array:
    """Signed distance [...] of points in the solid's own frame, in radii."""
    return _DISTANCES[shape](x, y)


def height(shape: str, d: Array) -> Array:
    """Height of the surface towards the viewer, 0 at the edge and 1 at the top, for distances d."""
    k = np.clip(d * np.float32(-1 / _BEVELS.get(shape, 1.0 if shape == "ball" else 0.5)), 0, 1)
    return np.sqrt(k * (2 - k))  # a quarter circle, so a ball is a true hemisphere


@functools.cache
def unit_area(shape: str) -> float:
    """Area of the solid of radius 1."""
    axis = np.linspace(-EXTENT, EXTENT, 256, dtype=np.float32)
    inside = distance(shape, axis[None, :], axis[:, None]) < 0
    return float(inside.mean()) * (2 * EXTENT) ** 2


@functools.cache
def reach(shape: str) -> float:
    """Largest distance of a point of the solid from its centre, in radii."""
    axis = np.linspace(-EXTENT, EXTENT, 256, dtype=np.float32)
    inside = distance(shape, axis[None, :], axis[:, None]) < 0
    radii = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
    return float(radii[inside].max())


def pattern(texture: str, x: Array, y: Array, pixel: float) -> Array | None:
    """How dark [...] in 0..1 the texture is at points of the solid's frame; None where plain.

    Args:
        texture: one of vocabulary.TEXTURES.
        x: [...] in radii.
        y: [...] in radii.
        pixel: width of a pixel in radii; edges of the texture are blurred by it.
    """
    if texture == "plain":
        return None
    if texture == "striped":
        wave, period = _triangle_wave(x, 0.62), 0.62
    elif texture == "dotted":
        u, v = _triangle_wave(x, 0.62), _triangle_wave(y, 0.62)
        # Squared distance from the nearest dot centre: dots cover a quarter.
        wave, period = np.float32(1.3) - ((1 - u) ** 2 + (1 - v) ** 2), 0.45
    else:
        wave, period = _triangle_wave(x, 0.9) * _triangle_wave(y, 0.9), 0.6
    sharpness = np.float32(min(period / (4 * pixel), 3.0))
    return np.clip(wave * sharpness + np.float32(0.5), 0, 1)


def _triangle_wave(x: Array, period: float) -> Array:
    """A wave in -1..1 with slope +-4/period, 1 at whole periods' middles."""
    phase = x * np.float32(1 / period)
    phase -= np.floor(phase)
    return 1 - 4 * np.abs(phase - np.float32(0.5))
