"""A section of a video is made anew, and nothing else of it changes."""

import av
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.sound import Sound
from gen1_jax.video.splicing import splice_video, widen_section
from gen1_jax.video.streams import Stream
from gen1_jax.video.tags import read_tags

FRAMES = np.random.default_rng(0).integers(0, 256, (40, 18, 31, 3), np.uint8)
FRAMES[:, :, :, 1] //= 3  # unlike the new ones
NEW = np.full((12, 18, 31, 3), (20, 240, 30), np.uint8)


def packets(path) -> list[tuple]:
    with av.open(str(path)) as container:
        return [
            (p.pts, p.dts, p.duration, bytes(p))
            for p in container.demux(container.streams.audio[0])
            if p.pts is not None
        ]


def test_a_section_of_an_mp4_is_replaced(tmp_path):
    old, new = tmp_path / "old.mp4", tmp_path / "new.mp4"
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream("aac")
        video.width, video.height = 32, 16
        for index in range(40):
            frame = av.VideoFrame(32, 16, "yuv420p")
            frame.pts = index
            container.mux(video.encode(frame))
        noise = np.random.default_rng(1).normal(size=(2, 4 * 48000)).astype(np.float32)
        samples = av.AudioFrame.from_ndarray(0.1 * noise, "fltp", "stereo")
        samples.sample_rate, samples.pts = 48000, 0
        for stream, last in ((video, None), (audio, samples), (audio, None)):
            container.mux(stream.encode(last))
    tags = {"comment": "first"}
    write_video(old, FRAMES, 10, sound=Sound(tmp_path / "sound.mp4"), tags=tags)
    assert widen_section(old, 13, 20) == (12, 24) and widen_section(old, 38, 39) == (36, 40)
    splice_video(old, new, (12, 24), NEW)
    before, after = read_video(old).frames, read_video(new).frames
    np.testing.assert_array_equal(after[:12], before[:12])
    np.testing.assert_array_equal(after[24:], before[24:])
    assert np.abs(after[12:24, :18].astype(int) - NEW[0, 0, 0]).mean() < 6
    assert packets(new) == packets(old) and read_tags(new)["comment"] == "first"
    data = new.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    # A last group that is too short for frames out of order leaves no gap.
    write_video(tmp_path / "short.mp4", FRAMES[:26], 10)
    splice_video(tmp_path / "short.mp4", tmp_path / "made.mp4", (24, 26), NEW[:2])
    made = read_video(tmp_path / "made.mp4")
    assert len(made) == 26 and made.fps == 10
    # The end, the beginning, and in place.
    splice_video(new, new, (36, 40), NEW[:4], overwrite=True, tags={"comment": "second"})
    splice_video(new, new, (0, 12), NEW, overwrite=True)
    again = read_video(new).frames
    np.testing.assert_array_equal(again[12:36], after[12:36])
    assert np.abs(again[[*range(12), *range(36, 40)]][:, :18].astype(int) - NEW[0, 0, 0]).mean() < 6
    assert read_tags(new)["comment"] == "second" and packets(new) == packets(old)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a"])
def test_a_section_of_pictures_is_replaced(tmp_path, name):
    write_video(tmp_path / name, FRAMES[:9], 8, tags={"comment": "first"})
    before = read_video(tmp_path / name)
    assert widen_section(tmp_path / name, 2, 4) == (2, 4)
    splice_video(tmp_path / name, tmp_path / f"new{name[1:]}", (2, 4), NEW[:2])
    after = read_video(tmp_path / f"new{name[1:]}")
    kept = [0, 1, *range(4, 9)]
    np.testing.assert_array_equal(after.frames[kept], before.frames[kept])
    assert after.fps == before.fps and not np.array_equal(after.frames, before.frames)
    assert read_tags(tmp_path / f"new{name[1:]}")["comment"] == "first"


def test_what_does_not_fit_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES, 10)
    for section, frames, words in (
        ((12, 20), NEW[:8], "12 to 19 cannot be replaced alone"),
        ((12, 24), NEW[:8], "8 new frames for 12"),
        ((12, 24), NEW[:, :8], "new frames are 8x32, its own 18x32"),
        ((36, 48), NEW, "0 to 39 exist"),
    ):
        with pytest.raises(UserError, match=words):
            splice_video(tmp_path / "a.mp4", tmp_path / "b.mp4", section, frames)
    with pytest.raises(UserError, match="same format"):
        splice_video(tmp_path / "a.mp4", tmp_path / "b.gif", (0, 12), NEW)
    with av.open(str(tmp_path / "other.mp4"), "w") as container:
        stream = container.add_stream(
            "libx264", rate=10, options={"g": "12", "preset": "ultrafast"}
        )
        stream.width, stream.height = 32, 18
        for index in range(24):
            frame = av.VideoFrame(32, 18, "yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="other settings"):
        splice_video(tmp_path / "other.mp4", tmp_path / "b.mp4", (0, 24), Stream.of(FRAMES[:24]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "other.mp4"]
