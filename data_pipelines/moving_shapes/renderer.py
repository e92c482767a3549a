"""The renderer of the moving-shapes world, which makes a short clip and its truth from a seed.

Content (colour, texture, background look) and structure (shape, place, motion, camera, background
geometry) are drawn from two independent random streams, so that either can be kept while the other
changes. Any attribute can also be replaced, which leaves all else as it is: so the truth of an edit
is known, and every edit that might have been asked for can be rendered beside it. The renderer is
pure NumPy; an 8-frame clip of 64x64 takes a few milliseconds on one core.

In screen coordinates, x points right and y points down; both are 0 at the centre, and y is in
-1..1. A point at scene position X and inverse depth q has the screen coordinate x = X q.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gen1_jax.data_pipelines.moving_shapes import backdrop, solids
from gen1_jax.data_pipelines.moving_shapes.shake import before_shake, draw_shake, shaken
from gen1_jax.data_pipelines.moving_shapes.vocabulary import (
    ATTRIBUTES,
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    NUM_TEMPLATES,
    SHAKY,
    SHAPES,
    TEXTURES,
    UNSEEN,
    compose_caption,
)
from gen1_jax.errors import UserError

_STONE_TONES = ((96, 96, 100), (150, 148, 146), (206, 204, 200), (58, 58, 64))
_PAN = 0.45  # distance that the camera moves sideways over a clip, in scene units
_DOLLY = 0.36  # distance that it moves forwards or backwards
TURNING = tuple(s for s in SHAPES if s not in ("ball", "ring"))  # shapes that visibly spin


@dataclass(frozen=True)
class Clip:
    """A rendered clip.

    Attributes:
      frames: [n h w 3] uint8.
      depth: [n h w] float32, inverse depth in 0..1; near is large.
      mask: [n h w] bool, the visible part of the hero solid.
      caption: description of the clip.
      truth: everything that was drawn at random, in a form that JSON can hold.
    """

    frames: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    caption: str
    truth: dict


def render(
    seed: int,
    *,
    num_frames: int = 8,
    size: int | tuple[int, int] = 64,
    changes: Mapping[str, str] | None = None,
    camera: str | None = None,
    has_hero: bool = True,
) -> Clip:
    """Renders the clip of a seed.

    Args:
      seed: a non-negative integer; the same seed gives the same bytes.
      num_frames: n; the motion fills the clip, whatever its number of frames.
      size: side of the square frames, or (h, w); at least 16 pixels.
      changes: attribute (of vocabulary.ATTRIBUTES or UNSEEN) → value in place of the one drawn. All
        else stays as it is. Another shape has the same centre, angle and area.
      camera: one of vocabulary.CAMERAS, or SHAKY, in place of the one drawn. The hero may then be
        in another place, from which it stays inside the frame.
      has_hero: False leaves the hero out of the picture, and with it its shadow.

    Raises:
      UserError: the seed is negative, there are no frames, they are too small, or there is no such
        attribute, value or camera.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if seed < 0:
        raise UserError(f"seed {seed} is negative; seeds are 0 or more")
    if num_frames < 1 or min(height, width) < 16:
        raise UserError(
            f"cannot render {num_frames} frames of {height}x{width}; "
            "at least 1 frame of 16x16 is accepted"
        )
    changes = dict(changes or {})
    for name, value in changes.items():
        if value not in (*ATTRIBUTES.get(name, ()), *UNSEEN.get(name, ())):
            accepted = ", ".join(ATTRIBUTES.get(name, ATTRIBUTES))
            what = f"{name} {value!r}" if name in ATTRIBUTES else f"attribute {name!r}"
            raise UserError(f"unknown {what}; one of: {accepted}")
    if camera not in (None, SHAKY, *CAMERAS):
        raise UserError(f"unknown camera {camera!r}; one of: {', '.join((*CAMERAS, SHAKY))}")
    shape = changes.pop("shape", None)
    content = {**_draw_content(_stream(seed, 0)), **changes}
    structure = _draw_structure(_stream(seed, 1), num_frames, width / height, camera)
    if shape is not None:
        structure["hero"] = _reshaped(structure["hero"], shape)
    if camera == SHAKY:
        structure = shaken(structure, draw_shake(_stream(seed, 2), num_frames))
    frames, depth, mask = _rasterise(content, structure, num_frames, height, width, has_hero)
    return Clip(frames, depth, mask, _caption(content, structure), _truth(content, structure))


