"""Grain transforms of decoded records into examples in the form of `gen1_jax.batch.Batch`.

An example is a dictionary of numpy arrays without the batch axis: frames [n H W 3] uint8,
depth [n H W] float32, tokens [l] int32, structure_level [] and content_frame [] int32. Every random
choice comes from the generator that Grain seeds by the record's place in the stream, so it is the
same after any restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from PIL import Image

from gen1_jax.errors import UserError

Example = dict[str, Any]
ALL_LEVELS = tuple(range(8))  # of blur, t_s; as gen1_jax.diffusion.structure.NUM_LEVELS

_PER_FRAME = ("frames", "depth", "mask")  # [n H W ...]


class Choice(NamedTuple):
    """What a step takes of a clip."""

    frames: slice
    level: int  # t_s, the blur level of its structure
    content_frame: int  # whose embedding is the content; counted among the frames taken


def choose(
    rng: np.random.Generator, have: int, num_frames: int, stride: int, levels: Sequence[int]
) -> Choice:
    """Draws `num_frames` of `have` frames, `stride` apart, one of `levels` and a content frame.

    Raises:
        UserError: a clip that is too short.
    """
    span = (num_frames - 1) * stride + 1
    if have < span:
        raise UserError(
            f"a clip of {have} frames is too short: {num_frames} frames, {stride} apart, need "
            f"{span}"
        )
    start = int(rng.integers(have - span + 1))
    level = int(levels[rng.integers(len(levels))])
    return Choice(slice(start, start + span, stride), level, int(rng.integers(num_frames)))


class ChooseFrames(grain.transforms.RandomMap):
    """Keeps `num_frames` frames, `stride` apart, from a random start; n = 1 makes an image.

    Adds what else is drawn for the clip: structure_level [] (t_s, one of `levels`) and
    content_frame []. Drawn here, not in the step, so that encoded clips, which a step reads at one
    level alone, are drawn alike.

    Raises:
        UserError: from a clip that is too short.
    """

    name = Choice.__name__

    def __init__(self, num_frames: int, stride: int = 1, levels: Sequence[int] = ALL_LEVELS):
        if num_frames < 1 or stride < 1:
            raise UserError(f"{num_frames} frames, {stride} apart: both must be at least 1")
        wrong = sorted(set(levels) - set(ALL_LEVELS))
        if wrong or not levels:
            raise UserError(f"levels {list(levels)}; some of {list(ALL_LEVELS)} are accepted")
        self._settings = num_frames, stride, sorted(set(levels))

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        choice = choose(rng, len(element["frames"]), *self._settings)
        kept = {k: v[choice.frames] if k in _PER_FRAME else v for k, v in element.items()}
        drawn = {"structure_level": choice.level, "content_frame": choice.content_frame}
        return {**kept, **{name: np.int32(value) for name, value in drawn.items()}}


class FitTo(grain.transforms.RandomMap):
    """Scales frames and depth to cover (height, width), then crops, at random or in the middle."""

    def __init__(self, size: tuple[int, int], random_crop: bool = True):
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"bucket {size} is no (height, width) in pixels")
        self._size, self._random_crop = tuple(size), random_crop

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        have, want = element["frames"].shape[1:3], self._size
        if have == want:
            return element
        factor = max(want[0] / have[0], want[1] / have[1])
        scaled = tuple(max(w, round(h * factor)) for h, w in zip(have, want, strict=True))
        spare = [s - w for s, w in zip(scaled, want, strict=True)]
        if self._random_crop:
            top, left = (int(rng.integers(s + 1)) for s in spare)
        else:
            top, left = (s // 2 for s in spare)
        if scaled == have:
            top_left = np.s_[:, top : top + want[0], left : left + want[1]]
            return {k: v[top_left] if k in _PER_FRAME else v for k, v in element.items()}
        # The box, in source pixels, that becomes the cropped output: one resampling, no copy.
        scale_y, scale_x = have[0] / scaled[0], have[1] / scaled[1]
        box = (
            left * scale_x,
            top * scale_y,
            min((left + want[1]) * scale_x, have[1]),
            min((top + want[0]) * scale_y, have[0]),
        )
        fitted = dict(element)
        fitted["frames"] = _resample(element["frames"], want, box, Image.Resampling.BICUBIC)
        if "depth" in element:
            fitted["depth"] = _resample(element["depth"], want, box, Image.Resampling.BILINEAR)
        return fitted


class Flip(grain.transforms.RandomMap):
    """Mirrors a clip, left to right, with its depth; every other one, at random."""

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        if rng.integers(2):
            return element
        return {k: _mirror(v) if k in _PER_FRAME else v for k, v in element.items()}


def _mirror(images: np.ndarray) -> np.ndarray:
    """Mirrors images [n h w ...], contiguous: whole pixels are moved, three times faster."""
    pixels = images.view(f"V{images[0, 0, 0].nbytes}") if images.ndim == 4 else images
    return np.ascontiguousarray(pixels[:, :, ::-1]).view(images.dtype)


def _resample(images: np.ndarray, size: tuple[int, int], box: tuple, method: int) -> np.ndarray:
    """Resamples the box of images [n h w ...] to [n H W ...], anti-aliased when shrinking."""
    target = (size[1], size[0])
    return np.stack([np.asarray(Image.fromarray(i).resize(target, method, box)) for i in images])


class Tokenize(grain.transforms.Map):
    """Replaces the caption by `tokens` [l] int32.

    Args:
        tokenizer: texts → tokens [b l] int32, padded (`gen1_jax.tokenizer.Tokenizer.encode`).
    """

    def __init__(self, tokenizer: Callable[[list[str]], np.ndarray]):
        self._tokenizer = tokenizer

    def map(self, element: Example) -> Example:
        return {**element, "tokens": np.asarray(self._tokenizer([element["caption"]])[0], np.int32)}


class Select(grain.transforms.Map):
    """Keeps these fields and no others, so that examples can be stacked into a batch.

    Raises:
        UserError: from a record that lacks one.
    """

    def __init__(self, fields: tuple[str, ...]):
        self._fields = tuple(fields)

    def map(self, element: Example) -> Example:
        missing = [f for f in self._fields if f not in element]
        if missing:
            raise UserError(f"a record has no {missing[0]!r}; it has: {', '.join(sorted(element))}")
        return {f: np.asarray(element[f]) for f in self._fields}
