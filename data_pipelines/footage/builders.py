"""TFDS builders `clips` and `images`: the records of all chunks, less duplicates, in shards.

The shards are laid out beforehand, and one Beam worker writes each of them straight from the
chunks. No record passes through a shuffle, so memory stays constant on every runner, and the order
is always that of the inputs. TFDS writes to a temporary folder and renames it.
"""

from __future__ import annotations

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
from gen1_jax.data_pipelines.footage.duplicates import read_final
from gen1_jax.data_pipelines.footage.reader import CLIPS, IMAGES, VERSION
from gen1_jax.data_pipelines.quiet import silent_tfds
from gen1_jax.files import replacing

_SHARD_BYTES = 512 * 2**20
_AT_ONCE = 64  # records that are read from a chunk together

# The content of a shard, in order: (chunk, places of records in it).
Pieces = list[tuple[int, list[int]]]


class _FromChunks(tfds.core.ShardBasedBuilder):
    """A builder fed with the chunks of an ingest.

    Attributes:
      job: the ingest.
      num_chunks: number of its chunks.
      run: context manager that yields a Beam pipeline and runs it, on at most so many workers.
      features: function that returns the features of a record.
    """

    VERSION = tfds.core.Version(VERSION)
    # Otherwise TFDS finds these by importlib_resources, which it does not list as a requirement.
    code_path = epath.Path(__file__)
    pkg_dir_path = epath.Path(__file__).parent
    job: Job
    num_chunks: int
    run: Callable[[int], Any]
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
        import apache_beam as beam

        layout = lay_out(self.job, self.num_chunks)
        templates = {split: self._get_filename_template(split) for split in layout}
        shards = [
            (str(templates[split].sharded_filepath(shard_index=i, num_shards=len(all_))), pieces)
            for split, (all_, _) in layout.items()
            for i, pieces in enumerate(all_)
        ]
        with self.run(len(shards)) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Spread" >> beam.Reshuffle()
                | "Copy" >> beam.Map(copy_shard, self.job)
            )
        self.info.set_splits(
            tfds.core.SplitDict(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[sum(len(places) for _, places in pieces) for pieces in all_],
                    num_bytes=size,
                    filename_template=templates[split],
                )
                for split, (all_, size) in layout.items()
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


def lay_out(job: Job, num_chunks: int) -> dict[str, tuple[list[Pieces], int]]:
    """Returns the shards and the bytes of each split.

    The shards of a split are of about the same size and follow the order of the inputs.
    """
    totals: dict[str, int] = {}
    for _, final in read_final(job, num_chunks):
        for split, kept in final["splits"].items():
            totals[split] = totals.get(split, 0) + sum(size for _, size in kept)
    counts = {split: -(-total // _SHARD_BYTES) for split, total in totals.items()}
    shards: dict[str, list[Pieces]] = {split: [[] for _ in range(n)] for split, n in counts.items()}
    done = dict.fromkeys(totals, 0)
    for index, final in read_final(job, num_chunks):
        for split, kept in final["splits"].items():
            for place, size in kept:
                pieces = shards[split][done[split] * counts[split] // totals[split]]
                if not pieces or pieces[-1][0] != index:
                    pieces.append((index, []))
                pieces[-1][1].append(place)
                done[split] += size
    return {
        split: ([pieces for pieces in shards[split] if pieces], totals[split])
        for split in sorted(totals)
    }


def copy_shard(shard: tuple[str, Pieces], job: Job) -> str:
    """Writes one shard from the chunks, atomically, and returns its path.

    Raises:
      WritingFailed: the shard cannot be written.
    """
    path, pieces = shard
    with replacing(Path(path), (RuntimeError, ValueError)) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for record in _read(job, pieces):
            writer.write(record)
        writer.close()
    return path


def _read(job: Job, pieces: Pieces) -> Iterator[bytes]:
    for index, places in pieces:
        reader = ArrayRecordReader(str(job.chunk(index, ".array_record")))
        try:
            for together in np.array_split(places, -(-len(places) // _AT_ONCE)):
                yield from reader.read(together.tolist())
        finally:
            reader.close()


def build(kind: str, data_dir: Path, job: Job, num_chunks: int, run: Callable[[int], Any]) -> None:
    """Writes `data_dir/kind/1.0.0`, unless it exists.

    Args:
      kind: "clips" or "images".
      data_dir: folder of the data.
      job: the ingest.
      num_chunks: number of its chunks.
      run: context manager that yields a Beam pipeline and runs it, on at most so many workers.
    """
    for left in (data_dir / kind).glob(f"incomplete.*_{VERSION}"):
        shutil.rmtree(left)  # by a build that was killed
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    with silent_tfds():
        builder = BUILDERS[kind](data_dir=str(data_dir), file_format=array_record)
        builder.job, builder.num_chunks, builder.run = job, num_chunks, run
        # Nothing is downloaded, but TFDS makes this folder.
        builder.download_and_prepare(download_dir=job.work, file_format=array_record)