def _stream(seed: int, use: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, use])))


def _draw_content(rng: np.random.Generator) -> dict:
    """Draws the content: colour, texture, background and the form of the caption."""
    colour = str(rng.choice(list(COLOURS)))
    texture = str(rng.choice(TEXTURES))
    background = str(rng.choice(BACKGROUNDS))
    template, say_plain = int(rng.integers(NUM_TEMPLATES)), bool(rng.random() < 0.3)
    return {
        "colour": colour,
        "texture": texture,
        "background": background,
        "offset": tuple(rng.uniform(0, backdrop.TILE, 2)),
        "tones": [int(i) for i in rng.permutation(len(_STONE_TONES))],
        "template": template,
        "say_plain": say_plain,
    }


def _caption(content: dict, structure: dict) -> str:
    return compose_caption(
        content["colour"],
        content["texture"],
        structure["hero"]["shape"],
        structure["motion"],
        content["background"],
        content["template"],
        content["say_plain"],
    )


def _draw_structure(
    rng: np.random.Generator, num_frames: int, aspect: float, camera: str | None = None
) -> dict:
    """Draws the structure: what is where, and how it moves, for the camera drawn or the one given.

    A path has a value for each frame, as an array [n] float32.
    """
    t = np.linspace(0, 1, num_frames, dtype=np.float32) if num_frames > 1 else np.zeros(1, "f4")
    motion, drawn = str(rng.choice(MOTIONS)), str(rng.choice(CAMERAS))
    camera = camera or drawn
    sideways = {"pan left": -1.0, "pan right": 1.0}.get(camera, 0.0)
    forwards = {"zoom in": 1.0, "zoom out": -1.0}.get(camera, 0.0)
    view = {
        "pan": (t - np.float32(0.5)) * np.float32(_PAN * sideways),
        "dolly": (t - np.float32(0.5)) * np.float32(_DOLLY * forwards),
    }
    hero = _draw_hero(rng, t, motion, view, aspect)
    extras = _draw_extras(rng, hero, view, aspect)
    return {
        "motion": motion,
        "camera": camera,
        "geometry": backdrop.draw_geometry(rng),
        "view": view,
        "hero": hero,
        "extras": extras,
    }


def _draw_hero(
    rng: np.random.Generator, t: np.ndarray, motion: str, view: dict, aspect: float
) -> dict:
    shape = str(rng.choice(TURNING if motion == "spinning" else SHAPES))
    q = rng.uniform(0.52, 0.66)
    area = rng.uniform(0.19, 0.26) * 4 * aspect  # 19 to 26 % of the frame
    radius = min(math.sqrt(area / solids.unit_area(shape)), 0.8 * min(1.0, aspect))
    scale = np.ones_like(t)
    dx, dy, angle = np.zeros_like(t), np.zeros_like(t), np.full_like(t, rng.uniform(-0.2, 0.2))
    travel = np.float32(rng.uniform(0.6, 0.85))
    centred = t - np.float32(0.5)
    if motion.startswith("drifting"):
        dx = centred * {"left": -travel, "right": travel}.get(motion.split()[1], np.float32(0))
        dy = centred * {"up": -travel, "down": travel}.get(motion.split()[1], np.float32(0))
    elif motion == "bouncing":
        dy = travel * np.float32(0.7) * (np.float32(0.5) - np.abs(np.cos(2 * np.pi * t)))
    elif motion == "circling":
        turn = 2 * np.pi * (t * rng.choice((-1, 1)) + rng.random())
        dx, dy = np.float32(0.27) * np.cos(turn), np.float32(0.27) * np.sin(turn)
    elif motion == "spinning":
        angle = angle + centred * np.float32(rng.choice((-1, 1)) * rng.uniform(2.6, 4.0))
    else:
        scale = 1 + np.float32(0.4) * centred
    seen_q, zoom = _seen(q, view["dolly"])
    dx, dy = dx - view["pan"] * seen_q, dy
    # The centre stays so far inside the frame that most of the solid is always seen.
    room = radius * solids.reach(shape) * np.float32(0.82) * (zoom * scale).max()
    place = []
    for path, half in ((dx, aspect), (dy, 1.0)):
        low, high = -half + room - path.min(), half - room - path.max()
        place.append(rng.uniform(low, high) if low < high else (low + high) / 2)
    return {
        "shape": shape,
        "inverse_depth": float(q),
        "x": (dx + np.float32(place[0])).astype(np.float32),
        "y": (dy + np.float32(place[1])).astype(np.float32),
        "radius": (radius * zoom * scale).astype(np.float32),
        "angle": angle.astype(np.float32),
        "q": seen_q,
    }


