"""Reads what `gen1 ingest` wrote, by ArrayRecord alone: neither Beam nor TensorFlow is needed.

DATA/clips/1.0.0     splits `train`, `validation`
DATA/images/1.0.0    a split for each bucket: `train_256x448` (height x width), …
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gen1_jax.data_pipelines.quiet import quiet_tfds
from gen1_jax.data_pipelines.shards import check_files
from gen1_jax.data_pipelines.tfds_records import TfdsRecords
from gen1_jax.errors import UserError
from gen1_jax.files import check_local, read_json

VERSION = "1.0.0"  # version of the records' form
CLIPS, IMAGES = "clips", "images"
_FIELDS = {
    CLIPS: {"video", "times", "caption", "source", "start"},
    IMAGES: {"image", "caption", "source"},
}
_PACE_CLIPS = 64  # clips whose times are read to know the pace of all
_IMAGE_SPLIT = re.compile(r"(\w+)_(\d+)x(\d+)")


class Footage:
    """An ingested folder; made by `open_footage`."""

    def __init__(self, folder: Path, builders: dict[str, Any]):
        self.folder, self._builders = folder, builders

    def splits(self) -> list[str]:
        """Returns the splits that clips or images have, such as `train` and `validation`."""
        return sorted({*self._splits(CLIPS), *(split for split, _ in self._image_splits())})

    def has_clips(self, split: str) -> bool:
        """Returns whether a split has clips."""
        return split in self._splits(CLIPS)

    def clips(self, split: str) -> TfdsRecords:
        """Returns the clips of a split.

        Raises:
          UserError: there are none.
        """
        if not self.has_clips(split):
            raise UserError(
                f"{self.folder} holds no clips of split {split!r}; "
                f"there: {', '.join(self._splits(CLIPS)) or 'none'}"
            )
        return self._records(CLIPS, split)

    def images(self, split: str) -> dict[tuple[int, int], TfdsRecords]:
        """Returns the images of a split by bucket (height, width)."""
        found = {size: name for (own, size), name in self._image_splits().items() if own == split}
        return {size: self._records(IMAGES, found[size]) for size in sorted(found)}

    def pace(self, split: str) -> dict[str, float]:
        """Returns how far apart the frames of a split's clips are.

        Returns:
          `stride`, in source frames, and `frame_rate`, the median rate of the sources in frames a
          second; what is not known is left out.
        """
        asked = (read_json(self.folder / CLIPS / "report.json") or {}).get("asked", {})
        stride = asked.get("settings", {}).get("stride")
        if stride is None or not self.has_clips(split):
            return {}
        clips = self.clips(split)
        picks = np.linspace(0, len(clips) - 1, min(len(clips), _PACE_CLIPS)).astype(int)
        times = [np.frombuffer(clips[int(pick)]["times"], "<f8") for pick in picks]
        steps = [np.diff(each).mean() for each in times if len(each) > 1]
        if not steps:
            return {"stride": stride}
        return {"stride": stride, "frame_rate": round(float(stride / np.median(steps)), 3)}

    def _splits(self, kind: str) -> Collection[str]:
        return self._builders[kind].info.splits if kind in self._builders else ()

    def _image_splits(self) -> dict[tuple[str, tuple[int, int]], str]:
        found = {}
        for name in self._splits(IMAGES):
            if match := _IMAGE_SPLIT.fullmatch(name):
                found[match[1], (int(match[2]), int(match[3]))] = name
        return found

    def _records(self, kind: str, split: str) -> TfdsRecords:
        return TfdsRecords(self._builders[kind], split, f"{self.folder / kind}, {split}")


def open_footage(folder: str | Path) -> Footage:
    """Opens a folder that `gen1 ingest` wrote.

    Raises:
      UserError: the folder holds neither clips nor images, or they have another form.
    """
    check_local(folder, "what `gen1 ingest` wrote")
    folder = Path(folder)
    builders = {}
    for kind in (CLIPS, IMAGES):
        own = folder / kind / VERSION
        if (own / "dataset_info.json").is_file():
            builders[kind] = _open(own, kind)
    if not builders:
        what = f"holds no clips or images of form {VERSION}" if folder.is_dir() else "is not there"
        raise UserError(
            f"the footage {folder} {what}; accepted: a folder that `gen1 ingest clips SRC --out "
            f"{folder}` has finished"
        )
    return Footage(folder, builders)


def _open(folder: Path, kind: str) -> Any:
    try:
        with quiet_tfds():
            builder = tfds.builder_from_directory(folder)
        fields = set(builder.info.features)
    except Exception as error:  # TFDS, protobuf and json raise many kinds
        raise UserError(f"{folder}: its dataset_info.json cannot be read: {error}") from error
    if fields != _FIELDS[kind]:
        raise UserError(
            f"{folder} holds records of {', '.join(sorted(fields))}; those of {kind} hold "
            f"{', '.join(sorted(_FIELDS[kind]))}"
        )
    paths = [str(path) for split in builder.info.splits.values() for path in split.filepaths]
    check_files(paths, str(folder))
    return builder
