"""The settings of each form of data: a config's `data`, checked.

A config's `data` is a mapping. Its `form` is "raw" (the moving-shapes world), "footage" (what
`gen1 ingest` wrote), "tfds" (a data set that TensorFlow Datasets has prepared) or "encoded" (what
`gen1 precompute` made of any of them). Each form has a class here, which holds the names, types and
defaults of its settings. A setting that is None follows from the data or from the training
objective; see `sources.complete` and `gen1_jax/resolve.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

from gen1_jax.errors import UserError
from gen1_jax.settings import check, closest, required, setting, show

RAW, FOOTAGE, TFDS = "raw", "footage", "tfds"
ENCODED, PICTURES = "encoded", "pictures"
TRAIN, VALIDATION = "train", "validation"  # splits
CLIPS = "clips"  # folder of the clips of footage, ingested or encoded

Size = tuple[int, int]  # (height, width)
RawField = Literal["frames", "depth", "tokens", "structure_level", "content_frame"]
EncodedField = Literal[
    "latents", "latents_logvar", "structure", "structure_level", "content", "tokens"
]


# ---- the place of raw data, which is all that encoding needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The place of a moving-shapes world."""

    form: Literal["raw"] = required("this form's name")
    world: str = required("folder of the moving-shapes world")
    builder: str = required("size of the world, by its name: test, demo or tiny")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footage:
    """The place of ingested footage."""

    form: Literal["footage"] = required("this form's name")
    folder: str | tuple[str, ...] = required("folder that `gen1 ingest` wrote, or several")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSize:
    """The size at which an encoding part takes clips of any size."""

    size: Size | None = setting(
        None, "(height, width) that clips are scaled and cropped to, in pixels; None: their own",
        low=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class FootageToEncode(ClipSize, Footage):
    """Ingested footage as an encoding part takes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds:
    """The place of a data set of videos or images that TensorFlow Datasets has prepared."""

    form: Literal["tfds"] = required("this form's name")
    dataset: str = required("its name: NAME, NAME/CONFIG or NAME:VERSION; the newest version")
    data_dir: str = required("folder in which it was prepared, in ArrayRecord files")
    frames: str = setting("", "its feature of frames, a/b for nested ones; empty: its only one")
    caption: str = setting(
        "", "its feature of captions, texts or a class; empty: its only text, or none"
    )
    train_split: str = setting("train", "its split for training")
    validation_split: str = setting("validation", "its split for the held-out loss")
    image_buckets: tuple[Size, ...] | None = setting(
        None, "(height, width) that its images are scaled and cropped to, in pixels; videos: None",
        low=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsToEncode(ClipSize, Tfds):
    """A data set of TensorFlow Datasets as an encoding part takes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PicturesToEncode:
    """The pictures of a subject, none of which is left out."""

    form: Literal["pictures"] = required("this form's name")
    folder: str = required("folder of the pictures, which holds nothing else")
    sizes: tuple[Size, ...] = required(
        "(height, width) that pictures are scaled and cropped to, in pixels; each is encoded at all"
    )


# ---- batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """Settings that all forms share."""

    batch_size: int = setting(8, "clips in a batch, over all processes", low=1)
    image_batch_size: int | None = setting(
        None, "images in a batch; None: as many as a batch of clips has frames", low=1
    )
    image_fraction: float | None = setting(
        None, "share of batches that hold images; None: 0.125, or 1 without clips", low=0, high=1
    )
    subject_share: float = setting(
        0.5, "share of `subject` in a batch of images; 1: the other images are not read",
        low=0, high=1,
    )  # fmt: skip
    num_frames: int | None = setting(None, "frames of a clip; None: the clips' own", low=1)
    levels: tuple[int, ...] = setting(
        tuple(range(8)), "structure levels t_s that are drawn from", low=0, high=7
    )
    num_threads: int = setting(2, "threads of a process that read; 0: the main thread", low=0)
    prefetch: int = setting(4, "batches that each reading process reads ahead", low=1)
    num_workers: int = setting(0, "processes that read; 0: the training process itself", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawBatches(Batches):
    """Settings of the two forms that hold frames."""

    fields: tuple[RawField, ...] | None = setting(
        None, "fields of a batch (gen1_jax/batch.py); None: those that the objective needs"
    )
    stride: int = setting(1, "stored frames from one frame of a clip to the next", low=1)
    buckets: tuple[Size, ...] | None = setting(
        None, "(height, width) of clips in pixels, in turn; None: the stored clips' own", low=1
    )
    image_buckets: tuple[Size, ...] | None = setting(
        None, "(height, width) of images in pixels; None: all sizes of which there are images",
        low=1,
    )  # fmt: skip
    image_weights: tuple[float, ...] | None = setting(
        None, "share of each of image_buckets; None: its number of images", low=0
    )
    weights: tuple[float, ...] | None = setting(
        None, "share of each folder in a batch; None: its number of records", low=0
    )
    subject: str = setting(
        "", "folder of pictures that fill a share of each image batch; empty: none"
    )
    tokenizer: str | None = setting(None, "tokenizer's folder; the field tokens needs it")
    random_crop: bool = setting(True, "crop at a random place instead of the middle")
    flip: bool = setting(False, "mirror half of the clips, left to right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldData(RawBatches, World):
    """Batches of a moving-shapes world."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """The order of forms that may be too large for one shuffle of all records."""

    shuffle_window: int | None = setting(
        None, "files whose records are shuffled together, for network disks and object stores; "
        "None: all files", low=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class FootageData(RawBatches, Windows, Footage):
    """Batches of ingested footage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsData(RawBatches, Windows, Tfds):
    """Batches of a data set that TensorFlow Datasets has prepared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedData(Batches, Windows):
    """Batches of encoded clips and images."""

    form: Literal["encoded"] = required("this form's name")
    folder: str = required("folder that `gen1 precompute` wrote, or its folder `clips`")
    subject: str = setting(
        "", "folder of encoded pictures that fill a share of each image batch; empty: none"
    )
    image_folders: tuple[str, ...] | None = setting(
        None, "folders of images, one for each size; None: images_HxW in `folder`; (): none"
    )
    fields: tuple[EncodedField, ...] | None = setting(
        None, "fields of a batch (gen1_jax/batch.py); None: those that the objective needs"
    )
    shard_cache: str = setting(
        "", "local folder for whole copies of an object store's files, which shuffle_window lets "
        "be few; empty: records are asked for one by one"
    )  # fmt: skip
    shard_cache_gb: float = setting(20.0, "gigabytes that the copies may take", low=0)
    buckets: tuple[Size, ...] | None = setting(
        None, "(height, width) that the clips' latents must have; None: any", low=1
    )
    image_buckets: tuple[Size, ...] | None = setting(
        None, "(height, width) of the latents in each of image_folders; None: any", low=1
    )


Data = WorldData | FootageData | TfdsData | EncodedData
Source = World | FootageToEncode | TfdsToEncode | PicturesToEncode
FORMS: dict[str, type] = {
    RAW: WorldData,
    FOOTAGE: FootageData,
    TFDS: TfdsData,
    ENCODED: EncodedData,
}
SOURCES: dict[str, type] = {
    RAW: World,
    FOOTAGE: FootageToEncode,
    TFDS: TfdsToEncode,
    PICTURES: PicturesToEncode,
}


def check_data(data: Any) -> Data:
    """Returns the checked settings of a config's `data`.

    Args:
      data: a mapping or an `ml_collections.ConfigDict`; checked settings are returned as they are.

    Raises:
      UserError: the form is unknown, or a setting is missing, unknown or of the wrong type.
    """
    return _check(data, FORMS)


def check_source(data: Any) -> Source:
    """Returns the checked settings of the `data` of a part that encodes; see `check_data`."""
    return _check(data, SOURCES)


def switch_form(data: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Returns the `data` of a config with another form.

    Only settings that mean the same in every form are kept, such as the batch size. Sizes are not:
    they are in pixels in one form and in latents in another.
    """
    if form == data.get("form"):
        return dict(data)
    same = {field.name for field in dataclasses.fields(Batches)}
    return {"form": form} | {name: value for name, value in data.items() if name in same}


def _check(data: Any, forms: Mapping[str, type]) -> Any:
    if isinstance(data, tuple(FORMS.values())) or isinstance(data, tuple(SOURCES.values())):
        return data
    values = data.to_dict() if hasattr(data, "to_dict") else data
    if not isinstance(values, Mapping):
        raise UserError(f"data is {show(values)}; a mapping is accepted, such as "
                        f"{{'form': 'encoded', 'folder': …}}")  # fmt: skip
    form = values.get("form")
    if not isinstance(form, str) or form not in forms:
        guess = closest(form, forms) if isinstance(form, str) else ""
        raise UserError(f"data form {show(form)}; accepted: {', '.join(forms)}{guess}")
    kind = forms[form]
    own = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        others = [name for name, other in forms.items() if _has(other, key)]
        if key not in own and others:
            raise UserError(
                f"data.{key} is a setting of form {', '.join(others[:-1])}"
                f"{' and ' if others[1:] else ''}{others[-1]}, and data.form is {form}"
            )
    settings = check(kind, {key: _plain(value) for key, value in values.items()}, prefix="data.")
    for name in ("levels", "fields", "folder"):
        if getattr(settings, name, None) == ():
            raise UserError(f"data.{name} is (); at least one is accepted")
    return settings


def _has(kind: type, key: Any) -> bool:
    return any(field.name == key for field in dataclasses.fields(kind))


def _plain(value: Any) -> Any:
    """Returns a path as text, also inside a list."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value