def _reshaped(hero: dict, shape: str) -> dict:
    """Returns a hero of another shape and the same area."""
    larger = np.float32(math.sqrt(solids.unit_area(hero["shape"]) / solids.unit_area(shape)))
    return {**hero, "shape": shape, "radius": hero["radius"] * larger}


def _draw_extras(rng: np.random.Generator, hero: dict, view: dict, aspect: float) -> list[dict]:
    """Draws 0 to 2 small solids that stand still in the scene, behind or in front of the hero."""
    extras = []
    for _ in range(int(rng.integers(3))):
        front = bool(rng.random() < 0.5)
        shape = str(rng.choice(solids.EXTRA_SHAPES))
        q = rng.uniform(0.8, 0.86) if front else rng.uniform(0.43, 0.47)
        radius = rng.uniform(0.2, 0.28) if shape == "stone" else rng.uniform(0.42, 0.6)
        if front:
            # Stands beside the middle of the hero's path, so that it hides an edge of the hero but
            # never its middle.
            side = rng.choice((-1, 1))
            x = float(hero["x"].mean()) + side * rng.uniform(0.9, 1.4) * float(hero["radius"][0])
            y = float(hero["y"].mean()) + rng.uniform(0.2, 0.6)
        else:
            x, y = rng.uniform(-0.9, 0.9) * aspect, rng.uniform(-0.4, 0.8)
        seen_q, zoom = _seen(q, view["dolly"])
        extras.append(
            {
                "shape": shape,
                "front": front,
                "inverse_depth": float(q),
                "x": (np.float32(x) * zoom - view["pan"] * seen_q).astype(np.float32),
                "y": (np.float32(y) * zoom).astype(np.float32),
                "radius": (np.float32(radius) * zoom).astype(np.float32),
                "angle": np.full_like(zoom, rng.uniform(-0.12, 0.12)),
                "q": seen_q,
            }
        )
    return sorted(extras, key=lambda e: e["inverse_depth"])


