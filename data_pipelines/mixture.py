"""The mixture that training reads: batches of videos, with batches of images spread among them.

A bucket is a kind (video or image) and a size. Each bucket is shuffled, repeated and batched by
itself. Buckets are then mixed batch by batch: first those of one kind, then images with videos, so
that image batches are spread evenly. The batch of a step depends on the step and the seed alone:
every host draws the same kind and size at the same step, and the state of a stream is the number of
its next step, whatever the number of hosts, threads and worker processes.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np

from gen1_jax.batch import BatchKind
from gen1_jax.data_pipelines import transforms
from gen1_jax.data_pipelines.ordering import Windowed
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.errors import UserError

IMAGE_FRACTION = 0.125  # share of image batches; Gen-1 paper, section 4

Source = Any  # anything with __len__ and __getitem__
# (size of a batch over all processes, frames of an example) → the rows that this process reads
Rows = Callable[[int, int], Sequence[int]]


def all_rows(size: int, num_frames: int) -> Sequence[int]:
    """Returns all rows of a batch, which a process that is alone reads."""
    return range(size)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The sources of batches of one size.

    Attributes:
      size: height and width of the frames, in pixels.
      sources: sources of examples. An example holds frames [n H W 3], and a depth and a caption
        where there are any.
      weights: share of each source in a batch; by default, its number of examples.
      share: share of this bucket among the batches of its kind, relative to the other buckets.
    """

    size: tuple[int, int]
    sources: Sequence[Source]
    weights: Sequence[float] | None = None
    share: float = 1.0


def make_raw_stream(
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
    shuffle_window: int | None = None,
    seed: int = 0,
    rows: Rows = all_rows,
    **reading: int,
) -> Stream:
    """Returns an endless stream of raw batches.

    Args:
      videos: buckets of video batches.
      images: buckets of image batches; by default, random frames of `videos`.
      batch_size: clips in a batch, over all processes.
      image_batch_size: images in a batch; by default, as many as a video batch has frames.
      image_fraction: exact share of image batches; 0 gives videos only, 1 images only.
      num_frames: n of a video batch.
      stride: distance of consecutive frames in the source, in frames.
      levels: blur levels from which `structure_level` is drawn.
      tokenizer: makes `tokens` from captions; needed if `fields` contains "tokens".
      fields: the fields of a batch, from: frames [b n H W 3] uint8, depth [b n H W] float32,
        tokens [b l] int32, structure_level [b] int32 and content_frame [b] int32. The UNet's
        stages need the last two beside the frames.
      random_crop: whether a clip that does not fit its bucket is cropped at random; otherwise it
        is cropped in the middle.
      flip: whether each clip is mirrored with probability 1/2.
      shuffle_window: files whose records are shuffled together; None: all. See ordering.py.
      seed: seed of the order and of all random choices.
      rows: which rows of a batch this process reads: those that its devices hold.
      **reading: `num_threads`, `prefetch` and `num_workers` of `Stream`.

    Raises:
      UserError: a source is empty, sizes do not divide, or a tokenizer is missing.
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
        own = rows(size, n)
        return [
            batches(
                bucket.sources,
                steps(n, bucket.size),
                size,
                weights=bucket.weights,
                component=first + 2 * i,
                shuffle_window=shuffle_window,
                seed=seed,
                rows=own,
            )
            for i, bucket in enumerate(buckets)
        ]

    image_fraction = _fraction(image_fraction)
    images = images or videos
    per_batch = image_batch_size or batch_size * num_frames
    mixed = mix(
        all_batches(videos, num_frames, batch_size, 0) if image_fraction < 1 else [],
        all_batches(images, 1, per_batch, 1) if image_fraction > 0 else [],
        image_fraction,
        shares=([bucket.share for bucket in videos], [bucket.share for bucket in images]),
    )
    kinds = kinds_of(
        [(batch_size, num_frames, bucket.size, bucket.share) for bucket in videos],
        [(per_batch, 1, bucket.size, bucket.share) for bucket in images],
        image_fraction,
    )
    return Stream(mixed, kinds=kinds, **reading)


def add_subject(images: Sequence[Bucket], subject: Source, share: float) -> list[Bucket]:
    """Returns buckets of images in which a share of each batch is the subject's.

    Args:
      images: buckets of the other images.
      subject: examples of the subject, which are cropped to each size.
      share: its share of a batch; 1 leaves the others out.
    """
    if share == 1:
        return [dataclasses.replace(b, sources=[subject], weights=None) for b in images]
    added = []
    for bucket in images:
        weights = bucket.weights or [len(source) for source in bucket.sources]
        scale = (1 - share) / sum(weights)
        weights = [*(weight * scale for weight in weights), share]
        added.append(
            dataclasses.replace(bucket, sources=[*bucket.sources, subject], weights=weights)
        )
    return added


# ---- one bucket


def batches(
    sources: Sequence[Source],
    steps: Sequence[Any],
    batch_size: int,
    *,
    weights: Sequence[float] | None = None,
    shuffle_window: int | None = None,
    seed: int = 0,
    component: int = 0,
    rows: Sequence[int] | None = None,
) -> grain.MapDataset:
    """Returns this process's batches of one bucket: shuffled, repeated, transformed, batched.

    Args:
      sources: sources of examples, which are mixed example by example.
      steps: transforms of an example, in order.
      batch_size: size of a batch over all processes.
      weights: weights of the sources; by default, their lengths.
      shuffle_window: files whose records are shuffled together; None: all. A source that is one
        folder of pictures is shuffled whole.
      seed: seed of the order and of random transforms.
      component: number of this bucket. Buckets of one source read it in different orders.
      rows: rows of each batch that this process reads, in their order; None: all.

    Raises:
      UserError: a source is empty, weights are wrong, or a batch is empty.
    """
    if not sources or not all(map(len, sources)):
        raise UserError("a source of 0 records cannot feed training")
    if batch_size < 1:
        raise UserError(f"a batch of {batch_size}; 1 or more is accepted")
    weights = _checked(weights or [len(source) for source in sources], len(sources), "sources")

    def shuffled(number: int, source: Source) -> grain.MapDataset:
        own_seed = _seed(seed, component, number) if number else _seed(seed, component)
        if shuffle_window is not None and hasattr(source, "shard_counts"):
            return grain.MapDataset.source(Windowed(source, shuffle_window, batch_size, own_seed))
        return grain.MapDataset.source(source).seed(own_seed).shuffle().repeat()

    examples = [shuffled(number, source) for number, source in enumerate(sources)]
    dataset = examples[0] if len(examples) == 1 else grain.MapDataset.mix(examples, weights)
    for step in steps:
        if isinstance(step, grain.transforms.RandomMap):
            dataset = dataset.random_map(step, seed=_transform_seed(seed, component, step))
        else:
            dataset = dataset.map(step)
    # The processes' rows are chosen last. A step's records and their random crops are therefore the
    # same for any number of processes, and each process still makes only its own.
    if rows is not None and len(rows) < batch_size:
        own = _Rows(tuple(map(int, rows)), batch_size, len(dataset))
        dataset = grain.MapDataset.select_from_datasets([dataset], own)
        batch_size = len(rows)
    return dataset.batch(batch_size, drop_remainder=True)


class _Rows:
    """Selects the examples of the same rows of every batch."""

    def __init__(self, rows: tuple[int, ...], batch_size: int, examples: int):
        self._rows, self._batch_size = rows, batch_size
        self._length = examples // batch_size * len(rows)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Returns the number of the only source, and the number of the example in it."""
        batch, row = divmod(index, len(self._rows))
        return 0, batch * self._batch_size + self._rows[row]


