"""The stream that training reads: video batches with image batches spread evenly among them.

Each bucket (a kind and a size) is shuffled, repeated and batched by itself. Buckets are then mixed
batch by batch: sizes first, images against videos last, so that images never come in clumps. What
a step reads is a function of the step and the seed alone: every host draws the same kind and size
at the same step, and the state of a stream is the number of its next step, whatever the number of
hosts, threads and worker processes.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np

from gen1_jax.data_pipelines import transforms
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.errors import UserError

IMAGE_FRACTION = 0.125  # of batches; Gen-1 paper, section 4

Source = Any  # anything with __len__ and __getitem__


@dataclasses.dataclass(frozen=True)
class Bucket:
    """What batches of one size are made of.

    Attributes:
        size: (H, W) of the frames.
        sources: of examples: frames [n H W 3], and depth and caption where there are any.
        weights: the share of each source in a batch; by default by its number of examples.
        share: of this bucket among the batches of its kind, relative to the others'.
    """

    size: tuple[int, int]
    sources: Sequence[Source]
    weights: Sequence[float] | None = None
    share: float = 1.0


def make_dataset(
    videos: Sequence[Bucket],
    images: Sequence[Bucket] = (),
    *,
    batch_size: int,
    image_batch_size: int | None = None,
    image_fraction: float = IMAGE_FRACTION,
    num_frames: int = 8,
    stride: int = 1,
    levels: Sequence[int] = transforms.ALL_LEVELS,
    tokenizer: Callable | None = None,
    fields: Sequence[str] = ("frames",),
    random_crop: bool = True,
    flip: bool = False,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    **reading: int,
) -> Stream:
    """An endless stream of raw batches: dictionaries with the names of `gen1_jax.batch.Batch`.

    Args:
        videos: what video batches are made of.
        images: what image batches are made of; by default random frames of `videos`.
        batch_size: clips in a batch, over all processes.
        image_batch_size: images in a batch; by default frames are as many as in a video batch.
        image_fraction: of batches that are images, exactly; 0 is videos only and 1 images only.
        num_frames: n of video batches.
        stride: source frames from one frame to the next.
        levels: of blur, of which `structure_level` is drawn.
        tokenizer: makes `tokens` of captions; needed where `fields` has them.
        fields: what a batch holds of frames [b n H W 3] uint8, depth [b n H W] float32, tokens
            [b l] int32, structure_level [b] int32 and content_frame [b] int32; the UNet's stages
            need the last two beside the frames.
        random_crop: crop at random where a clip does not fit its bucket; else in the middle.
        flip: mirror every other clip, at random.
        seed: of the order, of frames, of crops and of mirrored clips.
        process_index: this host.
        process_count: hosts; each reads its own part of the records.
        **reading: `num_threads`, `prefetch`, `num_workers`, as in `Stream`.

    Raises:
        UserError: an empty source, sizes that do not divide, tokens without a tokenizer.
    """
    if "tokens" in fields and tokenizer is None:
        raise UserError("field 'tokens' needs a tokenizer; pass one, or leave the field out")
    if not videos and not images:
        raise UserError("no buckets; at least one (height, width) is needed")

    def steps(n: int, size: tuple[int, int]) -> list:
        each = [transforms.ChooseFrames(n, stride, levels), transforms.FitTo(size, random_crop)]
        if flip:
            each.append(transforms.Flip())
        if "tokens" in fields:
            each.append(transforms.Tokenize(tokenizer))
        return [*each, transforms.Select(tuple(fields))]

    def all_batches(buckets: Sequence[Bucket], n: int, size: int, first: int) -> list:
        shared = {"seed": seed, "process_index": process_index, "process_count": process_count}
        return [
            batches(
                bucket.sources,
                steps(n, bucket.size),
                size,
                weights=bucket.weights,
                component=first + 2 * i,
                **shared,
            )
            for i, bucket in enumerate(buckets)
        ]

    image_fraction = _fraction(image_fraction)
    images = images or videos
    kinds = mix(
        all_batches(videos, num_frames, batch_size, 0) if image_fraction < 1 else [],
        all_batches(images, 1, image_batch_size or batch_size * num_frames, 1)
        if image_fraction > 0
        else [],
        image_fraction,
        shares=([bucket.share for bucket in videos], [bucket.share for bucket in images]),
    )
    return Stream(kinds, **reading)


def batches(
    sources: Sequence[Source],
    steps: Sequence[Any],
    batch_size: int,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    component: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """One bucket: this process's share of sources, shuffled, repeated, mapped and batched.

    Args:
        sources: of examples; mixed example by example.
        steps: transforms of an example, in order.
        batch_size: over all processes; must divide by `process_count`.
        weights: of the sources; by default their lengths.
        seed: of the order and of random transforms.
        component: its number, so that components of one source read it in different orders.
        process_index: this host.
        process_count: hosts.

    Raises:
        UserError: an empty source, wrong weights, or a batch that does not divide.
    """
    if not 0 <= process_index < process_count:
        raise UserError(f"process {process_index} of {process_count}; 0 to count - 1 is accepted")
    if not sources or not all(map(len, sources)):
        raise UserError("a source of 0 records cannot feed training")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} does not divide among {process_count} processes; "
            f"a multiple of {process_count} is accepted"
        )
    weights = _checked(weights or [len(source) for source in sources], len(sources), "sources")

    def shuffled(number: int, source: Source) -> grain.MapDataset:
        own_seed = _seed(seed, component, number) if number else _seed(seed, component)
        return grain.MapDataset.source(source).seed(own_seed).shuffle().repeat()

    parts = [shuffled(number, source) for number, source in enumerate(sources)]
    dataset = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)
    for step in steps:
        if isinstance(step, grain.transforms.RandomMap):
            dataset = dataset.random_map(step, seed=_named_seed(seed, component, step))
        else:
            dataset = dataset.map(step)
    # Cut last: a step's records, and their random crops, are the same however many hosts share
    # them, and a host makes only its own.
    dataset = dataset.batch(batch_size // process_count, drop_remainder=True)
    return dataset[process_index::process_count]


def _seed(*numbers: int) -> int:
    """Grain takes 32 bits of seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _named_seed(seed: int, component: int, step: grain.transforms.RandomMap) -> int:
    """By its name, not its place: a record's draws are the same whatever else is done to it."""
    name = getattr(step, "name", type(step).__name__)
    return _seed(seed, component, zlib.crc32(name.encode()))


