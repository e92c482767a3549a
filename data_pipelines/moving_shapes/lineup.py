"""Names what an edit of a clip shows, by comparing it with every edit that might have been made.

Content and structure of the world are independent, so the clip that an edit should become can be
rendered, and so can those that it should not become. What is found is the nearest of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.renderer import Clip, render
from gen1_jax.data_pipelines.moving_shapes.vocabulary import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    UNSEEN,
)
from gen1_jax.errors import UserError
from gen1_jax.video.pixels import rgb_to_lab

# Shading and texture change lightness far more than chroma, so lightness counts less.
_WEIGHTS = np.array([0.5, 1.0, 1.0])
_BLOCK = 8  # side of the blocks, in pixels of 32, in which backgrounds are compared by their means
_FAINTEST = 0.3  # contrast from which a texture is seen, in the contrast of the rendered one
_SHADES = 6  # levels of lightness that stand for an object's surface

Array = np.ndarray


@dataclass(frozen=True)
class Found:
    """What the frames of an edit show.

    Attributes:
      values: attribute → its value in the clip.
      by_frame: attribute → its value in each frame; None where the frame shows nothing to tell by.
      mask: [n h w] bool, the pixels that look like the object and not like the background.
    """

    values: dict[str, str]
    by_frame: dict[str, list[str | None]]
    mask: Array


class Lineup:
    """The clip that an edit should become, and all others that it might have become.

    Attributes:
      expected: what the edit should show: attribute → value.
      wanted: the clip that it should become.
    """

    def __init__(
        self,
        seed: int,
        source: Mapping[str, str],
        wanted: Mapping[str, str],
        *,
        num_frames: int,
        size: tuple[int, int],
        camera: str | None = None,
        unseen: bool = False,
    ):
        """Renders the clip that is wanted.

        Args:
          seed: of the clip that is edited.
          source: its attributes.
          wanted: those that the edit should change.
          num_frames: n.
          size: (h, w) of the frames.
          camera: what the clip was rendered with; None: the camera of the seed.
          unseen: whether the subjects that no data set shows stand in the line-up too.
        """
        more = UNSEEN if unseen else {}
        self._values = {name: (*each, *more.get(name, ())) for name, each in ATTRIBUTES.items()}
        self._of = {"num_frames": num_frames, "size": size, "camera": camera}
        self._seed, self._source_shape = seed, source["shape"]
        self.expected = {name: wanted.get(name, source[name]) for name in ATTRIBUTES}
        self.wanted = self._render()
        self._made: dict[str, dict[tuple[str, str], _Surface]] = {}

    def find(self, frames: Array) -> Found:
        """Returns what frames [n h w 3] uint8 show.

        The background is found first, then the colour, the texture for this colour, and the shape
        for all these: a wrong colour does not count against the texture. An edit towards another
        shape may have kept the source's; both are tried, and that counts which fits better.

        Raises:
          UserError: the frames have another shape than the clip.
        """
        if frames.shape != self.wanted.frames.shape:
            raise UserError(
                f"frames {frames.shape} are no edit of a clip of {self.wanted.frames.shape}"
            )
        lab = rgb_to_lab(frames)
        by_background = self._background_distances(lab)
        background = _nearest(by_background, BACKGROUNDS)
        tried = []
        for shape in dict.fromkeys((self.expected["shape"], self._source_shape)):
            surfaces = self._surfaces(shape)
            by_colour = _colour_distances(lab, surfaces, self._values["texture"])
            colour = _nearest(by_colour, tuple(COLOURS))
            by_texture = _texture_distances(lab, surfaces, colour, self._values["texture"])
            texture = _nearest(by_texture, self._values["texture"])
            content = {"colour": colour, "texture": texture, "background": background}
            by_shape = self._shape_distances(lab, content)
            distances = {"colour": by_colour, "texture": by_texture, "shape": by_shape}
            fit = np.nansum(by_shape, axis=0).min()
            tried.append((fit, content, distances | {"background": by_background}, surfaces))
        _, content, distances, surfaces = min(tried, key=lambda each: each[0])
        behind = rgb_to_lab(self._render(has_hero=False, background=background).frames)
        surface = surfaces[content["colour"], content["texture"]].lab
        return Found(
            {name: _nearest(distances[name], values) for name, values in self._values.items()},
            {name: _by_frame(distances[name], values) for name, values in self._values.items()},
            _object_mask(lab, surface, behind),
        )

    # ---- candidates

    def _render(self, has_hero: bool = True, **changes: str) -> Clip:
        of = {"changes": self.expected | changes, "has_hero": has_hero, **self._of}
        return render(self._seed, **of)

    def _lab(self, **changes: str) -> Array:
        return rgb_to_lab(self._render(**changes).frames)

    @cached_property
    def _reach(self) -> Array:
        """Where the object would be in any shape, [n h w] bool."""
        return np.any([self._render(shape=s).mask for s in self._values["shape"]], axis=0)

    @cached_property
    def _backgrounds(self) -> list[Array]:
        """Lab means of the blocks of each background."""
        return [self._block_means(self._lab(background=name)) for name in BACKGROUNDS]

    def _surfaces(self, shape: str) -> dict[tuple[str, str], _Surface]:
        """The object of a shape, for each colour and texture."""
        if shape not in self._made:
            inside = _inner(self._render(shape=shape).mask)
            frame, n = np.nonzero(inside)[0], len(inside)
            self._made[shape] = {
                (colour, texture): _Surface(
                    self._lab(shape=shape, colour=colour, texture=texture)[inside], inside, frame, n
                )
                for colour in COLOURS
                for texture in self._values["texture"]
            }
        return self._made[shape]

    # ---- distances [n candidates]; NaN where a frame shows nothing to tell by

    def _background_distances(self, lab: Array) -> Array:
        """The texture of a background may lie anywhere, so means of blocks are compared."""
        means = self._block_means(lab)
        weight = _blocks(~self._reach).sum((3, 4))
        return np.stack(
            [
                _mean(np.linalg.norm(means - candidate, axis=-1), weight)
                for candidate in self._backgrounds
            ],
            axis=1,
        )

    def _block_means(self, lab: Array) -> Array:
        """Returns the mean Lab of each block outside the object, [n rows columns 3]."""
        outside = _blocks(~self._reach)
        total = np.stack([(_blocks(lab[..., i]) * outside).sum((3, 4)) for i in range(3)], axis=-1)
        return total / np.maximum(outside.sum((3, 4)), 1)[..., None]

    def _shape_distances(self, lab: Array, found: Mapping[str, str]) -> Array:
        """Distance to the clip of each shape, which has all else as it was found."""
        distances = []
        for shape in self._values["shape"]:
            difference = (lab - self._lab(**{**found, "shape": shape})) * _WEIGHTS
            distances.append(_mean(np.linalg.norm(difference, axis=-1), self._reach))
        return np.stack(distances, axis=1)


class _Surface(NamedTuple):
    """The object in one look, without its edge, where neighbours bleed in.

    Attributes:
      lab: [p 3] its pixels.
      inside: [n h w] bool, where they are.
      frame: [p] the frame of each pixel.
      count: n.
    """

    lab: Array
    inside: Array
    frame: Array
    count: int

    def means(self, values: Array) -> Array:
        """Returns the mean of each frame's pixels, [p c] → [n c]; NaN for a frame without any."""
        there = np.bincount(self.frame, minlength=self.count)
        total = np.stack([self.total(channel) for channel in values.T], axis=1)
        return np.where(there > 0, 1.0, np.nan)[:, None] * total / np.maximum(there, 1)[:, None]

    def total(self, values: Array) -> Array:
        """Returns the sum of each frame's pixels, [p] → [n]."""
        return np.bincount(self.frame, values, minlength=self.count)

    def pattern(self, lightness: Array, plain: Array) -> Array:
        """Returns lightness [p] less that of the plain surface, and less its mean in each frame."""
        difference = lightness - plain
        return difference - self.means(difference[:, None])[self.frame, 0]


