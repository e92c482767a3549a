"""Which data a part was trained on, and which models encoded them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.data_pipelines.encoded.folders import find_encoded
from gen1_jax.data_pipelines.encoded.writer import META
from gen1_jax.data_pipelines.settings import (
    ENCODED,
    RAW,
    TFDS,
    TRAIN,
    VALIDATION,
    EncodedData,
    check_data,
)
from gen1_jax.files import as_path, read_json

_INFO = "dataset_info.json"  # of a data set that TFDS wrote
# Keys of meta.json that say nothing of the records: who made them, and how they lie on the disk.
_ASIDE = ("models", "tokenizer", "batch_size", "files", "records_per_shard")


class Identity(NamedTuple):
    """What the files of a data set say of it.

    Attributes:
      folder: the folder that the settings name.
      digest: a SHA-256 that other records do not have; None where there are no data.
      encoders: folder of encoded data → the digest of each model that made them, by its name.
    """

    folder: str
    digest: str | None
    encoders: dict[str, dict[str, str]]


def identify(data: Mapping[str, Any]) -> Identity:
    """Returns the identity of a config's `data`; no record is read.

    Raises:
      UserError: a setting is wrong, or a file is damaged.
    """
    settings = check_data(data)
    if settings.form == ENCODED:
        return _identify_encoded(settings)
    if settings.form == TFDS:
        from gen1_jax.data_pipelines.tfds_sets import identify_tfds

        where = f"{settings.data_dir}/{settings.dataset}"
        return Identity(where, _digest(identify_tfds(settings)), {})
    if settings.form == RAW:
        return Identity(settings.world, _digest_infos(settings.world, settings.builder), {})
    folders = (settings.folder,) if isinstance(settings.folder, str) else settings.folder
    digests = [_digest_infos(folder) for folder in folders]
    return Identity(", ".join(folders), None if None in digests else _digest(digests), {})


def _identify_encoded(settings: Any) -> Identity:
    clips, images = find_encoded(settings)
    found, encoders = {}, {}
    folders = {folder: as_path(folder).name for folder in filter(None, (clips, *images))}
    if settings.subject:
        _, pictures = find_encoded(EncodedData(form=ENCODED, folder=settings.subject))
        folders |= {folder: f"subject/{as_path(folder).name}" for folder in pictures}
    for folder, name in folders.items():
        for split in (TRAIN, VALIDATION):
            meta = read_json(as_path(folder) / split / META)
            if meta is None:
                continue
            found[f"{name}/{split}"] = {
                key: value for key, value in meta.items() if key not in _ASIDE
            }
            encoders[str(as_path(folder) / split)] = read_encoders(meta)
    return Identity(settings.folder, _digest(found) if found else None, encoders)


def read_encoders(meta: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digests that a meta.json names, of the models and of the tokenizer."""
    tokenizer = {"tokenizer": meta["tokenizer"]} if meta.get("tokenizer") else {}
    return {**meta.get("models", {}), **tokenizer}


def _digest_infos(folder: str, builder: str = "") -> str | None:
    """Returns the digest of the splits of a folder's data sets, or None if there are none."""
    found = {}
    for path in sorted(Path(folder).rglob(_INFO)):
        if not builder or path.parent.parent.name == builder:
            splits = (read_json(path) or {}).get("splits")
            found[str(path.relative_to(folder))] = splits
    return _digest(found) if found else None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
