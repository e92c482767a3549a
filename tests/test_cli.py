"""The command line: help, configs, `gen1 train`. Bad input is one line and leaves no files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import contents, gen1, refused

from gen1_jax import cli

CONFIG = Path(__file__).parent / "micro.py"


def test_help_is_for_all_and_for_each(capsys):
    assert cli.main([]) == 2
    assert "edit a video with a prompt" in capsys.readouterr().out
    for command in ((), *((name,) for name in cli.COMMANDS)):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: {' '.join(('gen1', *command))}" in capsys.readouterr().out


# ---- configs


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["train", "--config", "huge:video"], "'huge'; accepted: demo, paper, tiny"),
        (["train", "--config", "base:video"], "base"),
        (["train", "--config", "nowhere.py:video"], "nowhere.py"),
        (["train", "--config", f"{__file__}:video"], "test_cli.py"),
        (["train", "--config", "tiny:vidoe"], "'vidoe'; known: all, world"),
        (["train", "--config", "tiny"], "--config tiny"),
        (["train", "--config", "tiny:world"], "--config tiny:world"),
        (["precompute", "--config", "tiny:video"], "--config tiny:video"),
        (["all", "--config", "tiny:video"], "--config tiny:video"),
        (["all", "--config", "tiny", "--parts", "video", "vidoe"], "vidoe"),
        (["train", "--config", "tiny:video", "--set", "num_step=3"], "num_step=3.*num_steps"),
        (
            ["train", "--config", "tiny:video", "--set", "loss.kl=3"],
            "loss.kl=3.*loss.latents_drawn",
        ),
        (["train", "--config", "tiny:video", "--set", "num_steps=many"], "num_steps=many"),
        (["train", "--config", "tiny:video", "--set", "num_steps=1.5"], "num_steps=1.5"),
        (["train", "--config", "tiny:video", "--set", "num_steps"], "--set num_steps"),
        (["train", "--config", "tiny:video", "--set", "num_steps=0"], "num_steps is 0"),
        (["train", "--config", "tiny:video"], "no model folder .*/model"),
        (["train", "--config", "tiny:autoencoder"], "moving_shapes"),
        (["world", "--builder", "vast"], "'vast'"),
        (["guess"], "'guess'"),
    ],
)
def test_wrong_configs_are_refused(capsys, monkeypatch, tmp_path, arguments, culprit):
    monkeypatch.chdir(tmp_path)
    if arguments[0] != "guess":
        arguments = [*arguments[:1], "--workdir", "w", *arguments[1:], "--no-progress"]
    refused(capsys, *arguments, culprit=culprit)
    assert not contents(tmp_path)


def test_a_config_that_cannot_be_loaded_is_refused(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(:\n")
    command = ("train", "--workdir", tmp_path / "w", "--config")
    refused(capsys, *command, f"{tmp_path}/mine.py:a", culprit="mine.py.*SyntaxError")


def test_a_workdir_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "w").write_text("mine")
    for part in ("world", "all"):
        command = (part, "--workdir", tmp_path / "w")
        command += ("--builder", "test") if part == "world" else ("--config", CONFIG)
        refused(capsys, *command, "--no-progress", culprit="/w")
    assert (tmp_path / "w").read_text() == "mine"


def test_a_stage_by_its_command(capsys, micro_run, quick, tmp_path):
    """`gen1 train` from the model of the stage before, to a model folder; a second time at once."""
    folder = micro_run / "video_again"
    command = ("train", "--config", f"{CONFIG}:video", "--workdir", folder, "--no-progress")
    command += ("--set", "sample_every=1000", "data.image_fraction=0.0")
    code, out, err = gen1(capsys, *command)
    assert code == 0, err
    assert "temporal" in out and (folder / "model" / "config.json").exists()
    assert {p.name for p in folder.iterdir()} == {
        *("config.json", "checkpoints", "logs", "samples", "model", "finished.json")
    }
    before = contents(folder)
    assert gen1(capsys, *command) == (0, "", "") and contents(folder) == before
    command = (*command, "block_out_channels=1")
    refused(capsys, *command, culprit="block_out_channels")
    refused(
        capsys, *command[:-1], "num_steps=9", "model.layers_per_block=2", culprit="another model"
    )


@pytest.mark.parametrize("variable", ["GEN1_PROCESSES", "SLURM_STEP_NUM_TASKS"])
@pytest.mark.parametrize("command", ["train --config tiny:video", "all --config tiny"])
def test_several_processes_do_not_run_alone(capsys, tmp_path, monkeypatch, variable, command):
    monkeypatch.setenv(variable, "4")
    command = [*command.split(), "--workdir", tmp_path / "run"]
    refused(capsys, *command, culprit="4 processes.*--processes 4")
    assert not any(tmp_path.iterdir())


# ---- processes


def process(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gen1_jax.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_is_light():
    code = (
        "import sys; from gen1_jax import cli\n"
        "try: cli.main(['edit', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'torch', 'transformers', 'flax', 'grain', 'tensorflow_datasets'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_of_a_process(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    before = contents(tmp_path)
    for culprit, *arguments in (
        ("--prompt", "edit", "text.mp4", "--prompt", ""),
        ("tiny", "train", "--config", "tiny:x", "--workdir", "w"),
    ):
        done = process(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.count("\n") == 1 and culprit in done.stderr
    assert contents(tmp_path) == before


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m gen1_jax.cli edit --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ, cwd=tmp_path
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr and done.stdout


def test_a_work_folder_that_is_an_address_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--config", "tiny:video", "--workdir", "gs://bucket/runs/video"]
    refused(capsys, *command, culprit="gs:/bucket/runs/video")
    assert not any(tmp_path.iterdir())
