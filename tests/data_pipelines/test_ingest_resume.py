"""Ingest that is killed, repeated, contradicted or out of room; several processes; the command."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader
from known_footage import WORDS, film_file, read_inputs

from gen1_jax import cli
from gen1_jax.data_pipelines.footage import chunks, duplicates
from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.runner import STOPPED, Runner
from gen1_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ClipSettings(size=(36, 64), num_frames=4, stride=3)
OPTIONS = ["--size", "36x64", "--num-frames", "4", "--stride", "3", "--no-progress"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    for index in range(8):
        film_file(root / f"{index}.mp4", index // 2)  # each is there twice
    (root / "text.mp4").write_bytes(WORDS)
    return root


@pytest.fixture(scope="module")
def uninterrupted(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    ingest(str(source), out, SETTINGS, progress=False)
    return contents(out)


def contents(out):
    """Returns the content of every file that ingest leaves; records of ArrayRecord files."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            name = path.relative_to(out).as_posix()
            found[name] = records(path) if "array_record" in name else path.read_bytes()
    return found


def records(path):
    reader = ArrayRecordReader(str(path))
    try:
        return reader.read_all()
    finally:
        reader.close()


def command(source, out, *options):
    return [
        *(sys.executable, "-m", "gen1_jax.cli", "ingest", "clips", str(source)),
        *("--out", str(out), *OPTIONS, *options),
    ]


def test_killed_and_resumed(source, uninterrupted, tmp_path):
    """SIGKILL of a process alone, whose workers must end by themselves, and of all processes."""
    out, work = tmp_path / "out", tmp_path / "out" / ".ingest_clips"
    kills = 0
    for wanted, workers, kill in ((2, "2", os.kill), (5, "1", os.killpg)):
        process = subprocess.Popen(
            command(source, out, "--workers", workers),
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and len(list(work.glob("parts/*.json"))) < wanted:
            time.sleep(0.002)
        kills += process.poll() is None
        kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "clips").exists()
    assert kills and list(work.glob("parts/*.array_record"))
    result = ingest(str(source), out, SETTINGS, progress=False)
    assert result.fresh and contents(out) == uninterrupted
    assert not work.exists()