def _seen(q: float, dolly: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns inverse depth [n] and magnification [n] for a camera moved forwards by `dolly`."""
    zoom = (1 / (1 - np.float32(q) * dolly)).astype(np.float32)
    return np.float32(q) * zoom, zoom


def _rasterise(
    content: dict, structure: dict, n: int, height: int, width: int, has_hero: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paints from back to front; returns frames, depth and mask of a `Clip`."""
    pixel = np.float32(2 / height)
    ys = ((np.arange(height, dtype=np.float32) + np.float32(0.5)) * pixel - 1)[None, :, None]
    xs = (np.arange(width, dtype=np.float32) + np.float32(0.5) - width / np.float32(2)) * pixel
    xs = xs[None, None, :].astype(np.float32)
    scene = before_shake(structure["shake"], xs, ys) if "shake" in structure else (xs, ys)
    moving = structure["camera"] != "still"
    pan, dolly = (structure["view"][k][: n if moving else 1, None, None] for k in ("pan", "dolly"))
    planes, inverse = backdrop.render_backdrop(
        content["background"], structure["geometry"], content["offset"], pan, dolly, *scene
    )
    canvas = np.empty((3, n, height, width), np.float32)
    for channel, plane in zip(canvas, planes, strict=True):
        channel[...] = plane
    depth = np.empty((n, height, width), np.float32)
    depth[...] = inverse
    mask = np.zeros((n, height, width), bool)

    hero = structure["hero"]
    tones = iter(_STONE_TONES[i] for i in content["tones"])
    behind = [e for e in structure["extras"] if not e["front"]]
    front = [e for e in structure["extras"] if e["front"]]
    grid = (xs, ys, pixel)
    for extra in behind:
        _paint(canvas, depth, mask, grid, extra, next(tones), "plain", is_hero=False)
    if has_hero:
        colour = COLOURS[content["colour"]]
        _paint(canvas, depth, mask, grid, hero, colour, content["texture"], is_hero=True)
    for extra in front:
        _paint(canvas, depth, mask, grid, extra, next(tones), "plain", is_hero=False)

    frames = np.empty((n, height, width, 3), np.uint8)
    canvas += np.float32(0.5)
    for i in range(3):
        frames[..., i] = canvas[i]
    return frames, np.clip(depth, 0, 1, out=depth), mask


def _paint(canvas, depth, mask, grid, solid, colour, texture, *, is_hero) -> None:
    """Paints one shaded solid with its shadow onto canvas [3 n h w], depth and mask [n h w]."""
    xs, ys, pixel = grid
    radius = solid["radius"][:, None, None]
    # Only the part of the frames that the solid or its shadow reaches is painted.
    reach = solids.reach(solid["shape"]) * solid["radius"] + np.float32(0.16) + 2 * pixel
    rows = _span(ys.ravel(), (solid["y"] - reach).min(), (solid["y"] + reach).max())
    cols = _span(xs.ravel(), (solid["x"] - reach).min(), (solid["x"] + reach).max())
    canvas, depth, mask = canvas[:, :, rows, cols], depth[:, rows, cols], mask[:, rows, cols]
    if not mask.size:
        return
    inverse_radius = 1 / radius
    dx = xs[..., cols] - solid["x"][:, None, None]
    dy = ys[:, rows] - solid["y"][:, None, None]
    cos = (np.cos(solid["angle"])[:, None, None] * inverse_radius).astype(np.float32)
    sin = (np.sin(solid["angle"])[:, None, None] * inverse_radius).astype(np.float32)
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    d = solids.distance(solid["shape"], x, y)
    edge = d * (radius / pixel)
    alpha = np.clip(np.float32(0.5) - edge, 0, 1)

    # The light comes from the upper left, so a soft shadow falls to the lower right.
    shift = max(1, round(0.07 / float(pixel)))
    shade = np.clip(np.float32(0.35) - d * (radius / np.float32(0.14)), 0, np.float32(0.34))
    canvas[:, :, shift:, shift:] *= 1 - shade[:, :-shift, :-shift]

    rise = solids.height(solid["shape"], d)
    light = np.zeros_like(rise)
    slope = rise[:, 1:, 1:] - rise[:, :-1, :-1]
    slope *= np.float32(0.30) * radius / pixel
    light[:, 1:, 1:] = np.clip(slope, np.float32(-0.42), np.float32(0.30))
    dark = solids.pattern(texture, x, y, float(pixel / solid["radius"].mean()))
    if dark is not None:
        light += np.float32(0.14) - dark * np.float32(0.46)
    lower, upper = np.minimum(light, 0), np.maximum(light, 0)
    for plane, value in zip(canvas, colour, strict=True):
        tint = lower * np.float32(value)
        tint += upper * np.float32(255 - value)
        tint += np.float32(value)
        tint -= plane
        tint *= alpha
        plane += tint
    covered = alpha > np.float32(0.5)
    surface = rise * (radius * np.float32(0.16)) + solid["q"][:, None, None]
    np.copyto(depth, surface, where=covered)
    np.copyto(mask, np.bool_(is_hero), where=covered)


def _span(axis: np.ndarray, low: float, high: float) -> slice:
    return slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high)))


def _truth(content: dict, structure: dict) -> dict:
    def paths(solid: dict) -> dict:
        return {
            k: [round(float(v), 5) for v in value] if isinstance(value, np.ndarray) else value
            for k, value in solid.items()
        }

    hero = structure["hero"]
    return {
        "shape": hero["shape"],
        "colour": content["colour"],
        "texture": content["texture"],
        "background": content["background"],
        "motion": structure["motion"],
        "camera": structure["camera"],
        "geometry": structure["geometry"],
        "hero": paths(hero),
        "extras": [paths(e) for e in structure["extras"]],
    }
