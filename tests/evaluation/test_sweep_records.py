"""Records: what is written is read back, kills spoil no whole line, other files are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import append_records, read_records, record_key


def example_records() -> list[dict]:
    return [
        {
            "clip": "clip0",
            "prompt": "a red ball",
            "temporal_scale": temporal,
            "structure_level": 3,
            "frame_consistency": 0.9123456789 + 0.01 * temporal,
        }
        for temporal in (0.5, 1.0, 1.5)
    ]


def test_records_are_read_as_they_were_written(tmp_path):
    path, records = tmp_path / "deep/r.jsonl", example_records()
    assert read_records(path) == ([], 0)
    assert append_records(path, records[:2]) == 2
    assert append_records(path, records[2:]) == len(records) - 2
    assert read_records(path) == (records, 0)
    # A control written as 1 is the same as one written as 1.0.
    assert record_key({"clip": "a", "guidance_scale": 1}) == record_key(
        {"guidance_scale": 1.0, "clip": "a"}
    )


def test_later_record_of_one_key_counts(tmp_path):
    path = tmp_path / "r.jsonl"
    append_records(path, [{"clip": "a", "flicker": 1.0}, {"clip": "b", "flicker": 3.0}])
    append_records(path, [{"clip": "a", "flicker": 2.0}])
    records, _ = read_records(path)
    assert {r["clip"]: r["flicker"] for r in records} == {"a": 2.0, "b": 3.0}


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_torn_last_line(tmp_path, cut):
    path, records = tmp_path / "r.jsonl", example_records()
    append_records(path, records[:3])
    path.write_bytes(path.read_bytes()[:-cut])
    read, torn = read_records(path)
    assert (read, torn) == ((records[:3], 0) if cut == 1 else (records[:2], 1))
    append_records(path, records[len(read) :])  # the torn line spoils none of these
    assert read_records(path) == (records, torn)


def test_a_file_whose_only_line_is_torn_has_no_records_yet(tmp_path):
    path, records = tmp_path / "r.jsonl", example_records()
    append_records(path, records[:1])
    path.write_bytes(path.read_bytes()[:-9])
    assert read_records(path) == ([], 1)
    append_records(path, records[:1])
    assert read_records(path) == (records[:1], 1)


def test_a_killed_sweep_leaves_whole_lines(tmp_path):
    path = tmp_path / "r.jsonl"
    code = (
        "import os, signal, sys\n"
        "from gen1_jax.evaluation.records import append_records\n"
        "def records():\n"
        "    for i in range(50):\n"
        "        if i == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield {'clip': f'c{i}', 'frame_consistency': 0.5}\n"
        "append_records(sys.argv[1], records())\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    records, torn = read_records(path)
    assert len(records) == 20 and torn == 0


def test_numbers_of_numpy_and_nan(tmp_path):
    path = tmp_path / "r.jsonl"
    record = {"clip": "é", "a": np.float32(0.5), "b": np.int64(3), "c": np.nan, "d": np.ones(2)}
    append_records(path, [record])
    line = path.read_text()
    assert json.loads(line) == {"clip": "é", "a": 0.5, "b": 3, "c": None, "d": [1, 1]}
    assert "NaN" not in line


def test_bad_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("not\nrecords\n")
    with pytest.raises(UserError, match="holds no records"):
        read_records(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_records(tmp_path)
    for path in (tmp_path, tmp_path / "a.jsonl" / "b.jsonl"):
        with pytest.raises(UserError, match="cannot be written"):
            append_records(path, [{"clip": "a"}])
