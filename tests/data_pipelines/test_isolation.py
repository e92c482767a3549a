"""Decoding in processes of their own: a bad file costs itself, and is named by its own reason."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from known_footage import film_file, jpeg, shot

from gen1_jax.data_pipelines.footage import isolation, making
from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.isolation import Children, Limits
from gen1_jax.data_pipelines.footage.outcomes import UNREADABLE, Outcome
from gen1_jax.errors import WritingFailed
from gen1_jax.video.sources import Unreadable

SETTINGS = ClipSettings(size=(36, 64), num_frames=4, stride=3)
ROUGH = (sys.executable, str(Path(__file__).with_name("rough_child.py")))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return film_file(tmp_path_factory.mktemp("films") / "good.mp4", 1, shot(1, 30))


@pytest.fixture(scope="module")
def rough():
    children = Children(Limits(seconds=1, memory=2**30, frames=1000), ROUGH)
    with contextlib.closing(children):
        yield children


def read(children, path):
    """Returns the number of clips, and the reason why there are no more."""
    outcome, made = Outcome(path.name), []
    try:
        for each in children.clips(path, SETTINGS, "", outcome):
            made.append(each)
    except Unreadable as error:
        return len(made), error.reason
    return len(made), None


@pytest.mark.parametrize(
    ("name", "clips", "reason"),
    [
        ("crash", 0, "crashed"),
        ("hang", 0, "took too long"),
        ("endless", 0, "too many frames"),
        ("memory", 0, "too much memory"),
        ("late", 2, "crashed"),
    ],
)
def test_a_bad_file_costs_itself_alone(good, rough, tmp_path, name, clips, reason):
    bad = shutil.copy(good, tmp_path / f"{name}.mp4")
    assert reason in UNREADABLE
    assert read(rough, good) == (2, None)
    assert read(rough, bad) == (clips, reason)
    assert read(rough, good) == (2, None)


def test_a_child_that_says_nothing_is_ended(good):
    ready = json.dumps({"is": "ready", "parts": 0}).encode()
    code = f"""
import sys, time
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
connection.send_bytes({ready!r})
time.sleep(60)
"""
    program = (sys.executable, "-c", code)
    with contextlib.closing(Children(Limits(silence=2), program)) as children:
        assert read(children, good) == (0, "took too long")


def test_a_child_that_has_gone_is_replaced_and_no_file_is_blamed(good, rough):
    assert read(rough, good) == (2, None)
    (child,) = rough._idle
    os.kill(child._process.pid, 9)  # by the system, which lacks memory
    assert read(rough, good) == (2, None)


def test_records_are_those_made_without_a_child(good, tmp_path):
    data = jpeg(shot(3, 1)[0], quality=80)
    settings = ImageSettings(((36, 64),))
    mine = [*making.make_clips(good, SETTINGS, "a film", Outcome("a\udcff"))]
    mine.append(making.make_image(data, settings, "an image", "b"))
    theirs = [*isolation.make_clips(good, SETTINGS, "a film", Outcome("a\udcff"))]
    theirs.append(isolation.make_image(data, settings, "an image", Outcome("b")))
    for one, other in zip(mine, theirs, strict=True):
        assert one.record == other.record and one.bucket == other.bucket
        assert (
            one.prints.tobytes() == other.prints.tobytes()
            and one.prints.dtype == other.prints.dtype
        )


def test_what_is_dropped_comes_back(tmp_path):
    path = film_file(tmp_path / "a.mp4", 0, shot(20, 1).repeat(30, 0))
    outcome = Outcome("a")
    assert not list(isolation.make_clips(path, SETTINGS, "", outcome))
    assert outcome.reason == "near-still"
    with pytest.raises(Unreadable, match=r"a\.mp4: not a video") as caught:
        path.write_bytes(b"no video " * 100)
        list(isolation.make_clips(path, SETTINGS, "", Outcome("a")))
    assert caught.value.reason == "not a video"


def test_one_that_is_left_early_is_not_asked_again(good, rough):
    clips = rough.clips(good, SETTINGS, "", Outcome(""))
    next(clips)
    clips.close()
    assert not rough._idle and read(rough, good) == (2, None)


def test_a_stranger_s_modules_are_not_imported(good, tmp_path, monkeypatch):
    """Ingest may be started in the folder of the files that it reads."""
    (tmp_path / "psutil.py").write_text("raise SystemExit('a stranger runs')")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Children()) as children:
        assert read(children, good) == (2, None)


def test_a_child_that_cannot_start_is_no_file_s_fault(good):
    program = (sys.executable, "-c", "import nothing_of_that_name")
    with contextlib.closing(Children(program=program)) as children:
        with pytest.raises(WritingFailed, match="a process that decodes cannot start: it ended"):
            read(children, good)
