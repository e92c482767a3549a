"""Previews and held-out losses take a small share of the time, and end no run."""

import time

import jax
import pytest
from micro_run import SMALL, load
from test_ahead import small_objective

from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.training import objectives
from gen1_jax.training.beside import Beside
from gen1_jax.workflow import train_on


class Events(dict):
    def add_scalar(self, name, value, step):
        self[name, step] = value


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test turns."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_what_takes_long_is_done_less_often(clock, capsys):
    beside = Beside("video", 0.02, Events())
    done = []
    for step in range(1, 101):  # of 10 s each
        clock[0] += 10
        if step % 5 == 0 and beside.has_time_for("preview"):
            with beside.keeping_on("preview", step):
                clock[0] += 4  # 8 % of 5 steps
            done.append(step)
    # The first is made, because nobody knows how long it takes; then 4 s in 200.
    assert done == [5, 40, 60, 80, 100]
    assert sum(4 for _ in done) <= 0.02 * clock[0]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "video: the preview takes 4 s: it is made less often, so that the steps keep 98% of the "
        "time (beside_share)"
    ]
    assert Beside("video", 1, Events()).has_time_for("preview")


def test_errors_are_counted_and_reported_once(capsys):
    events = Events()
    beside = Beside("video", 1, events)
    for step in (3, 6):
        with beside.keeping_on("held-out loss", step):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")
    said = "video: no held-out loss at step 3: RESOURCE_EXHAUSTED: Out of memory"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(said) and line.endswith("; training goes on")
    assert events == {("errors/held-out_loss", 3): 1, ("errors/held-out_loss", 6): 2}
    with pytest.raises(KeyboardInterrupt), beside.keeping_on("preview", 9):
        raise KeyboardInterrupt


def test_a_preview_that_fails_ends_no_run(micro_run, quick, tmp_path, capsys, scalars, monkeypatch):
    def exhausted():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8192 bytes.")

    monkeypatch.setattr(objectives, "make_objective", lambda *_: small_objective())
    config = load(
        micro_run, "autoencoder", **SMALL, num_steps=2, sample_every=1, trains=("quant_conv",)
    )
    make = lambda: make_stream(config.data, 0)  # noqa: E731
    folder = train_on(config, tmp_path, make, exhausted, progress=False)
    assert folder.is_dir() and not (tmp_path / "samples").exists()
    assert capsys.readouterr().out.count("no preview at step 0: RESOURCE_EXHAUSTED") == 1
    assert scalars["errors/preview"] == {0: 1, 1: 2, 2: 3}
