"""The TFDS builder `moving_shapes`: rendered clips in ArrayRecord files, without TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from gen1_jax.data_pipelines.moving_shapes.records import encode_example
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.data_pipelines.quiet import quiet_tfds, silent_tfds
from gen1_jax.data_pipelines.tfds_records import TfdsRecords
from gen1_jax.errors import UserError
from gen1_jax.files import check_local

# Each split has its own block of seeds, the same in every config. No clip of a test split can
# therefore be in a training split, whichever configs made them.
SPLITS = ("train", "validation", "test")
_BLOCK = 2**32


def split_seed(split: str, index: int) -> int:
    """Returns the renderer's seed for clip `index` of a split.

    Raises:
      UserError: the split is unknown, or the index is outside its block.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; one of: {', '.join(SPLITS)}")
    if not 0 <= index < _BLOCK:
        raise UserError(f"clip {index} is outside the split; 0 to {_BLOCK - 1} are accepted")
    return SPLITS.index(split) * _BLOCK + index


@dataclasses.dataclass(eq=False)
class MovingShapesConfig(tfds.core.BuilderConfig):
    """Size of a data set.

    Attributes:
      num_frames: number of frames of each clip.
      size: (h, w) of the frames, in pixels.
      counts: number of clips in each split, in the order of `SPLITS`.
    """

    num_frames: int = 8
    size: tuple[int, int] = (32, 32)
    counts: tuple[int, int, int] = (1024, 64, 64)


CONFIGS = {
    config.name: config
    for config in (
        MovingShapesConfig(name="demo", description="for `make demo`", counts=(1024, 64, 64)),
        MovingShapesConfig(name="tiny", description="for configs/tiny", counts=(4096, 64, 128)),
        MovingShapesConfig(name="test", description="for tests", counts=(24, 8, 8)),
    )
}


class MovingShapes(tfds.core.GeneratorBasedBuilder):
    """Seeded clips of moving solids with true depth, mask, caption and the truth behind them."""

    name = "moving_shapes"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = list(CONFIGS.values())
    # Otherwise TFDS finds these by importlib_resources, which it does not list as a requirement.
    code_path = epath.Path(__file__)
    pkg_dir_path = epath.Path(__file__).parent
    progress: bool = True

    def _info(self) -> tfds.core.DatasetInfo:
        as_bytes = tfds.features.Tensor(shape=(), dtype=np.object_)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "video": as_bytes,
                    "depth": as_bytes,
                    "mask": as_bytes,
                    "caption": as_bytes,
                    "truth": as_bytes,
                    "seed": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            disable_shuffling=True,  # clips are independent of their order; readers shuffle
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        counts = dict(zip(SPLITS, self.builder_config.counts, strict=True))
        return {split: self._generate_examples(split, n) for split, n in counts.items() if n}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        label = f"rendering {split} clips"
        for index in tqdm(range(count), label, disable=not self.progress, unit="clip"):
            seed = split_seed(split, index)
            clip = render(seed, num_frames=config.num_frames, size=config.size)
            yield index, encode_example(clip, seed)


def build(
    data_dir: str, config: str | MovingShapesConfig = "demo", *, progress: bool = True
) -> dict[str, Sequence[dict]]:
    """Makes the data set in `data_dir`, unless it is there already.

    TFDS writes to a temporary folder and renames it, so an interrupted build leaves nothing that
    could be taken for a whole data set.

    Args:
      data_dir: folder of the data set.
      config: the data set's size, or its name in `CONFIGS`.
      progress: whether to show a bar.

    Returns:
      For each split, its stored records, which `records.decode_example` decodes.

    Raises:
      UserError: the config is unknown, or the folder cannot be written.
    """
    try:
        with silent_tfds():
            builder = _builder(data_dir, config)
            builder.progress = progress
            builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except OSError as error:
        raise UserError(f"cannot write moving_shapes under {data_dir}: {error.strerror}") from error
    return {split: TfdsRecords(builder, split) for split in builder.info.splits}


def load(data_dir: str, config: str | MovingShapesConfig, split: str) -> Sequence[dict]:
    """Returns the stored records of a split of a data set that `build` has made.

    Raises:
      UserError: the config or split is unknown, or the data set is not built yet.
    """
    check_local(data_dir, "a moving-shapes world")
    with quiet_tfds():
        builder = _builder(data_dir, config)
        is_there = builder.is_prepared()
    if not is_there:
        raise UserError(
            f"no moving-shapes world of size {builder.builder_config.name!r} in {data_dir}; make "
            f"one: gen1 world --workdir {data_dir} --builder {builder.builder_config.name}"
        )
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise UserError(f"unknown split {split!r} of moving_shapes; one of: {known}")
    return TfdsRecords(builder, split)


def built_configs(data_dir: str | Path) -> list[str]:
    """Returns the names of the data sets that are in a folder."""
    return [name for name in CONFIGS if (Path(data_dir) / MovingShapes.name / name).is_dir()]


def _builder(data_dir: str, config: str | MovingShapesConfig) -> MovingShapes:
    if isinstance(config, str) and config not in CONFIGS:
        raise UserError(f"unknown moving_shapes config {config!r}; one of: {', '.join(CONFIGS)}")
    return MovingShapes(
        data_dir=str(data_dir), config=config, file_format=tfds.core.FileFormat.ARRAY_RECORD
    )
