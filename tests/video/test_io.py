"""Tests round trips, the choice of frames, time, damaged and wrong files, and refused outputs."""

import os
import shutil
import warnings
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_files import clip, encode, fails, psnr

from gen1_jax.errors import UserError
from gen1_jax.video import io as video_io
from gen1_jax.video import sources as video_sources
from gen1_jax.video.io import check_output, read_video, write_video

# ---- round trips


@pytest.mark.parametrize(
    ("suffix", "least"), [(".mp4", 29.0), (".gif", 27.0), (".webp", 31.0), ("", 99.0)]
)
def test_round_trip(tmp_path, suffix, least):
    frames = clip()
    path = tmp_path / f"deep/er/out{suffix}"
    write_video(path, frames, 12)
    video = read_video(path)
    assert video.frames.dtype == np.uint8 and video.frames.shape == frames.shape
    assert psnr(video.frames, frames) > least
    assert video.fps == pytest.approx(12 if suffix else 24, rel=0.01)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary left


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
@pytest.mark.parametrize("fps", [Fraction(30000, 1001), 24, 7.5, 2.5])
def test_rates_and_equal_frames_survive(tmp_path, suffix, fps):
    frames = clip(9)
    frames[4:6] = frames[3]  # encoders of animated images merge equal frames
    write_video(tmp_path / f"a{suffix}", frames, fps)
    video = read_video(tmp_path / f"a{suffix}")
    assert len(video) == 9
    assert float(video.fps) == pytest.approx(float(fps), rel=0.06 if suffix == ".gif" else 0.02)
    assert psnr(video.frames, frames) > 26


def test_mp4_is_what_browsers_play(tmp_path):
    write_video(tmp_path / "a.mp4", clip(4, 33, 47), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (34, 48)
        assert (stream.colorspace, stream.color_trc, stream.color_primaries) == (1, 1, 1)
    video = read_video(tmp_path / "a.mp4")
    assert (
        np.abs(video.frames[:, 33].astype(int) - video.frames[:, 32]).mean() < 4
    )  # padded by edge


def test_names_that_look_like_patterns_or_addresses(tmp_path):
    for name in ("http:x.mp4", "100%03d.mp4", "a b'ü.mp4", "-o.gif", "50%.webp"):
        write_video(tmp_path / name, clip(2), 8)
        assert len(read_video(tmp_path / name)) == 2


def test_one_frame(tmp_path):
    for suffix in (".mp4", ".gif", ".webp", ""):
        write_video(tmp_path / f"one{suffix}", clip(1), 8)
        assert read_video(tmp_path / f"one{suffix}").frames.shape == (1, 48, 64, 3)
        fails(tmp_path / f"one{suffix}", "1 frame", "8", num_frames=8)
    Image.fromarray(clip(1)[0]).save(tmp_path / "still.jpg", quality=95)
    still = read_video(tmp_path / "still.jpg")
    assert len(still) == 1 and psnr(still.frames, clip(1)) > 30


# ---- which frames


def test_start_stride_and_count(tmp_path):
    frames = clip(12)
    write_video(tmp_path / "a", frames, 10)
    write_video(tmp_path / "a.mp4", frames, 10)
    for path in (tmp_path / "a", tmp_path / "a.mp4"):
        video = read_video(path, num_frames=3, stride=4, start=1)
        assert psnr(video.frames, frames[[1, 5, 9]]) > 29
        assert read_video(path, stride=5).frames.shape[0] == 3
        fails(path, "12 frames", "at most 2", num_frames=3, stride=6)
        fails(path, "12 frames; start 12 is beyond them", start=12)
    assert read_video(tmp_path / "a.mp4", stride=4).fps == Fraction(5, 2)
    for bad in ({"stride": 0}, {"start": -1}, {"num_frames": 0}, {"size": (0, 4)}):
        with pytest.raises(UserError, match="or more") as caught:
            read_video(tmp_path / "a.mp4", **bad)
        assert "\n" not in str(caught.value)


def test_decoding_stops_early_and_seeks(tmp_path, monkeypatch):
    frames = clip(20)[np.arange(600) % 20]
    path = encode(tmp_path / "long.mp4", frames, fps=30, options={"g": "24", "preset": "ultrafast"})
    decoded = []
    convert = video_sources.Picture
    monkeypatch.setattr(
        "gen1_jax.video.opening.Picture", lambda *a: decoded.append(1) or convert(*a)
    )
    early = read_video(path, num_frames=4)
    assert len(decoded) < 8 and psnr(early.frames, frames[:4]) > 26
    decoded.clear()
    late = read_video(path, num_frames=3, stride=2, start=511)
    assert len(decoded) < 70 and psnr(late.frames, frames[[511, 513, 515]]) > 26
    fails(path, "600 frames", "at most 89", num_frames=100, start=511)


def test_memory_is_bounded(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", clip(), 10)
    monkeypatch.setattr(video_io, "_MAX_BYTES", 5 * 48 * 64 * 3)
    fails(tmp_path / "a.mp4", "48x64")


# ---- time


def test_variable_frame_rate_keeps_time(tmp_path):
    """Five pictures at 30 a second, then five at 10, keep their times."""
    frames = clip(10)
    for index in range(10):
        frames[index, 24:40, 8:56] = 25 * index
    ticks = [0, 20, 40, 60, 80, 100, 160, 220, 280, 340]
    for name in ("a.mp4", "a.mkv"):
        video = read_video(encode(tmp_path / name, frames, ticks=ticks, fps=10))
        shown = np.round(video.frames[:, 32, 32, 0] / 25).astype(int)
        times = np.arange(len(video)) / float(video.fps) * 600
        truth = np.searchsorted(ticks, times + 1e-6, side="right") - 1
        assert np.all(np.diff(shown) >= 0) and np.abs(shown - truth).max() <= 2
        # The clock is right to a frame at the end of the fast part and in the slow part.
        assert abs(times[np.argmax(shown >= 5)] - 100) < 1.1 * 600 / float(video.fps)
        assert abs(times[np.argmax(shown >= 9)] - 340) < 1.1 * 600 / float(video.fps)
        assert len(video) / float(video.fps) == pytest.approx(400 / 600, abs=0.15)


def test_jitter_drops_nothing(tmp_path):
    """The pictures come 29.97 a second with a jitter of up to a third of a frame."""
    frames = clip(24)
    jitter = np.random.default_rng(1).integers(-6, 7, 24)
    ticks = (np.arange(24) * 600 * 1001 / 30000 + jitter).round().astype(int)
    ticks -= ticks.min()
    video = read_video(encode(tmp_path / "a.mkv", frames, ticks=sorted(ticks.tolist()), fps=30))
    assert len(video) == 24 and psnr(video.frames, frames) > 26


def test_gif_durations(tmp_path):
    frames = clip(3)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(
        tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 300, 100]
    )
    video = read_video(tmp_path / "a.gif")
    assert video.fps == 10 and psnr(video.frames, frames[[0, 1, 1, 1, 2]]) > 25


# ---- bad input


def test_not_videos(tmp_path):
    fails(tmp_path / "none.mp4")
    fails(tmp_path, ".png")  # a folder without images; the line names what is accepted
    for name in ("a.mp4", "a.txt", "a.png", "a.gif"):
        (tmp_path / name).write_text("just words\n" * 40)
        fails(tmp_path / name, "not a video")
        (tmp_path / name).write_bytes(b"")
        fails(tmp_path / name, reason="empty file")
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    fails(tmp_path / "a.wav", "sound", reason="no video stream")


def test_cover_picture_is_not_a_video(tmp_path):
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        sound = container.add_stream("mp3", rate=16000, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        picture = av.VideoFrame.from_ndarray(clip(1)[0], format="rgb24")
        for stream, frame in ((cover, picture), (sound, samples)):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    fails(tmp_path / "song.mp3", "sound", reason="no video stream")


def test_cut_off_mp4(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    write_video(tmp_path / "whole.mp4", noise, 10)
    data = (tmp_path / "whole.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.warns(UserWarning, match="frames lost") as caught:
        video = read_video(cut)
    lost = int(str(caught[0].message).split(": ")[-1].split()[0])
    # Lost pictures between others have their time filled.
    assert 5 <= len(video) <= 14 and 20 <= len(video) + lost <= 21
    np.testing.assert_array_equal(video.frames[:5], read_video(tmp_path / "whole.mp4").frames[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all frames that were asked for are there: no warning
        assert len(read_video(cut, num_frames=4)) == 4
    fails(cut, f"{len(video)} frames", f"{lost} more", num_frames=20)
    cut.write_bytes(data[: data.index(b"mdat") + 20])
    fails(cut)
    cut.write_bytes(data[:24] + data[data.index(b"mdat") - 4 :])
    fails(cut, reason="unfinished file")


def test_damage_in_the_middle_keeps_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    write_video(tmp_path / "a.mp4", noise, 10)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.warns(UserWarning, match="frames lost"):
        assert len(read_video(tmp_path / "a.mp4")) == 20


def test_cut_off_images(tmp_path):
    write_video(
        tmp_path / "a.gif", np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8), 10
    )
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: int(len(data) * 0.7)])
    with pytest.warns(UserWarning, match="lost"):
        assert 3 <= len(read_video(tmp_path / "a.gif")) <= 5
    Image.fromarray(clip(1)[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    fails(tmp_path / "a.png", reason="damaged")


# ---- outputs


def test_outputs_are_refused(tmp_path):
    def refused(path, *parts, fps=8, **options):
        with pytest.raises(UserError) as caught:
            write_video(path, clip(2), fps, **options)
        line = str(caught.value)
        assert "\n" not in line and all(part in line for part in (str(path), *parts))

    refused(tmp_path / "a.avi", ".mp4", ".gif", ".webp")
    for path in (tmp_path / "a.mp4", tmp_path / "a"):
        write_video(path, clip(2), 8)
        refused(path)
        write_video(path, clip(3), 8, overwrite=True)
        assert len(read_video(path)) == 3
    (tmp_path / "a" / "thesis.txt").write_text("dear")
    refused(tmp_path / "a", overwrite=True)
    assert (tmp_path / "a" / "thesis.txt").exists()
    refused(tmp_path / "a.mp4" / "b.mp4")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", overwrite=True)
    (tmp_path / "b.mp4").mkdir()
    refused(tmp_path / "b.mp4", overwrite=True)
    refused(tmp_path / "c.mp4", "0 frames per second", fps=0)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "c.mp4", clip(2).astype(np.float32), 8)
    assert check_output(tmp_path / "new/c.gif") == tmp_path / "new/c.gif"


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ""])
def test_a_full_disk_leaves_the_old_output(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    write_video(path, clip(2), 8)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(shutil, "rmtree", lambda p: None if p == path else rmtree(p))
    with pytest.raises(UserError, match="No space left"):
        write_video(path, clip(3), 8, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert len(read_video(path)) == 2


rmtree = shutil.rmtree


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *a: False)  # because root may write anywhere
    with pytest.raises(UserError, match=r"a\.mp4"):
        check_output(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": 3}, r"3 \(int\) was given; accepted: a path of a video"),
        ({"path": ""}, "was given; accepted: a path"),
        ({"num_frames": "8"}, "num_frames is '8'; a whole number is accepted"),
        ({"stride": 1.5}, "stride is 1.5; a whole number"),
        ({"size": 32}, r"size is 32; two whole numbers \(height, width\)"),
        ({"size": "32x32"}, "size is '32x32'; two whole numbers"),
    ],
)
def test_wrong_types_are_refused_in_reading(tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        read_video(**{"path": tmp_path} | arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((clip(2), "a.mp4", 8), r"write_video\(path, frames, fps\)"),
        (("a.mp4", 3, 8), r"frames are int \[\]; \[n h w 3\] uint8"),
        (("a.mp4", [[1], [2, 3]], 8), "uint8 is accepted"),
        (("a.mp4", clip(2), "8"), "8 frames per second; accepted is a rate"),
        (("a.mp4", clip(2), None), "None frames per second"),
    ],
)
def test_wrong_types_are_refused_in_writing(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        write_video(*arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