def _seed(*numbers: int) -> int:
    """Returns a seed of 32 bits, which is what Grain takes."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _transform_seed(seed: int, component: int, step: grain.transforms.RandomMap) -> int:
    """Returns a transform's seed, which follows from its name.

    The name counts, not the position: adding or removing another transform changes no draw.
    """
    name = getattr(step, "name", type(step).__name__)
    return _seed(seed, component, zlib.crc32(name.encode()))


# ---- all buckets


class _Spread:
    """Selects an image batch at each step where the number of images due has grown by one.

    The arithmetic is in exact integers: any `denominator` successive steps hold exactly `numerator`
    image batches, spread as evenly as possible.
    """

    def __init__(self, image_fraction: Fraction, length: int):
        self._p, self._q, self._length = *image_fraction.as_integer_ratio(), length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, step: int) -> tuple[int, int]:
        """Returns the kind of a step (1 for images) and the step's number among its kind."""
        before, after = step * self._p // self._q, (step + 1) * self._p // self._q
        return (1, before) if after > before else (0, step - before)


def mix(
    videos: Sequence[grain.MapDataset],
    images: Sequence[grain.MapDataset],
    image_fraction: float | Fraction = IMAGE_FRACTION,
    *,
    shares: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None),
) -> grain.MapDataset:
    """Mixes buckets that are batched already.

    Args:
      videos: buckets of video batches.
      images: buckets of image batches.
      image_fraction: share of image batches.
      shares: for videos and for images, the share of each bucket among those of its kind; by
        default, buckets take turns.

    Raises:
      UserError: a fraction is outside 0..1, shares are wrong, or a kind that is wanted is missing.
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


def kinds_of(
    videos: Sequence[tuple[int, int, tuple[int, int], float]],
    images: Sequence[tuple[int, int, tuple[int, int], float]],
    image_fraction: float | Fraction,
) -> list[BatchKind]:
    """Returns the kinds of batches of a mixture.

    Args:
      videos: of each bucket: examples of a batch, frames, height and width, and its share among
        its kind, relative to the others.
      images: the same.
      image_fraction: share of image batches.
    """
    found = []
    for buckets, fraction in ((videos, 1 - image_fraction), (images, image_fraction)):
        total = sum(share for *_, share in buckets)
        for size, num_frames, frame, share in buckets if fraction else ():
            found.append(BatchKind(size, num_frames, tuple(frame), float(fraction * share / total)))
    return found


def _fraction(value: float | Fraction) -> Fraction:
    if not 0 <= value <= 1:
        raise UserError(f"image fraction {value} is outside 0..1")
    return Fraction(value).limit_denominator(1000)


def _checked(weights: Sequence[float], count: int, of: str) -> list[float]:
    if len(weights) != count or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"weights {tuple(weights)} of {count} {of}; one above 0 for each is needed")
    return list(weights)
