"""Batches of encoded clips: examples drawn from stored clips, mixed as raw ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from gen1_jax.data_pipelines import mixture
from gen1_jax.data_pipelines.encoded.reader import Clip, EncodedSource
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.data_pipelines.transforms import ALL_LEVELS, Choice, Select, choose
from gen1_jax.errors import UserError

FIELDS = ("latents", "structure", "structure_level", "content")


class ToBatchForm(grain.transforms.RandomMap):
    """Makes an example in the encoded form of `Batch` from a stored clip.

    It draws frames, a level and a content frame exactly as `transforms.ChooseFrames` does, because
    Grain seeds both transforms by the same name.
    """

    name = Choice.__name__

    def __init__(
        self,
        num_frames: int,
        levels: Sequence[int] = ALL_LEVELS,
        fields: Sequence[str] = FIELDS,
    ):
        self._settings = num_frames, tuple(levels), tuple(fields)

    def random_map(self, element: Clip, rng: np.random.Generator) -> dict[str, Any]:
        state = rng.bit_generator.state

        def draw(index: int) -> dict[str, Any]:
            rng.bit_generator.state = state  # a replacement is drawn from as the record would be
            return to_batch_form(element.source[index], rng, *self._settings)

        return element.source.damage.read(element.index, draw)


def to_batch_form(
    record: Mapping[str, Any],
    rng: np.random.Generator,
    num_frames: int,
    levels: Sequence[int] = ALL_LEVELS,
    fields: Sequence[str] = FIELDS,
) -> dict[str, np.ndarray]:
    """Returns an example of a stored clip: random frames, at one level, with one frame's content.

    Numbers keep the precision in which they are stored; the training step widens them on its
    device.

    Args:
      record: a clip of an `EncodedSource`.
      rng: generator of the draws.
      num_frames: n; 1 makes an image.
      levels: permitted blur levels, some of which must be stored.
      fields: wanted fields, of latents [n h w c], latents_logvar [n h w c], structure [n h w c],
        structure_level [], content [d] and tokens [l]. Large fields are not read unless wanted.

    Raises:
      UserError: none of the permitted levels is stored, or there are too few frames.
    """
    stored = record["levels"].tolist()
    usable = sorted(set(stored) & set(levels))
    if not usable:
        raise UserError(f"no structure level of {tuple(levels)} is stored; {stored} are")
    choice = choose(rng, len(record["latents"]), num_frames, 1, usable)
    example = {
        name: record[name][choice.frames]
        for name in ("latents", "latents_logvar")
        if name in fields
    }
    if "structure" in fields:
        structure = record["structure"][stored.index(choice.level)]
        example["structure"] = structure[choice.frames]
    if "tokens" in record:
        example["tokens"] = record["tokens"]
    example["content"] = record["content"][choice.frames][choice.content_frame]
    example["structure_level"] = np.int32(choice.level)
    return example


def make_encoded_stream(
    videos: EncodedSource | None,
    images: Sequence[EncodedSource] = (),
    *,
    batch_size: int,
    image_batch_size: int | None = None,
    image_fraction: float = mixture.IMAGE_FRACTION,
    num_frames: int | None = None,
    buckets: Sequence[tuple[int, int]] = (),
    image_buckets: Sequence[tuple[int, int]] = (),
    levels: Sequence[int] = ALL_LEVELS,
    fields: Sequence[str] = FIELDS,
    subjects: Sequence[EncodedSource] = (),
    subject_share: float = 0.5,
    shuffle_window: int | None = None,
    seed: int = 0,
    rows: mixture.Rows = mixture.all_rows,
    **reading: int,
) -> Stream:
    """Returns an endless stream of encoded batches, mixed like `mixture.make_raw_stream`'s.

    Args:
      videos: encoded clips, or None where there are images only.
      images: encoded images, one source for each size; the share of a source is its number of
        records. By default, images are random frames of `videos`.
      batch_size: clips in a batch, over all processes.
      image_batch_size: images in a batch; by default, as many as a video batch has frames.
      image_fraction: share of image batches.
      num_frames: n of a video batch, which must be the clips' own; by default, it is.
      buckets: size (h, w) that the latents of `videos` must have, if one is given.
      image_buckets: sizes that the latents of `images` must have, in their order.
      levels: permitted blur levels.
      fields: the fields of a batch.
      subjects: pictures that fill a share of each batch of images, one source for each size.
      subject_share: that share; 1 leaves the other images out.
      shuffle_window: files whose clips are shuffled together; None: all.
      seed: seed of the order, levels and frames.
      rows: which rows of a batch this process reads: those that its devices hold.
      **reading: `num_threads`, `prefetch` and `num_workers` of `Stream`.

    Raises:
      UserError: a source is empty, or its records have another size.
    """

    def batches(
        source: EncodedSource, n: int, size: int, component: int, subject: Any = None
    ) -> grain.MapDataset:
        steps = [ToBatchForm(n, levels, fields), Select(tuple(fields))]
        bucket = mixture.Bucket((), [source])
        if subject is not None:
            (bucket,) = mixture.add_subject([bucket], subject, subject_share)
        options = {"weights": bucket.weights, "component": component, "seed": seed}
        options |= {"shuffle_window": shuffle_window, "rows": rows(size, n)}
        return mixture.batches(bucket.sources, steps, size, **options)

    clips = [] if videos is None else [videos]
    if not all(map(len, (*clips, *images))):
        raise UserError("a source of 0 records cannot feed training")
    _check_sizes(clips, buckets if clips else (), num_frames)
    _check_sizes(images, image_buckets, None)
    n = num_frames or (dict(videos.layout.shapes)["latents"][0] if clips else 1)
    per_batch = image_batch_size or batch_size * n
    # Components are numbered as those of raw data, so that both are read in the same order.
    films = [batches(each, n, batch_size, 0) for each in clips] if image_fraction < 1 else []
    sources = (images or clips) if image_fraction > 0 else []
    pictures = [
        batches(each, 1, per_batch, 2 * i + 1, _of_size(subjects, each))
        for i, each in enumerate(sources)
    ]
    shares = None, [len(each) for each in sources]
    kinds = mixture.kinds_of(
        [(batch_size, n, _frame(each), 1.0) for each in clips],
        [(per_batch, 1, _frame(each), len(each)) for each in sources],
        image_fraction,
    )
    mixed = mixture.mix(films, pictures, image_fraction, shares=shares)
    return Stream(mixed, kinds=kinds, **reading)


def _frame(source: EncodedSource) -> tuple[int, int]:
    """Returns height and width of the latents; (0, 0) where there are none."""
    return tuple(dict(source.layout.shapes).get("latents", (0, 0, 0, 0))[1:3])


def _of_size(subjects: Sequence[EncodedSource], like: EncodedSource) -> EncodedSource | None:
    """Returns the pictures of a subject whose latents have the size of other images.

    Raises:
      UserError: the subject was encoded at other sizes only.
    """
    if not subjects:
        return None
    sizes = [dict(each.layout.shapes)["latents"][1:] for each in (like, *subjects)]
    if sizes[0] not in sizes[1:]:
        raise UserError(
            f"{subjects[0].folder} holds latents of {list(sizes[1])}, and {like.folder} of "
            f"{list(sizes[0])}; the subject must be encoded at the size of the other images"
        )
    return subjects[sizes[1:].index(sizes[0])]


def _check_sizes(
    sources: Sequence[EncodedSource], sizes: Sequence[tuple[int, int]], num_frames: int | None
) -> None:
    """Raises UserError if the sizes of the stored records are not those of the config."""
    if sizes and len(sizes) != len(sources):
        raise UserError(
            f"{len(sources)} folders of encoded data, but {len(sizes)} sizes of latents"
        )
    for source, size in zip(sources, sizes or [None] * len(sources), strict=True):
        n, *stored, _ = dict(source.layout.shapes)["latents"]
        # Fewer frames than stored are refused too: depth is normalised over the whole clip.
        if tuple(stored) != tuple(size or stored) or num_frames not in (None, n):
            height, width = size or stored
            raise UserError(
                f"{source.folder} holds latents of {n} frames of {stored[0]} x {stored[1]}; the "
                f"config says {num_frames or n} frames of {height} x {width}"
            )
