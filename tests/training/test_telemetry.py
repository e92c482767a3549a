"""What a run says of itself, and that saying it costs no step."""

import threading

import pytest
from tensorboardX.event_file_writer import EventsWriter

from gen1_jax.training.telemetry import EventLog, Profiler


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
    assert "profile: none; steps from the third on are traced" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())