# ---- distances [n candidates]; NaN where a frame shows nothing to tell by


def _colour_distances(
    lab: Array, surfaces: Mapping[tuple[str, str], _Surface], textures: tuple[str, ...]
) -> Array:
    """Distance to the nearest mean of a colour's surfaces, whatever their texture."""
    one = next(iter(surfaces.values()))
    mean = one.means(lab[one.inside])
    distances = {
        look: np.linalg.norm((mean - one.means(surface.lab)) * _WEIGHTS, axis=-1)
        for look, surface in surfaces.items()
    }
    return np.stack(
        [np.min([distances[colour, t] for t in textures], axis=0) for colour in COLOURS], axis=1
    )


def _texture_distances(
    lab: Array,
    surfaces: Mapping[tuple[str, str], _Surface],
    colour: str,
    textures: tuple[str, ...],
) -> Array:
    """How much of the lightness a texture leaves unexplained, at the best contrast for it.

    Edits are blurry, so a texture counts at a part of its contrast; at less than `_FAINTEST` of
    it, a plain surface explains more.
    """
    plain = surfaces[colour, "plain"]
    seen = plain.pattern(lab[plain.inside][:, 0], plain.lab[:, 0])
    unexplained = []
    for texture in textures:
        drawn = plain.pattern(surfaces[colour, texture].lab[:, 0], plain.lab[:, 0])
        energy = np.maximum(plain.total(drawn**2), 1e-9)
        contrast = np.clip(plain.total(drawn * seen) / energy, 2 * _FAINTEST, 1)
        unexplained.append(plain.total((seen - contrast[plain.frame] * drawn) ** 2))
    there = np.bincount(plain.frame, minlength=plain.count)[:, None]
    return np.where(there > 0, np.stack(unexplained, axis=1), np.nan)


