"""Grain transforms that make examples for a `gen1_jax.batch.Batch` from decoded records.

An example is a dictionary of numpy arrays without the batch axis: frames [n H W 3] uint8,
depth [n H W] float32, tokens [l] int32, structure_level [] and content_frame [] int32. Every random
choice comes from the generator that Grain seeds by the record's place in the stream, so it is the
same after any restart. The name of a random transform's class is part of its seed: renaming a class
changes the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from PIL import Image

from gen1_jax.data_pipelines.damage import REPLACED
from gen1_jax.errors import UserError

Example = dict[str, Any]
ALL_LEVELS = tuple(range(8))  # blur levels t_s: range(gen1_jax.diffusion.structure.NUM_LEVELS)

_PER_FRAME = ("frames", "depth", "mask")  # fields of shape [n H W ...]


class Choice(NamedTuple):
    """The random choices for one clip in one step.

    Attributes:
      frames: the frames to take.
      level: blur level t_s of the structure.
      content_frame: number, among the frames taken, of the one whose image embedding is the
        content.
    """

    frames: slice
    level: int
    content_frame: int


def choose(
    rng: np.random.Generator, have: int, num_frames: int, stride: int, levels: Sequence[int]
) -> Choice:
    """Draws the choices for a clip.

    Args:
      rng: generator of the draws.
      have: number of the clip's frames.
      num_frames: number of frames to take.
      stride: distance of consecutive frames taken.
      levels: blur levels to draw from.

    Raises:
      UserError: the clip is too short.
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
    """Keeps `num_frames` frames, `stride` apart, from a random start; one frame makes an image.

    Adds structure_level [] (t_s, one of `levels`) and content_frame []. They are drawn here and not
    in the training step, so that raw and encoded clips are drawn alike; an encoded clip is read at
    the drawn level only.

    Raises:
      UserError: a setting is wrong, or a clip is too short.
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
    """Scales frames and depth to cover (height, width), then crops them.

    Args:
      size: (height, width) of the result.
      random_crop: whether the crop is at a random place; otherwise it is in the middle.

    Raises:
      UserError: the size is no pair of positive numbers.
    """

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
        # Resampling this box of the source, in its pixels, scales and crops in one step.
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
    """Mirrors a clip and its depth, left to right, with probability 1/2."""

    def random_map(self, element: Example, rng: np.random.Generator) -> Example:
        if rng.integers(2):
            return element
        return {k: _mirror(v) if k in _PER_FRAME else v for k, v in element.items()}


def _mirror(images: np.ndarray) -> np.ndarray:
    """Mirrors images [n h w ...]; it moves whole pixels, which is three times faster."""
    pixels = images.view(f"V{images[0, 0, 0].nbytes}") if images.ndim == 4 else images
    return np.ascontiguousarray(pixels[:, :, ::-1]).view(images.dtype)


def _resample(images: np.ndarray, size: tuple[int, int], box: tuple, method: int) -> np.ndarray:
    """Resamples a box of images [n h w ...] to [n H W ...], with antialiasing."""
    target = (size[1], size[0])
    return np.stack([np.asarray(Image.fromarray(i).resize(target, method, box)) for i in images])


class Tokenize(grain.transforms.Map):
    """Adds the caption's `tokens` [l] int32.

    Args:
      tokenizer: function from texts to padded tokens [b l] int32, such as
        `gen1_jax.tokenizer.Tokenizer.encode_captions`.
    """

    def __init__(self, tokenizer: Callable[[list[str]], np.ndarray]):
        self._tokenizer = tokenizer

    def map(self, element: Example) -> Example:
        return {**element, "tokens": np.asarray(self._tokenizer([element["caption"]])[0], np.int32)}


class Select(grain.transforms.Map):
    """Keeps the given fields only, so that examples can be stacked into a batch.

    It also keeps whether the example stands in the place of a damaged record; `Stream` counts that.

    Raises:
      UserError: a record lacks a field.
    """

    def __init__(self, fields: tuple[str, ...]):
        self._fields = tuple(fields)

    def map(self, element: Example) -> Example:
        missing = [f for f in self._fields if f not in element]
        if missing:
            raise UserError(f"a record has no {missing[0]!r}; it has: {', '.join(sorted(element))}")
        kept = {f: np.asarray(element[f]) for f in self._fields}
        return kept | {REPLACED: np.int32(element.get(REPLACED, 0))}
