"""The raw records that `gen1 precompute` encodes, one kind and one split at a time."""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.data_pipelines.moving_shapes.truth_maps import draw_truth
from gen1_jax.data_pipelines.pictures import Pictures
from gen1_jax.data_pipelines.raw import open_raw
from gen1_jax.data_pipelines.settings import (
    TRAIN,
    FootageToEncode,
    PicturesToEncode,
    Source,
    TfdsToEncode,
    World,
    check_source,
)
from gen1_jax.data_pipelines.sources import NO_VALIDATION
from gen1_jax.data_pipelines.transforms import FitTo
from gen1_jax.errors import UserError
from gen1_jax.structure_settings import EXTRACTORS
from gen1_jax.video.extractors import extract_clip
from gen1_jax.video.fitting import kept_area
from gen1_jax.video.selection import describe_size

_PATHS = ("world", "folder", "data_dir")  # keys of `data` that may change: a data set may be moved


class Raw(NamedTuple):
    """Clips or images to encode, of one kind and one split.

    Attributes:
      folder: where the encoded records go, relative to the part's folder.
      source: examples by number: frames [n H W 3] uint8, and a caption where there is one.
      size: (H, W) that frames are scaled to cover and cropped to in the middle; None leaves them as
        they are.
      are_images: whether they are images, whose size is not that of the clips.
    """

    folder: str
    source: Sequence[dict]
    size: tuple[int, int] | None = None
    are_images: bool = False

    def clip(self, index: int) -> dict:
        """Returns an example with its frames at the wanted size."""
        clip = self.source[index]
        if self.size is None:
            return clip
        return FitTo(self.size, random_crop=False).random_map(clip, None)

    def describe_crop(self) -> str:
        """Returns what is cut off from clips; "" if nothing is."""
        if self.size is None or self.are_images or not len(self.source):
            return ""
        own = self.source[0]["frames"].shape[1:3]
        return describe_size(own, self.size) if kept_area(own, self.size) < 1 else ""


def complete_source(data: Mapping[str, Any], splits: Sequence[str]) -> Source:
    """Returns the checked settings of an encoding part's `data`, with the size of clips filled in.

    Raises:
      UserError: the form is not a raw one, a setting is wrong, data are missing, or there are
        several folders, whose records would have the same names.
    """
    source = check_source(data)
    if not isinstance(source, FootageToEncode | TfdsToEncode):
        return source
    if isinstance(source, FootageToEncode) and not isinstance(source.folder, str):
        raise UserError(f"data.folder is {source.folder}; one folder is accepted")
    if source.size is None:  # ingested clips are all of one size
        for split in splits:
            for opened in open_raw(source, split, required=False):
                if opened.clips is not None:
                    size = opened.clips.examples[0]["frames"].shape[1:3]
                    return dataclasses.replace(source, size=size)
    return source


def open_records(data: Source, split: str) -> list[Raw]:
    """Opens the records of a split of raw data; without that split, warns and returns none.

    Raises:
      UserError: data are missing.
    """
    if isinstance(data, PicturesToEncode):
        pictures = Pictures(data.folder)
        folders = {size: f"images_{size[0]}x{size[1]}/{split}" for size in data.sizes}
        found = [Raw(folder, pictures, size, True) for size, folder in folders.items()]
        return found if split == TRAIN else []
    clip_size = None if isinstance(data, World) else data.size
    opened = open_raw(data, split, required=False)
    if not opened and split == "validation":
        warnings.warn(
            f"{describe_place(data)} has no split 'validation', so that training will measure no "
            f"held-out loss; {NO_VALIDATION}",
            stacklevel=2,
        )
    return [
        Raw(records.name, records.examples, records.size or clip_size, records.size is not None)
        for each in opened
        for records in each.records()
    ]


def make_structure_map(extractor: str, example: Mapping[str, Any]) -> np.ndarray:
    """Returns what an example's structure is made of, where the host makes it.

    Args:
      extractor: its name in `structure_settings.EXTRACTORS`.
      example: frames [n H W 3] uint8, and on the world the truth about them.

    Returns:
      A grey map [n H W] float32, or one in colours [n H W 3] uint8.

    Raises:
      UserError: the truth is wanted of clips of which it is not known.
    """
    if EXTRACTORS[extractor].place != "world":
        return extract_clip(extractor, example["frames"])
    if example.get("mask") is None or example.get("depth") is None:
        raise UserError(
            f"structure.extractor is {extractor}, which is known of the moving-shapes world alone"
        )
    return draw_truth(extractor, example["depth"], example["mask"])


def read_pace(data: Source, raw: Raw) -> dict[str, float]:
    """Returns how far apart the frames of raw clips are, as far as it is known; see `Footage`."""
    if isinstance(data, World):
        return {"stride": 1}
    if not isinstance(data, FootageToEncode):
        return {}
    return open_footage(data.folder).pace(Path(raw.folder).name)


def describe_place(data: Source) -> str:
    """Returns where raw data lie."""
    if isinstance(data, TfdsToEncode):
        return f"{data.data_dir}/{data.dataset}"
    return str(getattr(data, "folder", "") or data.world)


def describe_source(data: Source) -> dict[str, Any]:
    """Returns the settings of the data that the stored numbers depend on, as JSON gives them."""
    settings = {k: v for k, v in dataclasses.asdict(data).items() if k not in _PATHS}
    return json.loads(json.dumps(settings))
