"""The layout of shards: runs of records, however many, which together are all that is kept."""

import pickle

import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gen1_jax.data_pipelines.footage import builders
from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.files import write_json

KEPT = {0: range(0, 4000, 2), 1: (), 2: range(1, 3000), 3: range(5)}


@pytest.fixture
def job(tmp_path):
    """An ingest of four chunks with 5,004 records of the training split, of 7 bytes each."""
    job = Job(str(tmp_path), str(tmp_path), ImageSettings(), 0.0)
    job.chunks.mkdir()
    for index, places in KEPT.items():
        splits = {"train": [(place, 7) for place in places], "validation": [(4000, 9)]}
        write_json(job.chunk(index, ".final.json"), {"outcomes": [], "splits": splits})
        writer = ArrayRecordWriter(str(job.chunk(index, ".array_record")), "group_size:1")
        for place in range(4001):
            writer.write(f"{index} {place}".encode())
        writer.close()
    return job


def test_a_shard_is_a_run_of_records(job, tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "_SHARD_BYTES", 7000)
    layout = builders.lay_out(job, 4)
    train = layout["train"]
    assert [shard.number for shard in train] == list(range(6))
    assert sum(shard.records for shard in train) == 5004
    assert max(shard.bytes for shard in train) - min(shard.bytes for shard in train) <= 7
    assert [(shard.records, shard.bytes) for shard in layout["validation"]] == [(4, 36)]
    # What a job's graph holds of a shard does not grow with its records.
    assert max(len(pickle.dumps(shard)) for shard in train) < 300
    copied = []
    for number, shard in enumerate(train):
        path = builders.copy_shard((str(tmp_path / f"{number}.array_record"), shard), job)
        reader = ArrayRecordReader(path)
        records = reader.read_all()
        reader.close()
        assert len(records) == shard.records
        copied += records
    assert copied == [f"{index} {place}".encode() for index in KEPT for place in KEPT[index]]
