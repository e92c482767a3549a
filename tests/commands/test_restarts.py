"""Tests that a job which is started again and again ends once it makes nothing new."""

import json

import pytest
from command_line import gen1

from gen1_jax.commands.restarts import RECORD, describe_made


@pytest.fixture
def start(tmp_path, capsys, monkeypatch):
    """Starts `gen1 train` for the n-th time, by default of three → (exit code, stderr).

    The config crashes, as a job may at any place.
    """
    config = tmp_path / "crashes.py"
    config.write_text("raise RuntimeError('crash')\n")

    def start(number: int, restarts: str = "3") -> tuple[int, str]:
        monkeypatch.setenv("GEN1_START", str(number))
        monkeypatch.setenv("GEN1_RESTARTS", restarts)
        code, _, err = gen1(capsys, "train", "--config", config, "--workdir", tmp_path / "run")
        return code, err

    return start


def test_a_job_that_makes_nothing_ends_after_so_many_restarts(start, tmp_path):
    assert [start(n)[0] for n in range(5)] == [2, 2, 2, 2, 70]
    code, err = start(4)
    assert err.count("\n") == 1 and "GEN1_RESTARTS is 3" in err
    assert not (tmp_path / "run").exists()  # it is no command's work to leave an empty folder
    assert start(4, "4")[0] == 2 and start(1, "0")[0] == 70


def test_every_new_checkpoint_gives_it_as_many_again(start, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for n, step in ((2, "100"), (6, "200")):
        (checkpoints / step).mkdir(parents=True)
        assert [start(n + i)[0] for i in range(5)] == [2, 2, 2, 2, 70]
    assert start(0)[0] == 2  # the command given anew
    assert json.loads((tmp_path / "run" / RECORD).read_text())["start"] == 0


def test_processes_that_start_late_decide_as_the_first(start, tmp_path):
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    assert [start(5)[0] for _ in range(3)] == [2, 2, 2]
    assert [start(9)[0] for _ in range(3)] == [70, 70, 70]


def test_what_is_half_written_is_nothing_new(tmp_path):
    for name in ("blur/checkpoints/7", "blur/checkpoints/9.orbax-checkpoint-tmp-1", "blur/logs/1"):
        (tmp_path / name).mkdir(parents=True)
    encoded = tmp_path / "encoded" / "clips" / "train"
    encoded.mkdir(parents=True)
    for name in ("clips-000000.records", ".clips-000001.a.part.records"):
        (encoded / name).touch()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "finished.json").touch()
    assert describe_made(tmp_path) == {
        "blur/checkpoints": 7,
        "clip/finished.json": 1,
        "encoded/clips/train/*.records": 1,
    }


def test_a_count_that_is_no_number_is_refused(start):
    code, err = start(1, "many")
    assert code == 2 and "GEN1_RESTARTS is 'many'" in err