@pytest.mark.parametrize("moment", ["resolve", "build", "report"])
def test_stopped_between_phases(source, uninterrupted, tmp_path, monkeypatch, moment):
    places = {
        "resolve": "gen1_jax.data_pipelines.footage.duplicates.write_final",
        "build": "gen1_jax.data_pipelines.footage.builders.copy_shard",
        "report": "gen1_jax.data_pipelines.footage.report.write_report",
    }
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        patch.setattr(places[moment], stop)
        ingest(str(source), tmp_path, SETTINGS, progress=False)
    assert moment == "report" or str(stopped.value) == STOPPED
    assert not (tmp_path / "clips" / "report.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "make_clips", None)  # finished chunks are not made again
        assert ingest(str(source), tmp_path, SETTINGS, progress=False).fresh
    assert contents(tmp_path) == uninterrupted


def test_interrupted_by_hand(source, tmp_path):
    """Ctrl-C, which all processes of the command get; workers leave it to the first process."""
    process = subprocess.Popen(
        command(source, tmp_path, "--workers", "2"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A suite that runs in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    chunks_made = tmp_path / ".ingest_clips" / "parts"
    while process.poll() is None and not list(chunks_made.glob("*.json")):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.strip() == f"gen1: {STOPPED}"


def stop(*_):
    raise KeyboardInterrupt


def test_what_is_complete_is_left_alone(source, uninterrupted, tmp_path, monkeypatch, capsys):
    ingest(str(source), tmp_path, SETTINGS, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "make_clips", None)
        again = ingest(str(source), tmp_path, SETTINGS, progress=False)
    assert not again.fresh and contents(tmp_path) == uninterrupted
    assert cli.main(["ingest", "clips", str(source), "--out", str(tmp_path), *OPTIONS]) == 0
    assert "complete already" in capsys.readouterr().out
    other = ClipSettings(**{**vars(SETTINGS), "stride": 2, "crf": 30})
    with pytest.raises(UserError, match="stride 3 then, 2 now; crf 18"):
        ingest(str(source), tmp_path, other, progress=False)
    assert not ingest(str(source / "0.mp4"), tmp_path, SETTINGS, progress=False).fresh
    assert contents(tmp_path) == uninterrupted
    report = json.loads((tmp_path / "clips/report.json").read_text())
    del report["rounds"]  # as an earlier version wrote it
    report["asked"]["format"] = 1
    (tmp_path / "clips/report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match="format 1 then, 2 now; give another --out"):
        ingest(str(source), tmp_path, SETTINGS, progress=False)


def test_a_resumed_ingest_must_be_the_same(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(duplicates, "write_final", stop)
        ingest(str(source), tmp_path, SETTINGS, progress=False)
    for change, says in (
        ({"num_frames": 5}, "num_frames 4 then, 5 now"),
        ({"size": (32, 64)}, "size"),
    ):
        other = ClipSettings(**{**vars(SETTINGS), **change})
        with pytest.raises(UserError, match=says):
            ingest(str(source), tmp_path, other, progress=False)
    (tmp_path / "clips").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine").touch()
    with pytest.raises(UserError, match="validation_fraction 0.01 then, 0.5 now"):
        ingest(str(source), tmp_path, SETTINGS, validation_fraction=0.5, progress=False)


def test_several_processes_give_the_same(source, uninterrupted, tmp_path, capfd):
    ingest(str(source), tmp_path, SETTINGS, runner=Runner(workers=2), progress=False)
    assert contents(tmp_path) == uninterrupted
    assert capfd.readouterr() == ("", "")


def test_a_second_ingest_at_the_same_time_is_refused(source, tmp_path):
    held = subprocess.Popen(
        [sys.executable, "-c", "import fcntl,sys,time\nf=open(sys.argv[1],'w')\n"
         "fcntl.flock(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(60)",
         str(make(tmp_path / ".ingest_clips") / "lock")], stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        held.stdout.readline()
        with pytest.raises(UserError, match="another ingest is at work"):
            ingest(str(source), tmp_path, SETTINGS, progress=False)
    finally:
        held.kill()
        held.wait()
        held.stdout.close()


def make(folder):
    folder.mkdir(parents=True)
    return folder


def test_no_room_is_an_error_of_one_line(source, tmp_path):
    """A limit on the size of files fails a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write") as caught:
            ingest(str(source), tmp_path / "out", SETTINGS, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "clips").exists()


def test_no_room_for_another_process_is_one_line(source, tmp_path):
    limited = f"ulimit -f 8; exec {' '.join(command(source, tmp_path / 'out', '--workers', '2'))}"
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("gen1: cannot write")
    assert not (tmp_path / "out" / "clips").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["clips", "SRC", "--size", "10"], "no size"),
        (["clips", "SRC", "--size", "35x64"], "even sides"),
        (["clips", "SRC", "--num-frames", "0"], "1 or more"),
        (["clips", "SRC", "--validation-fraction", "1"], "below 1"),
        (["clips", "SRC", "--workers", "0"], "1 or more"),
        (["clips", "SRC", "--runner", "NoSuchRunner"], "NoSuchRunner"),
        (["clips", "nowhere"], "no such file"),
        (["images", "SRC", "--quality", "0"], "1 to 100"),
        (["clips", "SRC", "nowhere"], "nowhere: no such file"),
        (["images", "SRC"], "none of 9 inputs gives images: 9 not an image (no image that"),
        (["frames", "SRC"], "no command 'frames'"),
        ([], "required"),
    ],
)
def test_bad_arguments_end_in_one_line(source, tmp_path, capsys, arguments, says):
    arguments = [str(source) if word == "SRC" else word for word in arguments]
    if arguments:
        arguments += ["--out", str(tmp_path / "new" / "out"), "--no-progress"]
    assert cli.main(["ingest", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_prints_what_became_of_every_input(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    bad = ["ingest", "clips", str(source), "--out", str(tmp_path / "file"), *OPTIONS]
    assert cli.main(bad) == 2 and "cannot write" in capsys.readouterr().err
    arguments = ["ingest", "clips", str(source), "--out", str(tmp_path), "--workers", "1", *OPTIONS]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out
    for row in ("inputs", "used", "dropped: not a video", "dropped: duplicate", "train"):
        assert row in table
    report = json.loads((tmp_path / "clips" / "report.json").read_text())
    assert report["used"] == 4 and report["dropped"] == {"not a video": 1, "duplicate": 4}
    assert len(read_inputs(tmp_path / "clips")) == 9
    assert ("no validation split: the draw held out none of 4 inputs" in table) == (
        "validation" not in report["splits"]
    )


def test_without_the_extra_one_line(monkeypatch, source, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    assert cli.main(["ingest", "clips", str(source), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "pip install -e '.[beam]'" in error and len(error.splitlines()) == 1


def test_dask_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.delitem(sys.modules, "apache_beam.runners.dask.dask_runner", raising=False)
    with pytest.raises(UserError, match=r"pip install 'apache-beam\[dask\]'"):
        Runner("DaskRunner").check()
