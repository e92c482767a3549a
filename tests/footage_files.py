"""Ingested folders for tests of reading, in the layout that `gen1 ingest` writes, without Beam."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.quiet import silent_tfds


class Written(tfds.core.GeneratorBasedBuilder):
    """Stores the records it is given, split by split."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)
    pkg_dir_path = epath.Path(__file__).parent
    splits: dict[str, Sequence[dict]]

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.features(), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in self.splits}

    def _generate_examples(self, split):
        yield from enumerate(self.splits[split])


# They are not registered, because they have the names of the builders that `gen1 ingest` uses.
class Clips(Written, skip_registration=True):
    name = "clips"
    features = staticmethod(records.clip_features)


class Images(Written, skip_registration=True):
    name = "images"
    features = staticmethod(records.image_features)


def write(builder: type[Written], folder: Path, splits: dict[str, Sequence[dict]]) -> None:
    with silent_tfds():
        made = builder(data_dir=str(folder), file_format=tfds.core.FileFormat.ARRAY_RECORD)
        made.splits = splits
        made.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)


def clip(number: int, n: int = 4, size: tuple[int, int] = (32, 48)) -> dict:
    """A stored clip whose grey level is 10 + 4 * number, and grows by 1 with each frame."""
    grey = 10 + 4 * number + np.arange(n)
    frames = np.broadcast_to(grey[:, None, None, None], (n, *size, 3)).astype(np.uint8)
    return records.encode_clip(frames, np.arange(n) / 6, f"clip {number}", f"{number}.mp4", number)


def image(number: int, size: tuple[int, int]) -> dict:
    """A stored image whose grey level is 10 + 4 * number."""
    frame = np.full((*size, 3), 10 + 4 * number, np.uint8)
    return records.encode_image(frame, f"image {number}", f"{number}.jpg")


def number_of(frame: np.ndarray) -> np.ndarray:
    """Returns the numbers of clips or images from their (first) frames [... h w 3]."""
    return np.rint((frame.mean((-3, -2, -1)) - 10) / 4 - 0.1).astype(int)


def write_footage(
    folder: Path, clips: int = 12, images: dict[tuple[int, int], int] | None = None
) -> Path:
    """Writes clips of 4 frames of 32x48, and so many images of each size."""
    if clips:
        splits = {"train": [clip(i) for i in range(clips)], "validation": [clip(50), clip(51)]}
        write(Clips, folder, splits)
    if images is None:
        images = {(32, 48): 9, (48, 32): 3}
    if images:
        splits = {
            f"train_{h}x{w}": [image(i, (h, w)) for i in range(count)]
            for (h, w), count in images.items()
        }
        write(Images, folder, splits)
    return folder