class _Spread:
    """Selects images at every step where the running count of images due goes up by one.

    Exact integer arithmetic: in any `denominator` successive steps there are exactly `numerator`
    images, as evenly spread as can be.
    """

    def __init__(self, image_fraction: Fraction, length: int):
        self._p, self._q, self._length = *image_fraction.as_integer_ratio(), length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, step: int) -> tuple[int, int]:
        before, after = step * self._p // self._q, (step + 1) * self._p // self._q
        return (1, before) if after > before else (0, step - before)


def mix(
    videos: Sequence[grain.MapDataset],
    images: Sequence[grain.MapDataset],
    image_fraction: float | Fraction = IMAGE_FRACTION,
    *,
    shares: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None),
) -> grain.MapDataset:
    """Mixes batched components.

    Args:
        videos: components of video batches.
        images: components of image batches.
        image_fraction: of batches that are images.
        shares: of the components among those of their kind, for each kind; by default they are
            taken in turn.

    Raises:
        UserError: a fraction outside 0..1, wrong shares, or a kind that is wanted but has no
            component.
    """
    image_fraction = _fraction(image_fraction)
    if (image_fraction < 1 and not videos) or (image_fraction > 0 and not images):
        missing = "images" if videos else "videos"
        raise UserError(f"image fraction {float(image_fraction)} needs {missing}; none are given")

    def kind(components: Sequence[grain.MapDataset], own: Sequence[float] | None):
        own = _checked(own or [1.0] * len(components), len(components), "buckets")
        return grain.MapDataset.mix(components, own)

    if image_fraction == 0:
        return kind(videos, shares[0])
    if image_fraction == 1:
        return kind(images, shares[1])
    both = [kind(videos, shares[0]), kind(images, shares[1])]
    length = min(int(len(both[0]) / (1 - image_fraction)), int(len(both[1]) / image_fraction))
    return grain.MapDataset.select_from_datasets(
        both, _Spread(image_fraction, min(length, min(map(len, both))))
    )


def _fraction(value: float | Fraction) -> Fraction:
    if not 0 <= value <= 1:
        raise UserError(f"image fraction {value} is outside 0..1")
    return Fraction(value).limit_denominator(1000)


def _checked(weights: Sequence[float], count: int, of: str) -> list[float]:
    if len(weights) != count or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"weights {tuple(weights)} of {count} {of}; one above 0 for each is needed")
    return list(weights)
