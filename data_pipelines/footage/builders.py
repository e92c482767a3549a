"""TFDS builders `clips` and `images`: the records of all chunks, less duplicates, in shards.

The shards are laid out beforehand, and one Beam worker writes each of them straight from the
chunks. No record passes through a shuffle, so memory stays constant on every runner, and the order
is always that of the inputs. TFDS writes to a temporary folder and renames it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.duplicates import read_chunk_final, read_final
from gen1_jax.data_pipelines.footage.reader import CLIPS, IMAGES, VERSION
from gen1_jax.data_pipelines.footage.runner import Runner
from gen1_jax.data_pipelines.quiet import silent_tfds
from gen1_jax.files import replacing

# The name of a shard. TFDS's own also holds the number of shards, so that adding one would change
# the names of all.
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
_SHARD_BYTES = 512 * 2**20
_AT_ONCE = 64  # records that are read from a chunk together


@dataclasses.dataclass(frozen=True)
class Shard:
    """The records of a shard: consecutive ones of a split, in the order of the inputs.

    Attributes:
      number: its number.
      split: its split.
      begin: chunk of its first record.
      skipped: number of the split's records in that chunk that come before.
      end: chunk of its last record.
      records: number of its records.
      bytes: their size.
    """

    number: int
    split: str
    begin: int
    skipped: int
    end: int
    records: int
    bytes: int


class _FromChunks(tfds.core.ShardBasedBuilder):
    """A builder fed with the chunks of an ingest.

    Attributes:
      job: the ingest.
      num_chunks: number of its chunks.
      runner: where the shards are written.
      features: function that returns the features of a record.
    """

    VERSION = tfds.core.Version(VERSION)
    # Otherwise TFDS finds these by importlib_resources, which it does not list as a requirement.
    code_path = epath.Path(__file__)
    pkg_dir_path = epath.Path(__file__).parent
    job: Job
    num_chunks: int
    runner: Runner
    features: Callable[[], Any]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=self.features(),
            disable_shuffling=True,  # the order is that of the inputs; readers shuffle
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping:
        raise NotImplementedError("shards are copied whole, by _download_and_prepare")

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        layout = lay_out(self.job, self.num_chunks)
        templates = {
            split: self._get_filename_template(split).replace(template=TEMPLATE) for split in layout
        }
        shards = [
            (str(templates[split].sharded_filepath(shard_index=i, num_shards=len(all_))), shard)
            for split, all_ in layout.items()
            for i, shard in enumerate(all_)
        ]
        self.runner.each(shards, copy_shard, self.job)
        self.info.set_splits(
            tfds.core.SplitDict(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.records for shard in all_],
                    num_bytes=sum(shard.bytes for shard in all_),
                    filename_template=templates[split],
                )
                for split, all_ in layout.items()
            )
        )


class Clips(_FromChunks):
    """Clips of real footage: short films of frames a stride apart, none across a cut."""

    name = CLIPS
    features = staticmethod(records.clip_features)


class Images(_FromChunks):
    """Captioned images, a split for each size that batches have (height x width)."""

    name = IMAGES
    features = staticmethod(records.image_features)


BUILDERS = {builder.name: builder for builder in (Clips, Images)}


def lay_out(job: Job, num_chunks: int) -> dict[str, list[Shard]]:
    """Returns the shards of each split, of about the same size, in the order of the inputs."""
    totals: dict[str, int] = {}
    for _, final in read_final(job, num_chunks):
        for split, kept in final["splits"].items():
            totals[split] = totals.get(split, 0) + sum(size for _, size in kept)
    shards: dict[str, list[Shard]] = {split: [] for split in sorted(totals)}
    done = dict.fromkeys(totals, 0)
    for index, final in read_final(job, num_chunks):
        for split, kept in final["splits"].items():
            sizes = np.array([size for _, size in kept])
            before = done[split] + np.cumsum(sizes) - sizes
            number = before * -(-totals[split] // _SHARD_BYTES) // totals[split]
            for shard in np.unique(number):
                own = np.flatnonzero(number == shard)
                _extend(
                    shards[split],
                    Shard(
                        int(shard),
                        split,
                        index,
                        int(own[0]),
                        index,
                        len(own),
                        int(sizes[own].sum()),
                    ),
                )
            done[split] += int(sizes.sum())
    return shards


def _extend(shards: list[Shard], more: Shard) -> None:
    """Adds records of a chunk to the shard that they are of."""
    if not shards or shards[-1].number != more.number:
        shards.append(more)
        return
    last = shards[-1]
    shards[-1] = dataclasses.replace(
        last,
        end=more.end,
        records=last.records + more.records,
        bytes=last.bytes + more.bytes,
    )


def copy_shard(item: tuple[str, Shard], job: Job) -> str:
    """Writes one shard from the chunks, atomically, and returns its path.

    Raises:
      WritingFailed: the shard cannot be written.
    """
    path, shard = item
    with replacing(Path(path), (RuntimeError, ValueError)) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for record in _read(job, shard):
            writer.write(record)
        writer.close()
    return path


def _read(job: Job, shard: Shard) -> Iterator[bytes]:
    left, skipped = shard.records, shard.skipped
    for index in range(shard.begin, shard.end + 1):
        kept = read_chunk_final(job, index)["splits"].get(shard.split, [])
        places = [place for place, _ in kept[skipped : skipped + left]]
        left, skipped = left - len(places), 0
        if not places:
            continue
        reader = ArrayRecordReader(str(job.chunk(index, ".array_record")))
        try:
            for start in range(0, len(places), _AT_ONCE):
                yield from reader.read(places[start : start + _AT_ONCE])
        finally:
            reader.close()


def build(kind: str, data_dir: Path, job: Job, num_chunks: int, runner: Runner) -> None:
    """Writes `data_dir/kind/1.0.0`, unless it exists.

    Args:
      kind: "clips" or "images".
      data_dir: folder of the data.
      job: the ingest.
      num_chunks: number of its chunks.
      runner: where the shards are written.
    """
    for left in (data_dir / kind).glob(f"incomplete.*_{VERSION}"):
        shutil.rmtree(left)  # by a build that was killed
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    with silent_tfds():
        builder = BUILDERS[kind](data_dir=str(data_dir), file_format=array_record)
        builder.job, builder.num_chunks, builder.runner = job, num_chunks, runner
        # Nothing is downloaded, but TFDS makes this folder.
        builder.download_and_prepare(download_dir=job.work, file_format=array_record)
