"""Appends the shards of a later ingest to a data set that is there.

The shards that are there stay as they are, because a shard's name does not say how many there are.
New ones are written elsewhere and moved beside them. `dataset_info.json`, which says which shards
belong to the data set, is replaced last. Until then, readers find the data set as it was.
"""

from __future__ import annotations

import os
from pathlib import Path

from gen1_jax.data_pipelines.footage.builders import TEMPLATE, copy_shard, lay_out
from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.reader import VERSION
from gen1_jax.data_pipelines.footage.runner import Runner
from gen1_jax.errors import UserError
from gen1_jax.files import read_json, write_json

_INFO = "dataset_info.json"
_MOST_SHARDS = 100_000  # of a split; TFDS gives more of them names with more digits


def note_info(folder: Path, work: Path, report: dict) -> None:
    """Notes in the work folder which shards are there before an ingest into a folder begins.

    Args:
      folder: folder of the clips or the images.
      work: work folder of the ingest.
      report: report of the data set.

    Raises:
      UserError: the shards hold other records than the report counts.
    """
    info = read_json(folder / VERSION / _INFO)
    there = {each["name"]: sum(map(int, each["shardLengths"])) for each in info["splits"]}
    counted = {split: numbers["records"] for split, numbers in report["splits"].items()}
    if there != counted:
        raise UserError(
            f"{folder} holds {sum(there.values())} records, and its report counts "
            f"{sum(counted.values())}: an ingest into it was stopped and its work folder removed; "
            "give another --out"
        )
    write_json(work / _INFO, info)


def append(folder: Path, job: Job, num_chunks: int, runner: Runner) -> None:
    """Adds the records of a job's chunks to the data set in a folder.

    A call that was stopped at any moment is made good by calling again.

    Args:
      folder: folder of the clips or the images.
      job: the ingest, for which `note_info` was called before.
      num_chunks: number of its chunks.
      runner: where the shards are written.

    Raises:
      UserError: a split would have too many shards.
    """
    made = Path(job.work) / "shards"
    made.mkdir(exist_ok=True)
    info = read_json(Path(job.work) / _INFO)
    splits = {each["name"]: each for each in info["splits"]}
    names, items = [], []
    for split, shards in lay_out(job, num_chunks).items():
        new = {"filepathTemplate": TEMPLATE, "name": split, "numBytes": "0", "shardLengths": []}
        entry = splits.setdefault(split, new)
        lengths = entry["shardLengths"]
        if len(lengths) + len(shards) >= _MOST_SHARDS:
            raise UserError(f"{folder}: {_MOST_SHARDS:,} shards of {split}; give another --out")
        for shard in shards:
            names.append(f"{folder.name}-{split}.array_record-{len(lengths):05d}")
            items.append((str(made / names[-1]), shard))
            lengths.append(str(shard.records))
            entry["numBytes"] = str(int(entry["numBytes"]) + shard.bytes)
    runner.each([item for item in items if not os.path.exists(item[0])], copy_shard, job)
    for name in names:
        os.replace(made / name, folder / VERSION / name)
    info["splits"] = list(splits.values())
    write_json(folder / VERSION / _INFO, info)
