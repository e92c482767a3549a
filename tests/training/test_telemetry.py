"""What a run reports, and that a report that fails costs no step."""

import math
import threading

import pytest
from tensorboardX.event_file_writer import EventsWriter

from gen1_jax.training.telemetry import EventLog, Profiler, mean_metrics


def metrics(loss: float, bad_steps: int = 0, norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "gradient_norm": norm, "bad_steps": bad_steps}


def test_logged_losses_are_means_of_the_interval_for_each_kind():
    steps = [("video", metrics(1.0)), ("video", metrics(2.0, norm=4.0)), ("image", metrics(9.0))]
    found = mean_metrics([*steps, ("video", metrics(float("nan"), 1, float("nan")))])
    assert found == {"loss/video": 1.5, "loss/image": 9.0, "gradient_norm": 2.0}
    assert mean_metrics(steps[:1]) == {"loss/video": 1.0, "gradient_norm": 1.0}
    assert math.isnan(
        mean_metrics([("image", metrics(float("inf"), 1, float("nan")))])["gradient_norm"]
    )


def test_a_log_that_cannot_be_written_is_begun_anew(tmp_path, monkeypatch):
    write, full = EventsWriter.write_event, False

    def write_event(self, event):
        if full:
            raise OSError(28, "No space left on device")
        return write(self, event)

    monkeypatch.setattr(EventsWriter, "write_event", write_event)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # prints the reason
    with EventLog(tmp_path / "logs", 0) as log:
        full = True
        with pytest.warns(UserWarning, match="cannot write the log .*; training goes on"):
            for step in range(300):  # more than wait for the writing thread
                log.add_scalar("loss", 1.0, step)
        full = False
        for step in range(300, 310):
            log.add_scalar("loss", 1.0, step)
    files = sorted((tmp_path / "logs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert len(files) > 1 and b"loss" in files[-1].read_bytes()


def test_a_log_without_a_place_costs_nothing(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.warns(UserWarning, match="cannot write .*: Not a directory; training goes on"):
        with EventLog(tmp_path / "logs", 0) as log:
            log.add_scalar("loss", 1.0, 1)


def test_one_process_writes(tmp_path):
    with EventLog(tmp_path / "logs", 0, write=False) as log:
        log.add_scalar("loss", 1.0, 1)
    assert not any(tmp_path.iterdir())


def test_a_profile_of_no_step_says_so(tmp_path, capsys):
    with Profiler(tmp_path / "profile", 2, first=4) as profiler:
        for step in (4, 5):
            with profiler.step(step, None):
                pass
    assert "profile: nothing was traced" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())
