"""Backgrounds: their geometry and their look, which are drawn independently.

The geometry is one or two planes. The inverse depth of a plane is linear in the screen position,
also when the camera moves, so depth costs one multiply-add a pixel and parallax is exact. The look
is a tileable texture on those planes. It fades into haze with distance, so that a picture shows its
depth.
"""

from __future__ import annotations

import functools

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.vocabulary import GEOMETRIES, LOOKS

TILE = 256  # side of a tile in texels; a power of two, so that wrapping is a bit mask
_TEXELS_PER_UNIT = 15.0  # texels per unit of scene length
_CLEAR = 0.34  # inverse depth from which there is no haze


def _noise(rng: np.random.Generator, wave_x: float, wave_y: float) -> np.ndarray:
    """Returns tileable smooth noise [TILE TILE] of unit deviation.

    The arguments give the size of its features in texels.
    """
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    spectrum *= np.exp(-0.5 * ((fx * wave_x) ** 2 + (fy * wave_y) ** 2) * 4)
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return field / field.std()


def _stars(rng: np.random.Generator) -> np.ndarray:
    sky = np.zeros((TILE, TILE))
    where = rng.integers(0, TILE, (2, 260))
    sky[where[0], where[1]] = rng.uniform(0.3, 1.0, 260)
    spread = sum(np.roll(sky, s, axis=a) for a in (0, 1) for s in (-1, 1))
    return np.clip(sky + 0.45 * spread + 0.05 * _noise(rng, 24, 24), 0, 1)


def _bricks(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:TILE, :TILE]
    course = y // 8
    x = x + 8 * (course % 2)
    mortar = ((y % 8) < 1) | ((x % 16) < 1)
    shade = rng.uniform(0.05, 0.4, (TILE // 8, TILE // 16))[course, (x // 16) % (TILE // 16)]
    return np.clip(np.where(mortar, 0.95, shade) + 0.04 * _noise(rng, 3, 3), 0, 1)


@functools.cache
def texture(background: str) -> np.ndarray:
    """Returns a look's tile [TILE * TILE] float32: positions 0..1 on the ramp dark → light."""
    rng = np.random.default_rng(list(LOOKS).index(background))
    if background == "a grassy field":
        tile = 0.5 + 0.20 * _noise(rng, 2.0, 5) + 0.14 * _noise(rng, 20, 20)
    elif background == "desert sand":
        y, x = np.mgrid[:TILE, :TILE] * (2 * np.pi / TILE)
        bend = 1.2 * _noise(rng, 40, 40)
        tile = 0.5 + 0.24 * np.sin(16 * y + 3 * np.sin(x) + bend) + 0.10 * _noise(rng, 2, 2)
    elif background == "snow":
        tile = 0.55 + 0.2 * _noise(rng, 16, 10) + 0.06 * _noise(rng, 2, 2)
    elif background == "a night sky":
        tile = _stars(rng)
    elif background == "a brick wall":
        tile = _bricks(rng)
    else:
        tile = 0.45 + 0.22 * _noise(rng, 12, 3) + 0.10 * _noise(rng, 30, 8)
    return np.clip(tile, 0, 1).astype(np.float32).ravel()


def draw_geometry(rng: np.random.Generator) -> dict:
    """Draws a `plane` (a, bx, by) with inverse depth a + bx x + by y, and a `wall` behind it."""
    name = str(rng.choice(GEOMETRIES))
    if name in ("floor", "room"):
        # The plane meets the wall at the horizon, and has inverse depth 0.42 at the lower edge.
        wall = rng.uniform(0.03, 0.07) if name == "floor" else rng.uniform(0.14, 0.2)
        horizon = rng.uniform(-0.5, 0.15)
        by = (0.42 - wall) / (1 - horizon)
        plane = (wall - by * horizon, 0.0, by)
    elif name == "wall":
        wall, plane = rng.uniform(0.16, 0.36), (0.0, 0.0, 0.0)
    else:
        wall, plane = 0.02, (0.22, float(rng.choice((-1, 1)) * rng.uniform(0.08, 0.15)), 0.0)
    return {"name": name, "wall": float(wall), "plane": [float(v) for v in plane]}


def render_backdrop(
    background: str,
    geometry: dict,
    offset: tuple[float, float],
    pan: np.ndarray,
    dolly: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draws the background for each position of the camera.

    Args:
      background: one of vocabulary.BACKGROUNDS.
      geometry: what `draw_geometry` returned.
      offset: position of the scene on the tile, in texels.
      pan: [n 1 1] float32, camera displacement to the right, in scene units.
      dolly: [n 1 1] float32, camera displacement forwards, in scene units.
      xs: [1 1 w] float32 screen coordinates; [n h w] if the camera shakes.
      ys: [1 h 1] float32 screen coordinates; [n h w] if the camera shakes.

    Returns:
      Three colour planes [n h w] float32 in 0..255, and inverse depth [n h w] float32.
    """
    a, bx, by = (np.float32(v) for v in geometry["plane"])
    wall = np.float32(geometry["wall"])
    # The plane 1 = a Z + bx X + by Y of the scene, seen from the displaced camera.
    plane = (a + bx * xs + by * ys) / (1 - bx * pan - a * dolly)
    wall = wall / (1 - wall * dolly)
    inverse = np.maximum(plane, wall)
    distance = 1 / inverse
    across = xs * distance + pan
    upright = ys * distance
    if by:  # a floor is textured along its depth, the wall behind it along its height
        upright = np.where(plane > wall, distance + dolly, upright)

    u = across * np.float32(_TEXELS_PER_UNIT) + np.float32(offset[0])
    v = upright * np.float32(_TEXELS_PER_UNIT) + np.float32(offset[1])
    pattern = _bilinear(texture(background), u, v)
    haze = np.clip(1 - inverse * np.float32(1 / _CLEAR), 0, np.float32(0.9))
    planes = []
    look = LOOKS[background]
    for dark, light, far in zip(look.dark, look.light, look.haze, strict=True):
        near = pattern * np.float32(light - dark)
        near += np.float32(dark)
        near += haze * (np.float32(far) - near)
        planes.append(near)
    return planes, inverse


def _bilinear(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Interpolates a wrapped tile at fractional texels u, v [...]."""
    fu, fv = np.floor(u), np.floor(v)
    wu, wv = u - fu, v - fv
    x0 = fu.astype(np.int32) & (TILE - 1)
    y0 = (fv.astype(np.int32) & (TILE - 1)) * TILE
    x1 = (x0 + 1) & (TILE - 1)
    y1 = (y0 + TILE) & (TILE * TILE - 1)
    top = tile[y0 + x0]
    top += wu * (tile[y0 + x1] - top)
    low = tile[y1 + x0]
    low += wu * (tile[y1 + x1] - low)
    top += wv * (low - top)
    return top
