"""The one place that opens data, whatever their form: a rendered world, footage, or encoded clips.

`settings.py` holds the settings of each form. The forms "raw" and "footage" hold frames, and the
form "encoded" holds what `gen1 precompute` made of either.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.batch import Batch
from gen1_jax.data_pipelines.decoded import Decoded
from gen1_jax.data_pipelines.encoded.folders import (
    find_encoded,
    find_sizes,
    open_encoded,
    open_subject,
)
from gen1_jax.data_pipelines.mixture import (
    IMAGE_FRACTION,
    Bucket,
    Rows,
    add_subject,
    all_rows,
    make_raw_stream,
)
from gen1_jax.data_pipelines.pictures import Pictures
from gen1_jax.data_pipelines.settings import (
    CLIPS,
    TRAIN,
    VALIDATION,
    Data,
    EncodedData,
    Size,
    Source,
    World,
    check_data,
    check_source,
)
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.errors import UserError
from gen1_jax.tokenizer import load_tokenizer

NO_VALIDATION = "a larger `gen1 ingest --validation-fraction`, or more films, gives it one"


def make_stream(
    data: Mapping[str, Any] | Data, seed: int, split: str = TRAIN, rows: Rows = all_rows
) -> Stream:
    """Returns the endless stream of batches that a config's `data` describes.

    Each process reads its own rows of every batch. A small data set may have no validation split;
    its training split then serves as one.

    Args:
      data: settings of one of the forms in settings.py, checked or not.
      seed: seed of the order and of all random choices.
      split: split to read.
      rows: which rows of a batch this process reads: those that its devices hold.

    Raises:
      UserError: the form is unknown, data are missing, or settings are wrong.
    """
    settings = complete(data)
    options: dict[str, Any] = {"seed": seed, "rows": rows}
    shared = ("batch_size", "image_batch_size", "image_fraction", "num_frames", "levels")
    for name in (*shared, "num_threads", "prefetch", "num_workers"):
        options[name] = getattr(settings, name)
    if settings.fields is not None:
        options["fields"] = settings.fields
    if not isinstance(settings, World):
        options["shuffle_window"] = settings.shuffle_window
    if isinstance(settings, EncodedData):
        from gen1_jax.data_pipelines.encoded.batches import make_encoded_stream

        clips, images, sizes = open_encoded(settings, split)
        if subject_of(settings, split):
            options["subjects"] = open_subject(settings.subject)
            options["subject_share"] = settings.subject_share
        buckets = settings.buckets or ()
        return make_encoded_stream(clips, images, buckets=buckets, image_buckets=sizes, **options)
    image_buckets, image_weights = settings.image_buckets, settings.image_weights
    if settings.image_fraction == 0:  # images are not read, whatever their sizes
        image_buckets = image_weights = None
    videos, images = make_buckets(
        _open_split(settings, split),
        buckets=settings.buckets,
        weights=settings.weights,
        image_buckets=image_buckets,
        image_weights=image_weights,
    )
    if subject_of(settings, split):
        images = add_subject(images or videos, Pictures(settings.subject), settings.subject_share)
    if "tokens" in (settings.fields or ()) and settings.tokenizer is not None:
        options["tokenizer"] = load_tokenizer(settings.tokenizer).encode_captions
    for name in ("stride", "random_crop", "flip"):
        options[name] = getattr(settings, name)
    return make_raw_stream(videos, images, **options)


def subject_of(settings: Data, split: str = TRAIN) -> str:
    """Returns the folder of the subject that fills a share of the image batches; "" if none does.

    Raises:
      UserError: there is a subject, and no batch holds images.
    """
    if not settings.subject or split != TRAIN or not settings.subject_share:
        return ""
    if settings.image_fraction == 0:
        raise UserError("data.image_fraction is 0; a subject's pictures need batches of images")
    return settings.subject


def complete(data: Mapping[str, Any] | Data) -> Data:
    """Returns the settings with those that follow from the data filled in.

    These are the frames and the sizes of clips, the folders of encoded images, and the share of
    image batches. Values that are given stay as they are.

    Raises:
      UserError: a setting is wrong, or the data are missing.
    """
    settings = check_data(data)
    if isinstance(settings, EncodedData):
        return fill(settings, find_sizes(settings))
    wanted = ("num_frames", "buckets", "image_fraction")
    if all(getattr(settings, name) is not None for name in wanted):
        return fill(settings, {})
    clips = [each.clips for each in open_raw(settings, TRAIN) if each.clips is not None]
    if not clips:
        found = {"num_frames": 1, "buckets": (), "image_fraction": 1.0}
    else:
        n, *size, _ = clips[0].examples[0]["frames"].shape
        n = max(1, (n - 1) // settings.stride + 1)
        found = {"num_frames": n, "buckets": (tuple(size),), "image_fraction": IMAGE_FRACTION}
    return fill(settings, found)


def fill(settings: Data, found: Mapping[str, Any]) -> Data:
    """Fills in settings that are None, and the number of images in a batch."""
    if settings.image_batch_size is None:
        frames = found["num_frames"] if settings.num_frames is None else settings.num_frames
        found = {**found, "image_batch_size": settings.batch_size * frames}
    missing = {name: x for name, x in found.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


def read_preview_batch(data: Mapping[str, Any] | Data, rows: Rows = all_rows) -> Batch:
    """Returns the first video batch of the validation split, from which previews are made.

    If a config's data are images only, it is the first image batch.
    """
    settings = complete(data)
    settings = dataclasses.replace(settings, num_threads=0, num_workers=0)
    if subject_of(settings):
        return _read_subject_preview(settings, rows)
    fraction = 1.0 if settings.image_fraction == 1 else 0.0
    own = dataclasses.replace(settings, image_fraction=fraction)
    return next(make_stream(own, 0, VALIDATION, rows))


def _read_subject_preview(settings: Data, rows: Rows) -> Batch:
    """Returns driving clips with the content of a subject's pictures.

    Where the content is not encoded, or there are no clips, it is a batch of images, half of which
    are the subject's.
    """
    images = dataclasses.replace(settings, image_fraction=1.0)
    if not isinstance(settings, EncodedData) or find_encoded(settings)[0] is None:
        return next(make_stream(images, 0, rows=rows))
    clips = dataclasses.replace(settings, image_fraction=0.0, subject="")
    batch = next(make_stream(clips, 0, VALIDATION, rows))
    subject = next(make_stream(dataclasses.replace(images, subject_share=1.0), 0, rows=rows))
    return batch.replace(content=np.resize(subject.content, batch.content.shape))


def make_validation_streams(
    data: Mapping[str, Any] | Data, rows: Rows = all_rows
) -> dict[str, Callable[[], Stream]]:
    """Returns what makes the streams of the validation split, by kind: "video" and "image".

    The kinds are those that training reads. Each stream gives the same batches every time. A kind
    that the validation split lacks is left out with a warning: training does not need it.
    """
    settings = complete(data)
    read = {"video": settings.image_fraction < 1, "image": settings.image_fraction > 0}
    streams = {}
    for kind, only in (("video", 0.0), ("image", 1.0)):
        if not read[kind]:
            continue
        if not has_validation(settings, kind):
            warnings.warn(
                f"no held-out loss of {kind}s: the data have no validation split of {kind}s; "
                f"{NO_VALIDATION}",
                stacklevel=2,
            )
            continue
        # A validation split is a few batches, which no worker process is started for.
        own = dataclasses.replace(settings, image_fraction=only, num_workers=0)
        make = partial(make_stream, own, 0, VALIDATION, rows)
        try:
            make().close()  # nothing was read yet
            streams[kind] = make
        except UserError as error:
            warnings.warn(f"no held-out loss of {kind}s: {error}", stacklevel=2)
    return streams


def has_validation(settings: Data, kind: str) -> bool:
    """Returns whether a validation split of clips ("video") or images ("image") can be read.

    Images are frames of the clips where there are no images.
    """
    if isinstance(settings, EncodedData):
        clips, images = find_encoded(settings)
        folders = images if kind == "image" and images else [clips] if clips else []
        return any((Path(folder) / VALIDATION).is_dir() for folder in folders)
    if isinstance(settings, World):
        return True
    train, own = (open_raw(settings, split, required=False) for split in (TRAIN, VALIDATION))
    if kind == "image" and any(each.images for each in train):
        return any(each.images for each in own)
    return any(each.clips for each in own)


# ---- raw data


class Records(NamedTuple):
    """Raw examples of one kind and one split.

    Attributes:
      name: name within their data set: the name of the folder that holds them once encoded.
      examples: clips or images by number: frames [n H W 3] uint8, and a caption where there is one.
      size: the (height, width) that images are cropped to; None for clips.
    """

    name: str
    examples: Decoded
    size: Size | None = None


@dataclasses.dataclass(frozen=True)
class RawData:
    """One split of a rendered world or of an ingested folder.

    Attributes:
      folder: where the data are.
      clips: the clips, or None.
      images: the images of each size.
    """

    folder: str
    clips: Records | None
    images: dict[Size, Records]

    def records(self) -> Iterator[Records]:
        """Yields the clips and then the images of each size."""
        if self.clips is not None:
            yield self.clips
        yield from self.images.values()


def open_raw(
    data: Mapping[str, Any] | Source | Data, split: str, *, required: bool = True
) -> list[RawData]:
    """Opens a split of raw data.

    Args:
      data: settings of the form "raw" or "footage", checked or not; its place alone is used.
      split: split to open.
      required: whether each folder of footage must have the split. If not, a folder without it is
        left out.

    Returns:
      The data of each folder.

    Raises:
      UserError: the form is not a raw one, or data are missing.
    """
    if not dataclasses.is_dataclass(data):
        data = check_source(data)
    if isinstance(data, World):
        from gen1_jax.data_pipelines.moving_shapes.builder import load
        from gen1_jax.data_pipelines.moving_shapes.records import decode_clip

        clips = Decoded(load(data.world, data.builder, split), decode_clip)
        return [RawData(data.world, Records(split, clips), {})]

    from gen1_jax.data_pipelines.footage.reader import open_footage
    from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image

    opened = []
    for folder in (data.folder,) if isinstance(data.folder, str) else data.folder:
        footage = open_footage(folder)
        if split not in footage.splits():
            if required:
                there = ", ".join(footage.splits())
                raise UserError(f"{folder} has no split {split!r}; there: {there}")
            continue
        clips = None
        if footage.has_clips(split):
            clips = Records(f"{CLIPS}/{split}", Decoded(footage.clips(split), decode_clip))
        images = {
            (height, width): Records(
                f"images_{height}x{width}/{split}", Decoded(found, decode_image), (height, width)
            )
            for (height, width), found in footage.images(split).items()
        }
        opened.append(RawData(folder, clips, images))
    return opened


def _open_split(settings: Data, split: str) -> list[RawData]:
    """Opens a split of every folder; the training split serves for a kind that validation lacks."""
    opened = open_raw(settings, split, required=split != VALIDATION)
    if split != VALIDATION or isinstance(settings, World):
        return opened
    own, whole = {each.folder: each for each in opened}, open_raw(settings, TRAIN)
    # A folder without a split has nothing of it; weights count every folder.
    opened = [own.get(each.folder, RawData(each.folder, None, {})) for each in whole]
    lacks_clips = not any(each.clips for each in opened)
    lacks_images = not any(each.images for each in opened)
    return [
        RawData(
            each.folder,
            train.clips if lacks_clips else each.clips,
            train.images if lacks_images else each.images,
        )
        for each, train in zip(opened, whole, strict=True)
    ]


def make_buckets(
    opened: Sequence[RawData],
    *,
    buckets: Sequence[Size],
    weights: Sequence[float] | None = None,
    image_buckets: Sequence[Size] | None = None,
    image_weights: Sequence[float] | None = None,
) -> tuple[list[Bucket], list[Bucket]]:
    """Returns the buckets of videos and those of images that raw data are read in.

    Args:
      opened: the data; each holds clips, images or both.
      buckets: sizes of video batches, which take turns.
      weights: share of each of `opened` in what is read; by default, its number of records.
      image_buckets: sizes of image batches; by default, all sizes of which there are images. A
        size without images is left out with a warning.
      image_weights: share of each of `image_buckets` among image batches. By default, its number
        of records, so that every image is read equally often.

    Returns:
      Buckets of videos and buckets of images. If there are no images, the image buckets are frames
      of the clips where `image_buckets` gives sizes, and [] otherwise.

    Raises:
      UserError: there are images, but of none of the sizes; or weights are wrong.
    """
    if not opened or len(weights or opened) != len(opened):
        raise UserError(f"{len(opened)} folders of footage and {len(weights or ())} weights")
    clips: list[tuple[Decoded, float]] = []
    images: dict[Size, list[tuple[Decoded, float]]] = {}
    for each, weight in zip(opened, weights or [None] * len(opened), strict=True):
        if each.clips is not None:
            examples = each.clips.examples
            clips.append((examples, len(examples) if weight is None else weight))
        total = sum(len(records.examples) for records in each.images.values())
        for size, (_, examples, _) in each.images.items():
            share = len(examples) if weight is None else weight * len(examples) / total
            images.setdefault(size, []).append((examples, share))

    def bucket(size: Size, sources: Sequence[tuple[Decoded, float]], share: float) -> Bucket:
        return Bucket(tuple(size), [s for s, _ in sources], [w for _, w in sources], share)

    videos = [bucket(size, clips, 1.0) for size in buckets] if clips else []
    sizes = [tuple(size) for size in (image_buckets or images)]
    if clips and not images:
        images = dict.fromkeys(sizes, clips)
    if image_weights and len(image_weights) != len(sizes):
        raise UserError(f"{len(image_weights)} image_weights for {len(sizes)} image_buckets")
    kept = [size in images for size in sizes]
    if not all(kept):
        where = ", ".join(each.folder for each in opened)
        missing = " or ".join(str(s) for s, is_kept in zip(sizes, kept, strict=True) if not is_kept)
        said = f"no images of {missing} in {where}; of {sorted(images)}"
        if not any(kept):
            raise UserError(said)
        warnings.warn(f"{said}: the others are read", stacklevel=3)
    shares = image_weights or [sum(share for _, share in images.get(size, ())) for size in sizes]
    return videos, [
        bucket(size, images[size], share)
        for size, share, is_kept in zip(sizes, shares, kept, strict=True)
        if is_kept
    ]
