"""Opens a data set of videos or images that TensorFlow Datasets has prepared, by its name.

The builder's code is not needed: features, splits and files are read from the data set's own
folder, without TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from gen1_jax.data_pipelines.decoded import Decoded
from gen1_jax.data_pipelines.quiet import quiet_tfds
from gen1_jax.data_pipelines.settings import TRAIN, Tfds
from gen1_jax.data_pipelines.tfds_records import TfdsRecords
from gen1_jax.errors import Damaged, UserError, one_line
from gen1_jax.files import check_local

Feature, Version = tfds.features.FeatureConnector, tfds.core.Version
Keys = tuple[str, ...]  # the keys that lead to a nested feature
_INFO = "dataset_info.json"


class TfdsSplit(NamedTuple):
    """One split of a data set.

    Attributes:
      name: the data set, for messages.
      examples: frames [n H W 3] uint8 by number, and a caption where there is one.
      is_video: whether examples are videos; otherwise they are images, of any sizes.
    """

    name: str
    examples: Decoded
    is_video: bool


def open_tfds(data: Tfds, split: str, required: bool = True) -> TfdsSplit | None:
    """Opens a split.

    Args:
      data: settings of the form.
      split: "train" or "validation"; the settings say what the data set calls them.
      required: whether a missing split is an error; if not, None stands for it.

    Raises:
      UserError: the data set or the split is not there, its files have another form, or its
        features are not those of videos or images.
    """
    name = f"{data.data_dir}/{data.dataset}"
    builder = _find(data)
    own = data.train_split if split == TRAIN else data.validation_split
    if own not in builder.info.splits:
        if not required:
            return None
        there = ", ".join(builder.info.splits)
        setting = "train_split" if split == TRAIN else "validation_split"
        raise UserError(f"{name} has no split {own!r} (data.{setting}); there: {there}")
    features = builder.info.features
    frames, is_video = _find_frames(features, data.frames, name)
    caption = _find_caption(features, data.caption, name)
    labels = _labels(dict(_walk(features)).get(caption))
    name_of_split = f"{name}, {own}"
    decode = partial(_decode, frames=frames, caption=caption, labels=labels, name=name_of_split)
    records = TfdsRecords(builder, own, name_of_split)
    return TfdsSplit(name, Decoded(records, decode), is_video)


def identify_tfds(data: Tfds) -> Any:
    """Returns what tells the data set from others: its name, version and splits."""
    info = _find(data).info
    splits = {name: [*split.shard_lengths] for name, split in info.splits.items()}
    return [info.full_name, splits, data.frames, data.caption]


# ---- the data set


def _find(data: Tfds) -> Any:
    """Returns the builder of a prepared data set, read from its folder.

    Raises:
      UserError: it is not there.
    """
    name, _, version = data.dataset.partition(":")
    check_local(data.data_dir, "a TFDS data set")
    root = Path(data.data_dir).expanduser()
    folder = root / name
    found = [path.parent for path in folder.glob(f"*/{_INFO}")]
    found = {each.name: each for each in found if Version.is_valid(each.name)}
    if not found or (version and version not in found):
        there = sorted(str(path.parent.relative_to(root)) for path in _all_infos(root))
        raise UserError(
            f"no TFDS data set {data.dataset} is prepared in {data.data_dir}; there: "
            f"{', '.join(there) or 'none'}; accepted: NAME, NAME/CONFIG or NAME:VERSION, after "
            "download_and_prepare(file_format='array_record')"
        )
    place = found[version or max(found, key=Version)]
    try:
        with quiet_tfds():
            info = tfds.core.dataset_info.read_proto_from_builder_dir(place)
            stored = json.loads((place / "features.json").read_text())
            features = Feature.from_json(_without_video(stored))
            info.features.CopyFrom(features.to_proto())
            return tfds.core.read_only_builder.ReadOnlyBuilder(place, info_proto=info)
    except Exception as error:  # TFDS, protobuf and json raise many kinds
        raise UserError(f"{place} cannot be opened: {one_line(error)}") from error


def _all_infos(root: Path) -> list[Path]:
    """Returns the dataset_info.json of each data set in a folder: NAME/[CONFIG/]VERSION."""
    return [*root.glob(f"*/*/{_INFO}"), *root.glob(f"*/*/*/{_INFO}")]


def _without_video(stored: Any) -> Any:
    """Returns stored features with a list of images for each video, which is how videos are stored.

    TFDS needs TensorFlow to name the type of a video's numbers.
    """
    if not isinstance(stored, dict):
        return [_without_video(each) for each in stored] if isinstance(stored, list) else stored
    if not stored.get("pythonClassName", "").endswith(".Video"):
        return {key: _without_video(value) for key, value in stored.items()}
    video = stored["video"]
    length, *size = video.get("shape", {}).get("dimensions", [-1])
    image = {"dtype": "uint8"} | ({"shape": {"dimensions": size}} if size else {})
    image = {"pythonClassName": _class_name(tfds.features.Image), "image": image}
    sequence = {"feature": image, "length": length}
    return {"pythonClassName": _class_name(tfds.features.Sequence), "sequence": sequence}


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


# ---- features


def _walk(features: Any, path: Keys = ()) -> Iterator[tuple[Keys, Feature]]:
    """Yields the features of a record with their paths; videos and lists count as one."""
    if isinstance(features, tfds.features.FeaturesDict):
        for key, feature in features.items():
            yield from _walk(feature, (*path, key))
    elif _is_list(features) and isinstance(features.feature, tfds.features.FeaturesDict):
        for key, feature in features.feature.items():  # a list of records is a record of lists
            yield from _walk(tfds.features.Sequence(feature), (*path, key))
    else:
        yield path, features


def _is_list(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Sequence)


def _is_image(feature: Feature) -> bool:
    return isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8


def _is_video(feature: Feature) -> bool:
    """Whether a feature is a video, or a list of images; a Video is a Sequence of Image."""
    return _is_list(feature) and _is_image(feature.feature)


def _find_frames(features: Any, wanted: str, name: str) -> tuple[Keys, bool]:
    """Returns the path of the frames, and whether they are a video.

    Raises:
      UserError: there is none, there are several, or the wanted one is of another kind.
    """
    found = {path: _is_video(f) for path, f in _walk(features) if _is_video(f) or _is_image(f)}
    videos = [path for path, is_video in found.items() if is_video]
    choice = [tuple(wanted.split("/"))] if wanted else videos or list(found)
    if len(choice) == 1 and choice[0] in found:
        return choice[0], found[choice[0]]
    there = ", ".join(sorted("/".join(path) for path in found)) or "none"
    raise UserError(
        f"{name}: data.frames {wanted!r} names no single feature of videos or images; there: "
        f"{there}"
    )


def _find_caption(features: Any, wanted: str, name: str) -> Keys | None:
    """Returns the path of the captions, or None where there are none.

    Raises:
      UserError: the wanted one is not there, or nothing says which of several it is.
    """
    found = {path: _is_text(f) for path, f in _walk(features) if _is_text(f) is not None}
    texts = [path for path, is_text in found.items() if is_text]
    if wanted:
        path = tuple(wanted.split("/"))
        if path in found:
            return path
    elif len(texts) < 2:
        return texts[0] if texts else None
    there = ", ".join(sorted("/".join(path) for path in found)) or "none"
    raise UserError(
        f"{name}: data.caption {wanted!r} names no single feature of texts or classes; there: "
        f"{there}"
    )


def _is_text(feature: Feature) -> bool | None:
    """Whether a feature, or each entry of a list, is a text (True) or a class (False)."""
    if _is_list(feature):
        feature = feature.feature
    if isinstance(feature, tfds.features.ClassLabel):
        return False
    return True if isinstance(feature, tfds.features.Text) else None


def _labels(feature: Feature | None) -> tuple[str, ...] | None:
    """Returns the words for each class of a feature of classes."""
    if _is_list(feature):
        feature = feature.feature
    if not isinstance(feature, tfds.features.ClassLabel):
        return None
    return tuple(name.replace("_", " ") for name in feature.names)


# ---- examples


def _decode(
    record: Mapping[str, Any],
    frames: Keys,
    caption: Keys | None,
    labels: tuple[str, ...] | None,
    name: str,
) -> dict[str, Any]:
    """Returns frames [n H W 3] uint8 and the caption; the first of several."""
    pictures = _take(record, frames)
    pictures = np.stack(list(pictures)) if not isinstance(pictures, np.ndarray) else pictures
    pictures = pictures if pictures.ndim == 4 else pictures[None]
    if not pictures.size:
        raise Damaged(f"a record of {name} has no frames")
    example = {"frames": _to_rgb(pictures)}
    if caption is not None:
        text = _take(record, caption)
        if isinstance(text, (list, tuple, np.ndarray)) and np.ndim(text):
            text = text[0] if len(text) else b""
        if labels is not None:
            text = labels[int(text)]
        example["caption"] = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return example


def _take(record: Any, path: Keys) -> Any:
    for key in path:
        record = record[key]
    return record


def _to_rgb(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures [n H W c] of 1, 3 or 4 channels in colours; transparency becomes black."""
    if pictures.shape[-1] == 4:
        shown = pictures[..., :3].astype(np.uint16) * pictures[..., 3:]
        return ((shown + 127) // 255).astype(np.uint8)
    return np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures
