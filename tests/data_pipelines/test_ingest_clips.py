"""Ingest of videos whose content is known: every cut, every filter, every bad file."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from known_footage import (
    CUTS,
    LENGTHS,
    WIDTH,
    WORDS,
    damaged,
    film,
    film_file,
    folder_of_frames,
    letterboxed,
    read_inputs,
    shot,
    silence,
    turned,
)
from PIL import Image
from video_files import psnr

from gen1_jax.data_pipelines.footage.clips import (
    ClipSettings,
    find_bars,
    measure_motion,
    read_clips,
)
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.outcomes import REASONS, Outcome
from gen1_jax.data_pipelines.footage.records import decode_clip
from gen1_jax.data_pipelines.footage.shots import mark_cuts
from gen1_jax.errors import UserError
from gen1_jax.video import sources as video_sources
from gen1_jax.video.io import resize_frame
from gen1_jax.video.opening import open_file, open_folder
from gen1_jax.video.sources import on_grid

ROOT = Path(__file__).resolve().parents[2]
N, STRIDE, SIZE = 4, 3, (36, 64)
SETTINGS = ClipSettings(size=SIZE, num_frames=N, stride=STRIDE)
PITCH = N * STRIDE  # from one clip to the next
STARTS = [
    first + PITCH * k
    for first, length in zip((0, *CUTS), LENGTHS, strict=True)
    for k in range((length + STRIDE - 1) // PITCH + 1)
    if PITCH * k + (N - 1) * STRIDE < length
]


def make_source(root):
    """Returns, for each path, the frames of its clips, or the reason why it has none."""
    (root / "a" / "b").mkdir(parents=True)
    truth = {}

    def add(name, frames, make=film_file, seed=0, **options):
        make(root / name, seed, frames, **options)
        truth[name] = frames

    add("a/cuts.mp4", film(1))
    add("a/cuts.mkv", film(2), codec="ffv1", pix_fmt="yuv444p10le", options={})
    add(
        "a/cuts.webm",
        film(3),
        codec="libvpx-vp9",
        options={"cpu-used": "8", "deadline": "realtime"},
    )
    add("a/b/444.mp4", film(4), pix_fmt="yuv444p")
    add("a/b/10bit.mp4", film(5), pix_fmt="yuv420p10le")
    add("a/b/odd.mp4", film(6, height=73, width=131), pix_fmt="yuv444p")
    add("a/b/rotated.mp4", film(7, height=WIDTH, width=72))
    turned(root / "a/b/rotated.mp4")
    truth["a/b/rotated.mp4"] = np.rot90(film(7, height=WIDTH, width=72), -1, axes=(1, 2))
    add("no_video.txt", film(8), make=lambda path, _, f: film_file(path.with_suffix(".mp4"), 0, f))
    (root / "no_video.mp4").rename(root / "no_video.txt")
    bars = letterboxed(film(9, height=96), 12)
    add("letterbox.mp4", bars)
    truth["letterbox.mp4"] = bars[:, 12:-12]
    folder_of_frames(root / "frames", film(10))
    truth["frames"] = film(10)

    for name, frames in {
        "still.mp4": shot(20, 1).repeat(30, 0),
        "dark.mp4": shot(21, 30) // 20,
        "one.mp4": shot(22, 1),
        "short.mp4": shot(23, 9),
        "tiny.mp4": shot(24, 30, height=34, width=62),
        "portrait.mp4": shot(27, 12, height=WIDTH, width=72),
    }.items():
        film_file(root / name, 0, frames)
    Image.fromarray(shot(25, 1)[0]).save(root / "picture.mp4", "PNG")
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_bytes(WORDS)
    silence(root / "sound.wav")
    (root / "list.mp4").write_text("ffconcat version 1.0\nfile letterbox.mp4\n")
    whole = film_file(root / "unfinished.mp4", 26).read_bytes()
    (root / "unfinished.mp4").write_bytes(whole[: len(whole) // 2])
    truth |= {
        "still.mp4": "near-still",
        "dark.mp4": "too dark",
        "one.mp4": "too short",
        "short.mp4": "too short",
        "tiny.mp4": "too small",
        "portrait.mp4": "too little kept",
        "picture.mp4": "too short",
        "empty.mp4": "empty file",
        "text.mp4": "not a video",
        "sound.wav": "no video stream",
        "list.mp4": "playlist",
        "unfinished.mp4": "unfinished file",
    }
    (root / "a" / "cuts.txt").write_text("a caption\n")
    (root / ".hidden.mp4").write_bytes(WORDS)
    return truth


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("data")
    truth = make_source(root)
    result = ingest(str(root), out, SETTINGS, validation_fraction=0.3, progress=False)
    return root, out, truth, result.report


def stored(out, report):
    """Returns the clips of each source, in order, and its split."""
    clips, splits = {}, {}
    folder = next((out / "clips").glob("*.*.*"))
    builder = tfds.builder_from_directory(folder)
    assert set(builder.info.splits) == set(report["splits"])
    for split in report["splits"]:
        source = builder.as_data_source(split=split)
        assert len(source) == report["splits"][split]["records"]
        for record in source:
            clip = decode_clip(record)
            clips.setdefault(clip["source"], []).append(clip)
            assert splits.setdefault(clip["source"], split) == split, "a source in two splits"
    return clips, splits


def test_every_input_is_accounted_for(ingested):
    _, out, truth, report = ingested
    rows = read_inputs(out / "clips")
    assert set(rows) == set(truth)
    reasons = {name: what for name, what in truth.items() if isinstance(what, str)}
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == reasons
    assert report["dropped"] == dict(Counter(reasons.values()))
    assert report["inputs"] == len(truth) == report["used"] + sum(report["dropped"].values())
    assert set(report["dropped"]) | set(video_sources.REASONS) <= set(REASONS)
    assert json.loads((out / "clips" / "report.json").read_text()) == report
    assert sorted(path.name for path in (out).iterdir()) == ["clips"]


def test_clips_are_the_frames_they_say_and_cross_no_cut(ingested):
    _, out, truth, report = ingested
    clips, splits = stored(out, report)
    assert set(clips) == {name for name, what in truth.items() if not isinstance(what, str)}
    assert len(set(splits.values())) == 2
    edges = np.array([0, *CUTS, sum(LENGTHS)])
    for source, found in clips.items():
        assert [clip["start"] for clip in found] == STARTS, source
        rate = 24 if source == "frames" else 25
        for clip in found:
            places = clip["start"] + STRIDE * np.arange(N)
            assert len(set(np.searchsorted(edges, places, side="right"))) == 1, source
            np.testing.assert_allclose(clip["times"], places / rate)
            want = np.stack([resize_frame(frame, SIZE) for frame in truth[source][places]])
            assert clip["frames"].shape == (N, *SIZE, 3)
            assert psnr(clip["frames"], want) > 24, source
        assert {clip["caption"] for clip in found} == {
            "a caption" if source.startswith("a/cuts.") else ""
        }


def test_bars_are_cropped_before_pictures_shrink(tmp_path):
    """A frame nine times as large as what it shows: scaled down first, too little would be left."""
    frames = shot(11, 24)
    window = np.pad(frames, ((0, 0), (72, 72), (128, 128), (0, 0)))
    outcome = Outcome("a.mp4")
    clips = list(read_clips(film_file(tmp_path / "a.mp4", 0, window), SETTINGS, outcome))
    assert not outcome.dropped and [clip.start for clip in clips] == [0, PITCH]
    want = np.stack([resize_frame(frame, SIZE) for frame in frames[: N * STRIDE : STRIDE]])
    assert psnr(clips[0].frames, want) > 22


def cuts_of(path):
    with contextlib.ExitStack() as stack:
        is_folder = path.is_dir()
        source = open_folder(path, None) if is_folder else open_file(path, 0, stack, strict=True)
        return [begin for _, begin, _, cut in mark_cuts(on_grid(source)) if cut][1:]


@pytest.mark.parametrize("name", ["a/cuts.mp4", "a/cuts.mkv", "a/cuts.webm", "frames"])
def test_every_cut_is_found_within_a_frame(ingested, name):
    found = cuts_of(ingested[0] / name)
    assert len(found) == len(CUTS) and np.abs(np.subtract(found, CUTS)).max() <= 1


def test_cuts_at_the_ends_and_one_after_another(tmp_path):
    lengths = (1, 20, 2, 1, 20, 20, 1)
    path = film_file(tmp_path / "a.mkv", 3, film(3, lengths), codec="ffv1", options={})
    assert cuts_of(path) == np.cumsum(lengths)[:-1].tolist()
    for length in (1, 2, 3):
        path = film_file(tmp_path / "a.mkv", 3, shot(3, length), codec="ffv1", options={})
        assert cuts_of(path) == []


def test_variable_rate(tmp_path):
    """Clips show what is on the screen at their times, which are a regular step apart."""
    frames = film(1)
    steps = np.random.default_rng(0).choice([12, 24, 24, 24, 48], len(frames))
    ticks = np.cumsum(steps) - steps[0]
    (tmp_path / "in").mkdir()
    film_file(tmp_path / "in" / "a.mkv", 0, frames, ticks=ticks.tolist(), options={"crf": "12"})
    report = ingest(str(tmp_path / "in"), tmp_path / "out", SETTINGS, progress=False).report
    clips = stored(tmp_path / "out", report)[0]["a.mkv"]
    edges = ticks[list(CUTS)] / 600
    assert len(clips) > 6
    for clip in clips:
        np.testing.assert_allclose(np.diff(clip["times"]), STRIDE / 25, atol=1e-3)
        shown = np.searchsorted(ticks / 600, clip["times"] + 0.021, side="right") - 1
        assert len(set(np.searchsorted(CUTS, shown, side="right"))) == 1
        assert len(set(np.searchsorted(edges, clip["times"] + 0.021))) == 1
        for frame, at in zip(clip["frames"], shown, strict=True):
            near = [resize_frame(frames[i], SIZE) for i in (at - 1, at) if i >= 0]
            assert max(psnr(frame, each) for each in near) > 22


def test_a_clock_that_leaps(tmp_path):
    """57 years between two pictures make no million still clips, and no clip spans them."""
    ticks = [24 * i + (i >= 30) * 600 * 86400 * 365 * 57 for i in range(60)]
    path = film_file(tmp_path / "a.mkv", 0, shot(1, 60), ticks=ticks)
    outcome = Outcome("a.mkv")
    clips = list(read_clips(path, SETTINGS, outcome))
    assert len(clips) >= 2 and sum(outcome.dropped.values()) < 1000
    for clip in clips:
        assert np.ptp(clip.times) < 10


def test_damage_in_ten_places(tmp_path):
    """Clips of damaged films show the film's frames at their own times, and cross no cut."""
    (tmp_path / "in").mkdir()
    for tenth in range(10):
        whole = film_file(tmp_path / "whole.mp4", 40 + tenth)
        damaged(tmp_path / "in" / f"{tenth}.mp4", whole, tenth)
    report = ingest(str(tmp_path / "in"), tmp_path / "out", SETTINGS, progress=False).report
    rows = read_inputs(tmp_path / "out" / "clips")
    clips, _ = stored(tmp_path / "out", report)
    edges = np.array([0, *CUTS, sum(LENGTHS)])
    for tenth in range(10):
        name, frames = f"{tenth}.mp4", film(40 + tenth)
        assert rows[name]["note"] == "" or rows[name]["note"].startswith("damaged after frame")
        assert 0 < len(clips[name]) == rows[name]["kept"] <= len(STARTS)
        for clip in clips[name]:
            places = clip["start"] + STRIDE * np.arange(N)
            assert len(set(np.searchsorted(edges, places, side="right"))) == 1
            want = np.stack([resize_frame(frame, SIZE) for frame in frames[places]])
            # A decoder cannot tell all damage; another frame, or a frozen one, is below 12.
            assert psnr(clip["frames"], want) > 17
    noted = report["used_though_damaged"]
    assert noted == sum(bool(row["note"]) for row in rows.values())
    assert noted >= 7


def test_a_film_cut_off_and_one_of_noise(tmp_path):
    (tmp_path / "in").mkdir()
    whole = film_file(tmp_path / "in" / "a.mkv", 1).read_bytes()
    (tmp_path / "in" / "a.mkv").write_bytes(whole[: len(whole) // 2])
    data = bytearray(film_file(tmp_path / "in" / "b.mp4", 2).read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov")
    data[start:end] = np.random.default_rng(0).bytes(end - start)
    (tmp_path / "in" / "b.mp4").write_bytes(data)
    report = ingest(str(tmp_path / "in"), tmp_path / "out", SETTINGS, progress=False).report
    rows = read_inputs(tmp_path / "out" / "clips")
    assert rows["a.mkv"]["kept"] >= 2
    assert rows["b.mp4"]["reason"] == "damaged" and report["used"] == 1


def test_duplicates_keep_the_first(tmp_path):
    """A copy of another size and quality is dropped, and so is one of a part of the film."""
    (tmp_path / "in").mkdir()
    film_file(tmp_path / "in" / "b_copy.mp4", 0, film(1), options={"crf": "30"})
    film_file(tmp_path / "in" / "a.mp4", 0, film(1).repeat(2, axis=1).repeat(2, axis=2))
    film_file(tmp_path / "in" / "c_part.mkv", 0, film(1)[CUTS[1] :], options={"crf": "25"})
    film_file(tmp_path / "in" / "d_other.mp4", 2)
    shutil.copy(tmp_path / "in" / "d_other.mp4", tmp_path / "in" / "e_copy.mp4")
    report = ingest(str(tmp_path / "in"), tmp_path / "out", SETTINGS, progress=False).report
    rows = read_inputs(tmp_path / "out" / "clips")
    assert report["records"] == 2 * len(STARTS)
    assert rows["a.mp4"]["kept"] == rows["d_other.mp4"]["kept"] == len(STARTS)
    assert report["dropped"] == {"duplicate": 3}
    assert report["records_dropped"]["duplicate"] == rows["c_part.mkv"]["dropped"]["duplicate"] + (
        2 * len(STARTS)
    )


def test_options_change_what_is_dropped(tmp_path):
    film_file(tmp_path / "a.mp4", 1)

    def made(**changes):
        settings = ClipSettings(**{**vars(SETTINGS), **changes})
        outcome = Outcome("a.mp4")
        return len(list(read_clips(tmp_path / "a.mp4", settings, outcome))), set(outcome.dropped)

    assert made(max_clips=1) == (4, {"too short"})
    assert made(min_motion=100.0) == (0, {"near-still", "too short"})
    assert made(min_luma=250.0) == (0, {"too dark", "too short"})
    assert made(size=(100, 64)) == (0, {"too little kept", "too short"})
    assert made(size=(100, 64), min_kept=0.0) == (0, {"too small", "too short"})
    larger = made(size=(100, 64), min_kept=0.0, max_upscale=2.0)
    assert larger == (len(STARTS), {"too short"})


def test_an_ingest_without_a_clip_leaves_nothing(tmp_path):
    film_file(tmp_path / "a.mp4", 1)
    settings = ClipSettings(**{**vars(SETTINGS), "min_motion": 100.0})
    with pytest.raises(UserError, match="none of 1 inputs gives clips"):
        ingest(str(tmp_path / "a.mp4"), tmp_path / "out", settings, progress=False)
    assert not (tmp_path / "out").exists()


def test_bars():
    frames = letterboxed(shot(1, 4, height=96), 12)
    top, bottom, left, right = find_bars(frames)
    assert 12 <= top <= 13 and 12 <= bottom <= 13 and (left, right) == (0, 0)
    assert find_bars(frames.swapaxes(1, 2))[2:] == (top, bottom)
    assert find_bars(shot(1, 4)) == (0, 0, 0, 0)
    assert find_bars(np.zeros((4, 20, 30, 3), np.uint8)) == (0, 0, 0, 0)
    floor = shot(1, 4)
    floor[:, -20:] = 0  # dark on one side is no letterbox
    assert find_bars(floor) == (0, 0, 0, 0)
    frames[2, :5] = 90  # not constant
    assert find_bars(frames) == (0, 0, 0, 0)


def test_motion_is_in_levels():
    frames = (
        np.full((3, 64, 64, 3), 100, np.uint8)
        + np.arange(3, dtype=np.uint8)[:, None, None, None] * 5
    )
    assert measure_motion(frames) == pytest.approx(5)
    assert measure_motion(frames[:1]) > 100


def test_memory_does_not_grow_with_length(tmp_path):
    """If 300 pictures of 640x360 were kept, they would take 200 MB as RGB."""
    peaks = []
    for length in (60, 300):
        path = tmp_path / f"{length}.mp4"
        slow = shot(1, 60, 360, 640, speed=1)[np.abs(np.arange(length) % 118 - 59)]
        film_file(path, 0, slow, options={"preset": "ultrafast"})
        code = (
            "import re, sys, pathlib\n"
            "from gen1_jax.data_pipelines.footage.clips import ClipSettings, read_clips\n"
            "from gen1_jax.data_pipelines.footage.outcomes import Outcome\n"
            "path = pathlib.Path(sys.argv[1])\n"
            "clips = sum(1 for _ in read_clips(path, ClipSettings(size=(72, 128)), Outcome('')))\n"
            # getrusage's peak would include what the parent had
            "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())\n"
            "print(clips, int(peak[1]) // 1024)\n"
        )
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        clips, megabytes = map(int, done.stdout.split())
        assert clips == (length + 3) // 32
        peaks.append(megabytes)
    assert peaks[1] - peaks[0] < 60
