"""The stream that training reads: video batches with image batches spread evenly among them.

Each component (a kind and a size) is shuffled, repeated and batched by itself. The components are
then mixed batch by batch: sizes first, images against videos last, so that images never come in
clumps. What a step reads is a function of the step and the seed alone: every host draws the same
kind and size at the same step, and an iterator's state is one number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines import transforms
from gen1_jax.errors import UserError

IMAGE_FRACTION = 0.125  # of batches; Gen-1 paper, section 4

Source = Any  # anything with __len__ and __getitem__


def make_dataset(
    videos: Source,
    images: Source | None = None,
    *,
    decode: Callable[[Any], dict],
    batch_size: int,
    image_batch_size: int | None = None,
    image_fraction: float = IMAGE_FRACTION,
    num_frames: int = 8,
    stride: int = 1,
    buckets: Sequence[tuple[int, int]] = ((64, 64),),
    image_buckets: Sequence[tuple[int, int]] | None = None,
    levels: Sequence[int] = transforms.ALL_LEVELS,
    tokenizer: Callable | None = None,
    fields: Sequence[str] = ("frames",),
    random_crop: bool = True,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    **reading: int,
) -> grain.IterDataset:
    """An endless stream of raw batches: dictionaries with the names of `gen1_jax.batch.Batch`.

    Args:
        videos: records of clips.
        images: records whose frames are images; by default random frames of `videos`.
        decode: from a record to frames, with depth and caption where there are any.
        batch_size: clips in a batch, over all processes.
        image_batch_size: images in a batch; by default frames are as many as in a video batch.
        image_fraction: of batches that are images, exactly; 0 is videos only and 1 images only.
        num_frames: n of video batches.
        stride: source frames from one frame to the next.
        buckets: sizes (H, W) of video batches, taken in turn.
        image_buckets: sizes of image batches; by default as for videos.
        levels: of blur, of which `structure_level` is drawn.
        tokenizer: makes `tokens` of captions; needed where `fields` has them.
        fields: what a batch holds of frames [b n H W 3] uint8, depth [b n H W] float32, tokens
            [b l] int32, structure_level [b] int32 and content_frame [b] int32; the UNet's stages
            need the last two beside the frames.
        random_crop: crop at random where a clip does not fit its bucket; else in the middle.
        seed: of the order, of frames and of crops.
        process_index: this host.
        process_count: hosts; each reads its own part of the records.
        **reading: `num_threads`, `prefetch`, `num_workers`, as in `stream`.

    Raises:
        UserError: an empty source, sizes that do not divide, tokens without a tokenizer.
    """
    if "tokens" in fields and tokenizer is None:
        raise UserError("field 'tokens' needs a tokenizer; pass one, or leave the field out")
    if not buckets:
        raise UserError("no buckets; at least one (height, width) is needed")

    def steps(n: int, size: tuple[int, int]) -> list:
        each = [
            transforms.Decode(decode),
            transforms.ChooseFrames(n, stride, levels),
            transforms.FitTo(size, random_crop),
        ]
        if "tokens" in fields:
            each.append(transforms.Tokenize(tokenizer))
        return [*each, transforms.Select(tuple(fields))]

    shared = {"seed": seed, "process_index": process_index, "process_count": process_count}
    image_fraction = _fraction(image_fraction)
    kinds: dict[str, list[grain.MapDataset]] = {"videos": [], "images": []}
    if image_fraction < 1:
        for i, size in enumerate(buckets):
            kinds["videos"].append(
                batches(videos, steps(num_frames, size), batch_size, component=2 * i, **shared)
            )
    if image_fraction > 0:
        image_source = videos if images is None else images
        per_batch = image_batch_size or batch_size * num_frames
        for i, size in enumerate(image_buckets or buckets):
            kinds["images"].append(
                batches(image_source, steps(1, size), per_batch, component=2 * i + 1, **shared)
            )
    return stream(mix(kinds["videos"], kinds["images"], image_fraction), **reading)


def batches(
    source: Source,
    steps: Sequence[Any],
    batch_size: int,
    *,
    seed: int = 0,
    component: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """One component: this process's share of a source, shuffled, repeated, mapped and batched.

    Args:
        source: records.
        steps: transforms from a record to an example, in order.
        batch_size: over all processes; must divide by `process_count`.
        seed: of the order and of random transforms.
        component: its number, so that components of one source read it in different orders.
        process_index: this host.
        process_count: hosts.

    Raises:
        UserError: an empty source, fewer records than processes, or a batch that does not divide.
    """
    if not 0 <= process_index < process_count:
        raise UserError(f"process {process_index} of {process_count}; 0 to count - 1 is accepted")
    if len(source) < process_count:
        raise UserError(f"a source of {len(source)} records cannot feed {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} does not divide among {process_count} processes; "
            f"a multiple of {process_count} is accepted"
        )
    own_seed = _seed(seed, component)
    dataset = grain.MapDataset.source(source).seed(own_seed)
    dataset = dataset.shuffle().repeat()
    for step in steps:
        if isinstance(step, grain.transforms.RandomMap):
            dataset = dataset.random_map(step, seed=_named_seed(own_seed, step))
        else:
            dataset = dataset.map(step)
    # Cut last: a step's records, and their random crops, are the same however many hosts share
    # them, and a host makes only its own.
    dataset = dataset.batch(batch_size // process_count, drop_remainder=True)
    return dataset[process_index::process_count]


def _seed(*numbers: int) -> int:
    """Grain takes 32 bits of seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _named_seed(seed: int, step: grain.transforms.RandomMap) -> int:
    """By its name, not its place: a record's draws are the same whatever else is done to it."""
    name = getattr(step, "name", type(step).__name__)
    return _seed(seed, zlib.crc32(name.encode()))


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
) -> grain.MapDataset:
    """Mixes batched components; a kind's components are taken in turn.

    Raises:
        UserError: a fraction outside 0..1, or a kind that is wanted but has no component.
    """
    image_fraction = _fraction(image_fraction)
    if (image_fraction < 1 and not videos) or (image_fraction > 0 and not images):
        missing = "images" if videos else "videos"
        raise UserError(f"image fraction {float(image_fraction)} needs {missing}; none are given")
    if image_fraction == 0:
        return grain.MapDataset.mix(videos)
    if image_fraction == 1:
        return grain.MapDataset.mix(images)
    both = [grain.MapDataset.mix(videos), grain.MapDataset.mix(images)]
    length = min(int(len(both[0]) / (1 - image_fraction)), int(len(both[1]) / image_fraction))
    return grain.MapDataset.select_from_datasets(
        both, _Spread(image_fraction, min(length, min(map(len, both))))
    )


def _fraction(value: float | Fraction) -> Fraction:
    if not 0 <= value <= 1:
        raise UserError(f"image fraction {value} is outside 0..1")
    return Fraction(value).limit_denominator(1000)


def stream(
    dataset: grain.MapDataset, *, num_threads: int = 2, prefetch: int = 4, num_workers: int = 0
) -> grain.IterDataset:
    """Reads batches ahead, in threads of this process or in worker processes.

    The iterator's `get_state()` and `set_state()` restore it exactly.

    Args:
        dataset: of batches.
        num_threads: that read in this process, or in each worker; 0 reads when asked.
        prefetch: batches read ahead.
        num_workers: processes; 0 is none.
    """
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    )
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, whoever the caller is
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return dataset
