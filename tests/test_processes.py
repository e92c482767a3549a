"""Several real processes train one model to the numbers that one process reaches."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import gen1, refused
from fault_job import CONTENT, held_out_loss
from micro_run import load
from safetensors.numpy import load_file
from tiny_unet import QUICK_FLAGS

from gen1_jax import joining
from gen1_jax.distributed import make_mesh
from gen1_jax.errors import UserError
from gen1_jax.joining import join_processes
from gen1_jax.workflow import run_part

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4


def launch(processes: int, devices: int, *command) -> subprocess.CompletedProcess:
    """Runs `python COMMAND` in each process."""
    launcher = [sys.executable, ROOT / "launch" / "local.py", "--processes", processes]
    command = [*launcher, "--devices", devices, "--", sys.executable, *command]
    # Programs compile fast, and only the launcher sets the number of devices.
    inherited = os.environ | {"XLA_FLAGS": QUICK_FLAGS}
    return subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=300,
    )


def train(folder: Path, processes: int, *arguments) -> list[str]:
    return [
        "-m", "gen1_jax.cli", "train", "--config", "tests/micro.py:blur", "--workdir", str(folder),
        "--processes", str(processes), "--no-progress", *arguments,
    ]  # fmt: skip


def test_two_processes_of_two_devices_train_as_one(micro_run, quick, tmp_path):
    """Image and video batches; parameters and optimizer state are sharded over fsdp."""
    changes = {"num_steps": STEPS, "checkpoint_every": STEPS, "data.image_fraction": 0.5}
    changes |= {"data.batch_size": 4, "data.image_batch_size": 4}
    alone = load(micro_run, "blur", **changes, sample_every=0)
    run_part(alone, tmp_path / "alone", progress=False)
    expected = load_file(tmp_path / "alone" / "model" / "diffusion_pytorch_model.safetensors")

    settings = [f"{name}={value}" for name, value in changes.items()] + [f"sample_every={STEPS}"]
    folder = micro_run / "blur_of_two"  # beside the parts that it starts from
    done = launch(2, 2, *train(folder, 2, "--set", *settings, "mesh.fsdp=2"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert any((folder / "samples").iterdir())
    got = load_file(folder / "model" / "diffusion_pytorch_model.safetensors")
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5, err_msg=name)


def test_processes_that_do_not_come_together_stop(tmp_path):
    """The launcher starts two processes of a job of three."""
    done = launch(2, 1, *train(tmp_path / "x", 3, "--join-timeout", "2"))
    assert done.returncode == 75 and not (tmp_path / "x").exists()
    assert "gen1: the 3 processes of the job did not come together in 2 s; GEN1_COO" in done.stdout
    assert "stack trace" not in done.stdout


def test_processes_that_are_refused_leave_no_folder(tmp_path):
    done = launch(2, 1, *train(tmp_path / "run" / "blur", 2))
    assert done.returncode == 2 and "gen1: blur starts from" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "all"])
def test_processes_that_are_not_told_of_each_other_stop(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setenv("GEN1_PROCESSES", "2")  # as local.py sets it
    part = ":clip" if command == "train" else ""
    said = (
        "gen1: this command was started as 2 processes, and each would do the whole job by itself; "
        "add --processes 2, by which"
    )
    config = f"{ROOT}/tests/micro.py{part}"
    refused(capsys, command, "--config", config, "--workdir", tmp_path / "x", culprit=said)
    assert not (tmp_path / "x").exists()


def test_two_processes_run_all_parts_of_a_config(tmp_path):
    """One makes what is made once, and both go on when it is there."""
    command = ["-m", "gen1_jax.cli", "all", "--config", "tests/micro.py", "--processes", "2"]
    parts = ["--parts", "world", "tokenizer", "world"]
    done = launch(2, 1, *command, "--workdir", tmp_path, "--no-progress", *parts)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    said = [line for line in done.stdout.splitlines() if " clips; " in line]
    assert len(said) == 2 and all(line.startswith("[0] world: 24 train") for line in said)


def test_a_stage_of_the_lead_ends_on_sigterm(tmp_path):
    done = launch(2, 1, "tests/fault_job.py", "a_signal_while_the_lead_works", tmp_path)
    assert done.returncode == 75, done.stdout[-3000:]
    assert {"[0] the lead done first", "[1] waited"} <= set(done.stdout.splitlines())
    said = "gen1: stopped by SIGTERM; the same command goes on from here"
    assert {f"[{process}] {said}" for process in (0, 1)} <= set(done.stdout.splitlines())


def test_a_command_that_goes_on_ends_on_sigterm_with_its_code(tmp_path, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def run_all(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("gen1_jax.workflow.run_all", run_all)
    config = ROOT / "tests" / "micro.py"
    code, _, err = gen1(capsys, "all", "--config", config, "--workdir", tmp_path / "x")
    assert code == 75 and "stopped by SIGTERM" in err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "set, for each process, GEN1_COORDINATOR=HOST:PORT .* GEN1_PROCESS=0 to 1. launch/"),
        ({"GEN1_COORDINATOR": "nonsense"}, "GEN1_COORDINATOR is 'nonsense'; accepted: HOST:PORT"),
        ({"GEN1_COORDINATOR": "here:99999"}, "GEN1_COORDINATOR is 'here:99999'"),
        (
            {"GEN1_COORDINATOR": "127.0.0.1:1", "GEN1_PROCESS": "2"},
            "GEN1_PROCESS is '2'; .* 0 to 1",
        ),
        ({"GEN1_COORDINATOR": "127.0.0.1:1"}, "GEN1_PROCESS is ''"),
    ],
)
def test_a_job_whose_processes_are_not_named_is_refused(monkeypatch, environment, says):
    for name in ("GEN1_COORDINATOR", "GEN1_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def initialize(**options):
        raise ValueError("coordinator_address should be defined.")  # as jax says outside a cluster

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=says):
        join_processes(2)


def test_a_coordinator_that_does_not_answer_is_named():
    assert "there is no host nohost.invalid" in joining._why_late("nohost.invalid:5")
    assert "nothing answers at GEN1_COORDINATOR, 127.0.0.1:1 " in joining._why_late("127.0.0.1:1")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("a_checkpoint_that_one_cannot_read", "restored 1.0 1, there are ['1', '2', 'damaged_2']"),
        ("a_save_that_one_does_not_begin", "saved [1, 3]"),
        ("a_save_that_fails_on_one", "saved [4]"),
        ("a_signal_to_one", "signal 15 at step 10"),
    ],
)
def test_what_happens_to_one_process_happens_to_all(tmp_path, fault, said):
    done = launch(2, 1, "tests/fault_job.py", fault, tmp_path / "run")
    assert done.returncode == 0, done.stdout[-3000:]
    for process in (0, 1):
        assert f"[{process}] {said}" in done.stdout.splitlines()
    if fault != "a_signal_to_one":  # each says so, and one says why
        assert "on process" in done.stdout or "Barrier timed out" in done.stdout
        assert "OSError: " in done.stdout


def test_two_processes_measure_the_loss_and_the_statistics_that_one_measures(tmp_path):
    want = held_out_loss(make_mesh(devices=jax.devices()[:1]), CONTENT)
    mean, deviation = CONTENT[:, 0].mean(), CONTENT[:, 0].std()
    of_the_lead = "{'an é': [0]}, refused by {'an é': [0]}"
    done = launch(2, 1, "tests/fault_job.py", "a_batch_of_which_each_has_half", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    for process in (0, 1):
        said = f"[{process}] held-out loss {want:.5f}, {mean:.5f} ± {deviation:.5f}; {of_the_lead}"
        assert said in done.stdout.splitlines()


def test_the_order_of_examples_is_that_of_any_mesh_and_a_second_start_compiles_nothing(tmp_path):
    for start in (1, 2):
        done = launch(2, 2, "tests/fault_job.py", "examples_on_an_interleaved_mesh", tmp_path)
        assert done.returncode == 0, done.stdout[-3000:]
        counts = re.findall(r"^\[[01]\] orders 1, compiled (\d+)$", done.stdout, re.MULTILINE)
        assert len(counts) == 2 and all((int(count) > 2) == (start == 1) for count in counts)
        assert start == 1 or counts == ["0", "0"]
    (folder,) = (tmp_path / "programs").iterdir()
    assert re.fullmatch(r"cpu-4-[0-9a-f]{12}-jaxlib_[0-9.]+", folder.name)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("a_folder_that_is_not_shared", "processes 1 do not see what process 0 writes in"),
        ("checkpoints_that_one_does_not_see", "the processes do not see the same checkpoints in"),
    ],
)
def test_a_work_folder_must_be_shared(tmp_path, fault, said):
    done = launch(2, 1, "tests/fault_job.py", fault, tmp_path)
    # A folder that is not shared is a wrong command; checkpoints may only be seen late.
    assert done.returncode == (2 if "shared" in fault else 75)
    assert f"gen1: {said}" in done.stdout
    assert not list(tmp_path.glob(".shared*"))
    assert "[0] shared" in done.stdout or fault != "a_folder_that_is_not_shared"
