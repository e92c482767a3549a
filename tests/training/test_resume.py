"""A run that was killed, stopped or interrupted ends with the same parameters, bit for bit."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from command_line import gen1
from micro_run import SMALL, load
from safetensors.numpy import load_file
from tiny_unet import QUICK_FLAGS

from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.errors import UserError
from gen1_jax.files import write_json
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.workflow import read_trained, train_on

CONFIG = Path(__file__).parents[1] / "micro.py"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Breaks:
    """A stream that raises after `count` batches."""

    def __init__(self, stream, count: int):
        self._stream, self._left = stream, count
        self.get_state, self.set_state = stream.get_state, stream.set_state

    def __iter__(self):
        return self

    def __next__(self):
        if self._left == 0:
            raise RuntimeError("broken off")
        self._left -= 1
        return next(self._stream)


def run(config, folder: Path, breaks_after: int | None = None) -> bytes:
    def batches():
        stream = make_stream(config.data, config.seed)
        return stream if breaks_after is None else Breaks(stream, breaks_after)

    return (train_on(config, folder, batches, progress=False) / WEIGHTS).read_bytes()


@pytest.fixture
def rng() -> random.Random:
    """Random numbers; a failure shows their seed, and GEN1_TEST_SEED=seed draws them again."""
    seed = int(os.environ.get("GEN1_TEST_SEED") or time.time_ns())
    logging.getLogger(__name__).warning("GEN1_TEST_SEED=%d", seed)
    return random.Random(seed)


def test_a_stage_broken_off_at_a_random_step_goes_on_to_the_same_numbers(
    micro_run, quick, tmp_path, capsys, rng
):
    """The stage has image and video batches, encoded clips, drawn levels and an average."""
    changes = {"num_steps": 7, "checkpoint_every": 2, "sample_every": 0}
    config = load(micro_run, "blur", **SMALL, **changes, **{"data.image_fraction": 0.5})
    expected = run(config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="broken off"):
        run(config, tmp_path / "broken", rng.randint(2, 6))
    capsys.readouterr()
    config.log_every = 3
    assert run(config, tmp_path / "broken") == expected
    # A resumed run does not read the model that the stage started from.
    said = capsys.readouterr().out
    assert "from" not in said and "blur: resumes at step " in said
    assert "settings have changed since: log_every was 1, is 3\n" in said


def test_a_stage_that_trains_some_parameters_resumes_and_is_exported_whole(
    micro_run, quick, tmp_path, capsys
):
    changes = {"num_steps": 2, "checkpoint_every": 1, "sample_every": 0, "trains": ("temporal",)}
    config = load(micro_run, "blur", **SMALL, **changes, **{"data.image_fraction": 0.0})
    with pytest.raises(RuntimeError, match="broken off"):
        run(config, tmp_path, 1)
    said = capsys.readouterr().out
    assert "parameters are trained" in said
    run(config, tmp_path)
    start, end = (
        load_file(folder / WEIGHTS) for folder in (Path(config.init_from), tmp_path / "model")
    )
    assert start.keys() == end.keys()
    changed = {name for name in start if not np.array_equal(start[name], end[name])}
    assert changed and all("temporal" in name for name in changed)
    changed_run = config.copy_and_resolve_references()
    changed_run.trains, changed_run.num_steps = ("conv_in",), 3
    with pytest.raises(UserError, match="trained other parameters .the setting `trains`.: ema/"):
        run(changed_run, tmp_path)
    # A checkpoint is read by itself too: the average where there is one, all else as it was.
    write_json(tmp_path / "config.json", config.to_dict())
    for weights in ("ema", "raw"):
        _, params, _ = read_trained(tmp_path, weights)
        assert params_to_state_dict(params).keys() == end.keys()
    name = next(iter(changed))
    averaged = params_to_state_dict(read_trained(tmp_path, "ema")[1])
    np.testing.assert_array_equal(averaged[name], end[name])


def test_what_a_run_prepares_from_data_is_prepared_once(micro_run, quick, tmp_path, rng, capsys):
    """The prior's statistics are those of the first batches, which the first steps read again."""
    config = load(micro_run, "prior", **SMALL, num_steps=3, checkpoint_every=1, sample_every=0)
    expected = run(config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="broken off"):
        run(config, tmp_path / "broken", 8 + rng.randint(1, 2))
    assert "goes on with its own" not in capsys.readouterr().out
    # Earlier versions gave all parts the same random numbers, and their checkpoints name no part.
    for place in (tmp_path / "broken" / "checkpoints").glob("*/data/metadata"):
        known = json.loads(place.read_text())
        assert known.pop("part") == "prior"
        place.write_text(json.dumps(known))
    assert run(config, tmp_path / "broken") == expected
    assert "of all parts of a run; goes on with its own" in capsys.readouterr().out
    for change, words in (
        ({"num_steps": 2}, "beyond num_steps=2"),
        ({"model.num_layers": 2, "num_steps": 9}, "of another model"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            run(load(micro_run, "prior", **change), tmp_path / "broken")
        assert "\n" not in str(caught.value)


# ---- signals

STEPS = 60


def command(folder: Path) -> list[str]:
    """The command that trains the micro CLIP in a folder."""
    settings = (f"num_steps={STEPS}", "checkpoint_every=5", "log_every=1", "sample_every=1000")
    command = ["train", "--config", f"{CONFIG}:clip", "--workdir", str(folder), "--no-progress"]
    return [*command, "--set", *settings]


# Kills itself before the given number of writes to checkpoints that are not whole yet.
KILLED_IN_MID_SAVE = """
import os, signal, sys
from gen1_jax.cli import main

left = int(sys.argv.pop(1))

def on_event(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename") and "checkpoint-tmp/" in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(on_event)
sys.exit(main())
"""


def start(folder: Path, *python: str) -> subprocess.Popen:
    """Starts it as a process of its own, by default as `python -m gen1_jax.cli`."""
    return subprocess.Popen(
        [sys.executable, *(python or ("-m", "gen1_jax.cli")), *command(folder)],
        env=os.environ | {"XLA_FLAGS": QUICK_FLAGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def newest_step(folder: Path) -> int:
    names = (p.name for p in folder.glob("checkpoints/*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def half_written(folder: Path) -> list[Path]:
    """Returns what is left of saves that did not end."""
    return [path for path in folder.glob("checkpoints/*") if not path.name.isdigit()]


def stop(process: subprocess.Popen, folder: Path, beyond: int, number: int) -> str:
    """Sends a signal once there is a checkpoint beyond a step; returns stderr."""
    while newest_step(folder) <= beyond:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=120)[1]


def test_a_process_killed_and_stopped_by_ctrl_c_ends_with_the_same_parameters(
    micro_run, quick, capsys, rng
):
    """It is killed in mid-save, and goes on in a copy of its folder.

    The two that run to their end need no process of their own.
    """
    code, _, err = gen1(capsys, *command(micro_run / "clip_whole"))
    assert code == 0 and "Traceback" not in err, err

    folder = micro_run / "clip_killed"
    killed = start(folder, "-c", KILLED_IN_MID_SAVE, str(rng.randint(30, 80)))  # some 20 a save
    said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL and not (folder / "model").exists(), said
    at = newest_step(folder)
    assert 0 < at < STEPS and half_written(folder)
    folder = Path(shutil.copytree(folder, micro_run / "clip_stopped"))

    stopped = start(folder)
    line = stop(stopped, folder, at + rng.randint(0, STEPS // 4), signal.SIGINT)
    after = newest_step(folder)
    assert stopped.returncode == 130, line
    assert line.strip().splitlines()[-1] == f"gen1: clip: stopped and saved at step {after} of 60"
    assert at < after < STEPS and not (folder / "model").exists()

    code, out, err = gen1(capsys, *command(folder))
    assert code == 0 and f"clip: resumes at step {after}" in out, err
    assert not half_written(folder)
    files = [micro_run / n / "model/model.safetensors" for n in ("clip_whole", folder.name)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stream_goes_on_where_it_was(micro_run):
    """The loop relies on this: a stream's state is its place, whatever was read ahead."""
    data = load(micro_run, "blur", **{"data.image_fraction": 0.5}).data
    stream = make_stream(data, 0)
    for _ in islice(stream, 3):
        pass
    place, rest = stream.get_state(), list(islice(stream, 3))
    again = make_stream(data, 0)
    again.set_state(place)
    for one, two in zip(rest, islice(again, 3), strict=True):
        one, two = one.fields(), two.fields()
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
