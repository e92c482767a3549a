"""The one place that opens data, whatever their form: a rendered world, footage, or encoded clips.

A config's `data` names a form. Raw forms hold frames: "raw" is the moving-shapes world, and
"footage" is one folder or several that `gen1 ingest` wrote. The form "encoded" holds what
`gen1 precompute` made of either.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gen1_jax.batch import Batch
from gen1_jax.data_pipelines.decoded import Decoded
from gen1_jax.data_pipelines.mixture import Bucket, make_raw_stream
from gen1_jax.data_pipelines.stream import Stream
from gen1_jax.errors import UserError
from gen1_jax.tokenizer import load_tokenizer

RAW_FORMS, ENCODED = ("raw", "footage"), "encoded"

Size = tuple[int, int]  # (height, width)


def make_stream(data: Mapping[str, Any], seed: int, split: str = "train") -> Stream:
    """Returns the endless stream of batches that a config's `data` describes.

    Each process reads its own share of every batch. A small data set may have no validation split;
    its training split then serves as one.

    Args:
      data: `form`, the place of the data, and the settings of `make_raw_stream` or of
        `make_encoded_stream`.
      seed: seed of the order and of all random choices.
      split: split to read.

    Raises:
      UserError: the form is unknown, data are missing, or settings are wrong.
    """
    settings = dict(data)
    form = settings.pop("form", None)
    settings |= {
        "seed": seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if form == ENCODED:
        from gen1_jax.data_pipelines.encoded.reader import make_encoded_stream

        clips, images = _open_encoded(settings, split)
        return make_encoded_stream(clips, images, **settings)
    if form not in RAW_FORMS:
        raise UserError(f"data form {form!r}; accepted: {', '.join((*RAW_FORMS, ENCODED))}")
    opened = open_raw(data, _split_or_train(data, split))
    for place in ("world", "builder", "folder"):
        settings.pop(place, None)
    if settings.get("image_fraction") == 0:  # the split may lack sizes of images that are not read
        settings |= {"image_buckets": None, "image_weights": None}
    names = ("weights", "buckets", "image_buckets", "image_weights")
    videos, images = make_buckets(opened, **{k: settings.pop(k) for k in names if k in settings})
    tokenizer = settings.pop("tokenizer", None)
    if "tokens" in settings["fields"] and tokenizer is not None:
        settings["tokenizer"] = load_tokenizer(tokenizer).encode
    return make_raw_stream(videos, images, **settings)


def read_preview_batch(data: Mapping[str, Any]) -> Batch:
    """Returns the first video batch of the validation split, from which previews are made.

    If a config's data are images only, it is the first image batch.
    """
    own = {"image_fraction": 1.0 if data["image_fraction"] == 1 else 0.0}
    own |= {readers: 0 for readers in ("num_threads", "num_workers") if readers in data}
    return next(make_stream({**data, **own}, seed=0, split="validation"))


def make_validation_streams(data: Mapping[str, Any]) -> dict[str, Callable[[], Stream]]:
    """Returns what makes the streams of the validation split, by kind: "video" and "image".

    The kinds are those that training reads. Each stream gives the same batches every time. Data
    without a validation split of their own have no streams. A kind that the split lacks, such as
    images of one of the sizes, is left out with a warning: training does not need it.
    """
    if not has_split(data, "validation"):
        return {}
    own = {"num_workers": 0} if "num_workers" in data else {}  # it is a few batches
    read = {"video": data["image_fraction"] < 1, "image": data["image_fraction"] > 0}
    streams = {}
    for kind, only in (("video", 0.0), ("image", 1.0)):
        make = partial(make_stream, {**data, **own, "image_fraction": only}, 0, "validation")
        try:
            if read[kind]:
                make().close()  # nothing was read yet
                streams[kind] = make
        except UserError as error:
            warnings.warn(f"no held-out loss of {kind}s: {error}", stacklevel=2)
    return streams


def has_split(data: Mapping[str, Any], split: str) -> bool:
    """Returns whether all data of a config have a split of this name."""
    if data["form"] == ENCODED:
        folders = (data["folder"], *data.get("image_folders", ()))
        return all((Path(folder) / split).exists() for folder in folders)
    return _split_or_train(data, split) == split


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


def open_raw(data: Mapping[str, Any], split: str, *, required: bool = True) -> list[RawData]:
    """Opens a split of raw data.

    Args:
      data: `form` "raw" with `world` and `builder`, or `form` "footage" with `folder`, one folder
        or several.
      split: split to open.
      required: whether each folder of footage must have the split. If not, a folder without it is
        left out with a warning.

    Returns:
      The data of each folder.

    Raises:
      UserError: the form is not a raw one, or data are missing.
    """
    form = data.get("form")
    if form == "raw":
        from gen1_jax.data_pipelines.moving_shapes.builder import load
        from gen1_jax.data_pipelines.moving_shapes.records import decode_clip

        clips = Decoded(load(data["world"], data["builder"], split), decode_clip)
        return [RawData(str(data["world"]), Records(split, clips), {})]
    if form != "footage":
        raise UserError(f"data form {form!r}; accepted: {', '.join(RAW_FORMS)}")

    from gen1_jax.data_pipelines.footage.reader import open_footage
    from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image

    opened = []
    for folder in _folders(data):
        footage = open_footage(folder)
        if split not in footage.splits():
            there = f"{folder} has no split {split!r}; there: {', '.join(footage.splits())}"
            if required:
                raise UserError(there)
            warnings.warn(there, stacklevel=2)
            continue
        clips = None
        if footage.has_clips(split):
            clips = Records(f"clips/{split}", Decoded(footage.clips(split), decode_clip))
        images = {
            (height, width): Records(
                f"images_{height}x{width}/{split}", Decoded(found, decode_image), (height, width)
            )
            for (height, width), found in footage.images(split).items()
        }
        opened.append(RawData(folder, clips, images))
    return opened


def _folders(data: Mapping[str, Any]) -> tuple[str, ...]:
    folders = data["folder"]
    return (folders,) if isinstance(folders, str) else tuple(folders)


def _split_or_train(data: Mapping[str, Any], split: str) -> str:
    """Returns "train" instead of a validation split that not all folders of footage have."""
    if split != "validation" or data["form"] != "footage":
        return split
    from gen1_jax.data_pipelines.footage.reader import open_footage

    everywhere = all(split in open_footage(folder).splits() for folder in _folders(data))
    return split if everywhere else "train"


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
      image_buckets: sizes of image batches; by default, all sizes of which there are images.
      image_weights: share of each of `image_buckets` among image batches. By default, its number
        of records, so that every image is read equally often.

    Returns:
      Buckets of videos and buckets of images. If there are no images, the image buckets are frames
      of the clips where `image_buckets` gives sizes, and [] otherwise.

    Raises:
      UserError: a size has no images, or weights are wrong.
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
    if missing := [size for size in sizes if size not in images]:
        where = ", ".join(each.folder for each in opened)
        raise UserError(f"no images of {missing[0]} in {where}; of {sorted(images)}")
    by_count = [sum(share for _, share in images[size]) for size in sizes]
    shares = list(image_weights or by_count)
    if len(shares) != len(sizes):
        raise UserError(f"{len(shares)} image_weights for {len(sizes)} image_buckets")
    return videos, [
        bucket(*each) for each in zip(sizes, map(images.get, sizes), shares, strict=True)
    ]


# ---- encoded data


def _open_encoded(settings: dict[str, Any], split: str) -> tuple:
    """Opens the encoded clips and images, and takes the settings that name them out."""
    from gen1_jax.data_pipelines.encoded.reader import EncodedSource

    def open_one(folder: str) -> EncodedSource:
        missing = split == "validation" and not (Path(folder) / split).exists()
        return EncodedSource(Path(folder) / ("train" if missing else split))

    folders = settings.pop("image_folders", ())
    if settings["image_fraction"] == 0:  # images are not read, as for previews of clips
        folders, settings["image_buckets"] = (), ()
    return open_one(settings.pop("folder")), list(map(open_one, folders))
