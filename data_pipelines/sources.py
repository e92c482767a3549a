"""The one place that opens data, whatever their form: frames, or what was encoded of them.

`settings.py` holds the settings of each form. The forms "raw", "footage" and "tfds" hold frames
(raw.py), and the form "encoded" holds what `gen1 precompute` made of any of them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gen1_jax.batch import Batch
from gen1_jax.data_pipelines.encoded.folders import (
    find_encoded,
    find_sizes,
    open_encoded,
    open_subject,
)
from gen1_jax.data_pipelines.mixture import (
    IMAGE_FRACTION,
    Rows,
    add_subject,
    all_rows,
    make_raw_stream,
)
from gen1_jax.data_pipelines.pictures import Pictures
from gen1_jax.data_pipelines.raw import RawData, make_buckets, open_raw
from gen1_jax.data_pipelines.settings import (
    TRAIN,
    VALIDATION,
    Data,
    EncodedData,
    World,
    check_data,
)
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.errors import UserError
from gen1_jax.files import as_path
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
        return any((as_path(folder) / VALIDATION).is_dir() for folder in folders)
    if isinstance(settings, World):
        return True
    train, own = (open_raw(settings, split, required=False) for split in (TRAIN, VALIDATION))
    if kind == "image" and any(each.images for each in train):
        return any(each.images for each in own)
    return any(each.clips for each in own)


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
