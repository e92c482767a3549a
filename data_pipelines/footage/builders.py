"""TFDS builders `clips` and `images`: the parts' records, less duplicates, as ArrayRecord shards.

Shards are laid out beforehand, and each is written by one Beam worker straight from the parts: no
record passes through a shuffle, so memory stays flat on every runner and the order is always the
same, that of the inputs. TFDS writes to a temporary folder and renames it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.footage.duplicates import read_final
from gen1_jax.data_pipelines.footage.parts import Job
from gen1_jax.data_pipelines.footage.reader import CLIPS, IMAGES, VERSION
from gen1_jax.data_pipelines.quiet import silent_tfds
from gen1_jax.errors import WritingFailed, one_line

_SHARD_BYTES = 512 * 2**20
_AT_ONCE = 64  # records read from a part

# Of a shard: (part, places of records in it), in order
Pieces = list[tuple[int, list[int]]]


class _FromParts(tfds.core.ShardBasedBuilder):
    """A builder fed with the parts of an ingest.

    Attributes:
        job: the ingest.
        num_parts: how many there are.
        run: a context manager that gives a Beam pipeline and runs it, on so many workers at most.
        features: of the records.
    """

    VERSION = tfds.core.Version(VERSION)
    # TFDS finds these by importlib_resources, which it needs but does not ask for.
    code_path = epath.Path(__file__)
    pkg_dir_path = epath.Path(__file__).parent
    job: Job
    num_parts: int
    run: Callable[[int], Any]
    features: Callable[[], Any]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=self.features(),
            disable_shuffling=True,  # readers shuffle; the order is that of the inputs
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping:
        raise NotImplementedError("shards are copied whole, by _download_and_prepare")

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        import apache_beam as beam

        layout = lay_out(self.job, self.num_parts)
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


class Clips(_FromParts):
    """Clips of real footage: short films of frames a stride apart, none across a cut."""

    name = CLIPS
    features = staticmethod(records.clip_features)


class Images(_FromParts):
    """Captioned images, a split for each size that batches have (height x width)."""

    name = IMAGES
    features = staticmethod(records.image_features)


BUILDERS = {builder.name: builder for builder in (Clips, Images)}


def lay_out(job: Job, num_parts: int) -> dict[str, tuple[list[Pieces], int]]:
    """Split -> its shards and its bytes; shards are of like size, and follow the inputs' order."""
    totals: dict[str, int] = {}
    for _, final in read_final(job, num_parts):
        for split, kept in final["splits"].items():
            totals[split] = totals.get(split, 0) + sum(size for _, size in kept)
    counts = {split: -(-total // _SHARD_BYTES) for split, total in totals.items()}
    shards: dict[str, list[Pieces]] = {split: [[] for _ in range(n)] for split, n in counts.items()}
    done = dict.fromkeys(totals, 0)
    for index, final in read_final(job, num_parts):
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
    """Writes one shard from the parts, whole or not at all."""
    path, pieces = shard
    temporary = f"{path}.{uuid.uuid4().hex}"
    try:
        writer = ArrayRecordWriter(temporary, "group_size:1")
        for record in _read(job, pieces):
            writer.write(record)
        writer.close()
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise WritingFailed(f"cannot write {path}: {one_line(error)}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _read(job: Job, pieces: Pieces) -> Iterator[bytes]:
    for index, places in pieces:
        reader = ArrayRecordReader(str(job.part(index, ".array_record")))
        try:
            for chunk in np.array_split(places, -(-len(places) // _AT_ONCE)):
                yield from reader.read(chunk.tolist())
        finally:
            reader.close()


def build(kind: str, data_dir: Path, job: Job, num_parts: int, run: Callable[[int], Any]) -> None:
    """Writes `data_dir/kind/1.0.0`, unless it is there."""
    for left in (data_dir / kind).glob(f"incomplete.*_{VERSION}"):
        shutil.rmtree(left)  # by a build that was killed
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    with silent_tfds():
        builder = BUILDERS[kind](data_dir=str(data_dir), file_format=array_record)
        builder.job, builder.num_parts, builder.run = job, num_parts, run
        # nothing is downloaded, but TFDS makes the folder
        builder.download_and_prepare(download_dir=job.work, file_format=array_record)