def _object_mask(lab: Array, surface: Array, behind: Array) -> Array:
    """Returns the pixels [n h w] that are nearer to a surface than to what is behind it.

    Args:
      lab: [n h w 3] the frames.
      surface: [p 3] the object's.
      behind: [n h w 3] the clip without the object.
    """
    levels = np.array_split(surface[np.argsort(surface[:, 0])], _SHADES)
    shades = np.stack([level.mean(axis=0) for level in levels if len(level)])
    to_object = np.linalg.norm((lab[..., None, :] - shades) * _WEIGHTS, axis=-1).min(axis=-1)
    return to_object < np.linalg.norm((lab - behind) * _WEIGHTS, axis=-1)


def _inner(mask: Array) -> Array:
    """Returns a mask without its edge, as far as enough of it is left."""
    for times in (2, 1):
        inner = _erode(mask, times)
        if inner.sum() * 8 >= mask.sum():
            return inner
    return mask


def _nearest(distances: Array, values: tuple[str, ...]) -> str:
    return values[int(np.nansum(distances, axis=0).argmin())]


def _by_frame(distances: Array, values: tuple[str, ...]) -> list[str | None]:
    return [None if np.isnan(row).any() else values[int(row.argmin())] for row in distances]


def _mean(values: Array, weight: Array) -> Array:
    """Returns the weighted mean of each frame, [n h w] → [n]; NaN where no pixel counts."""
    total = weight.sum((1, 2))
    mean = (values * weight).sum((1, 2)) / np.maximum(total, 1)
    return np.where(total > 0, mean, np.nan)


def _blocks(x: Array) -> Array:
    """Cuts frames into about 4x4 blocks, [n h w] → [n rows columns side side]; odd edges drop."""
    n, height, width = x.shape
    side = max(1, min(height, width) * _BLOCK // 32)
    rows, columns = height // side, width // side
    x = x[:, : rows * side, : columns * side].reshape(n, rows, side, columns, side)
    return x.swapaxes(2, 3)


def _erode(mask: Array, times: int = 1) -> Array:
    """Removes `times` pixels from the edge of a mask [n h w]."""
    for _ in range(times):
        inner = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
        mask = (
            mask
            & inner[:, :-2, 1:-1]
            & inner[:, 2:, 1:-1]
            & inner[:, 1:-1, :-2]
            & inner[:, 1:-1, 2:]
        )
    return mask
