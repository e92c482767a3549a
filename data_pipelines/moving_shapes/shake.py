"""The shake of a camera that is held by hand: small turns, which move and turn the whole picture.

A camera that turns by a small angle moves all points of the picture alike, whatever their depth, so
there is no parallax and no depth changes.
"""

from __future__ import annotations

import numpy as np

_SHIFT = 0.14  # furthest that the picture moves along each axis; 2 is its height
_ROLL = 0.05  # furthest that it turns, in radians
_WAVES = 3  # waves that are summed along each axis
_BAND = (0.7, 2.5)  # cycles in a clip: slow enough for 8 frames


def draw_shake(rng: np.random.Generator, num_frames: int) -> dict:
    """Draws `x`, `y` and `roll`, each [n] float32: where the picture is in each frame."""
    t = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(1)
    fine = np.linspace(0, 1, 64)  # the size is that of the path, however many frames show it

    def path(size: float) -> np.ndarray:
        cycles, phase = rng.uniform(*_BAND, _WAVES), rng.uniform(0, 1, _WAVES)
        weight = rng.uniform(0.5, 1, _WAVES)

        def wave(at: np.ndarray) -> np.ndarray:
            return np.sin(2 * np.pi * (at[:, None] * cycles + phase)) @ weight

        return (wave(t) * (size / np.abs(wave(fine)).max())).astype(np.float32)

    return {"x": path(_SHIFT), "y": path(_SHIFT), "roll": path(_ROLL)}


def shaken(structure: dict, shake: dict) -> dict:
    """Returns a structure whose solids are where the shaking camera sees them."""
    cos, sin = np.cos(shake["roll"]), np.sin(shake["roll"])

    def seen(solid: dict) -> dict:
        x, y = solid["x"], solid["y"]
        return {
            **solid,
            "x": x * cos - y * sin + shake["x"],
            "y": x * sin + y * cos + shake["y"],
            "angle": solid["angle"] + shake["roll"],
        }

    return {
        **structure,
        "shake": shake,
        "hero": seen(structure["hero"]),
        "extras": [seen(extra) for extra in structure["extras"]],
    }


def before_shake(shake: dict, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where a steady camera would see what is at xs [1 1 w], ys [1 h 1]: x, y [n h w]."""
    cos, sin = (f(shake["roll"])[:, None, None] for f in (np.cos, np.sin))
    x, y = xs - shake["x"][:, None, None], ys - shake["y"][:, None, None]
    return x * cos + y * sin, y * cos - x * sin
