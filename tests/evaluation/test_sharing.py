"""A sweep that several processes share: the same records however it is run and broken off."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_processes import ROOT, launch
from tiny_unet import QUICK_FLAGS

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import (
    Growth,
    append_records,
    holding,
    read_all,
    read_records,
    records_path,
    records_paths,
)
from gen1_jax.evaluation.sweep import share_out

WANTED = {(i, k) for i in range(5) for k in range(3)}


def test_batches_depend_on_the_clips_alone():
    kinds = ["a", "b", "a", "a", "b"]
    units = list(share_out(kinds, WANTED, batch_size=2, parts=1))
    groups = list(dict.fromkeys(group for group, _, _ in units))
    assert groups == [(0, 2), (3,), (1, 4)]  # clips of one kind go together
    assert [k for _, _, k in units] == [0, 1, 2] * 3  # all settings of a batch in turn
    assert {padded for _, padded, _ in units} == {(0, 2), (3, 3), (1, 4)}
    assert {(i, k) for group, _, k in units for i in group} == WANTED
    left = {(2, 1), (4, 2)}
    assert list(share_out(kinds, left, 2, 1)) == [((0, 2), (0, 2), 1), ((1, 4), (1, 4), 2)]
    # Devices get equal shares.
    assert {len(padded) for _, padded, _ in share_out(kinds, WANTED, 2, parts=4)} == {4}


def test_two_sweeps_do_not_write_into_one_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gen1_jax.evaluation.records import holding\n"
        "with holding(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another evaluation is writing there"):
            with holding(tmp_path):
                pass
        other.kill()
    with holding(tmp_path):  # a killed one holds nothing
        assert not list(tmp_path.iterdir())


def test_what_other_processes_append_is_read_once(tmp_path):
    own, other = records_path(tmp_path), records_path(tmp_path, 1)
    append_records(other, [{"clip": "before"}])
    growth = Growth(tmp_path, 0)
    append_records(own, [{"clip": "own"}])
    append_records(other, [{"clip": "a"}, {"clip": "b"}])
    append_records(records_path(tmp_path, 2), [{"clip": "c"}])
    with other.open("a") as file:
        file.write('{"clip": "to')  # is being written
    assert [record["clip"] for record in growth.read()] == ["a", "b", "c"]
    with other.open("a") as file:
        file.write('rn"}\n')
    assert [record["clip"] for record in growth.read()] == ["torn"]
    assert records_paths(tmp_path) == [own, other, records_path(tmp_path, 2)]
    assert {record["clip"] for record in read_all(tmp_path)[0]} == {
        *("before", "own", "a", "b", "c", "torn"),
    }


def test_records_of_one_edit_become_one_with_all_measures(tmp_path):
    """Fewer may have been asked for later, by another number of processes."""
    append_records(records_path(tmp_path, 0), [{"clip": "a", "flicker": 1.0, "mask_iou": 0.5}])
    append_records(records_path(tmp_path, 1), [{"clip": "a", "flicker": 2.0}])
    assert read_all(tmp_path) == ([{"clip": "a", "flicker": 2.0, "mask_iou": 0.5}], 0)
    append_records(records_path(tmp_path, 0), [{"clip": "a", "warp_error": 0.1}])
    assert read_records(records_path(tmp_path, 0))[0][0].keys() == {
        *("clip", "flicker", "mask_iou", "warp_error"),
    }
    append_records(records_path(tmp_path, 1), [{"clip": "a", "flicker": 3.0, "mask_iou": 0.5}])
    assert read_all(tmp_path)[0][0]["flicker"] == 3.0


def test_killed_and_shared_it_ends_with_the_same_records(micro_run, tmp_path):
    """Two processes, killed after their first record; then two again; one alone has the same."""

    def arguments(folder: Path, processes: int) -> list[str]:
        return [
            "-m", "gen1_jax.cli", "evaluate", "--model", str(micro_run / "pipeline"), "--world",
            str(micro_run / "world"), "--clips", "4", "--batch-size", "1", "--steps", "1",
            "--metrics", "frame_consistency", "structure_correlation", "--no-progress",
            "--no-videos", "-o", str(folder), "--processes", str(processes),
        ]  # fmt: skip

    shared, alone = tmp_path / "shared", tmp_path / "alone"
    launcher = [sys.executable, ROOT / "launch" / "local.py", "--processes", "2", "--devices", "1"]
    command = [*launcher, "--", sys.executable, *arguments(shared, 2)]
    environment = os.environ | {"XLA_FLAGS": QUICK_FLAGS}
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(list(map(str, command)), **options) as job:
        while job.poll() is None and not records_paths(shared):
            time.sleep(0.01)
        for pid in children(job.pid):
            subprocess.run(["kill", "-KILL", pid], check=False)
    done = launch(2, 1, *arguments(shared, 2))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(records_paths(shared)) == 2  # both had work
    done = launch(1, 1, *arguments(alone, 1))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("metrics.json", "table.md"):
        assert (shared / name).read_text() == (alone / name).read_text()
    found = [
        sorted(line for path in records_paths(folder) for line in whole_lines(path))
        for folder in (shared, alone)
    ]
    assert found[0] == found[1] and len(found[0]) == 4


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def whole_lines(path: Path) -> list[str]:
    records = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [json.dumps({k: v for k, v in r.items() if k != "seconds"}) for r in records]
