"""Sound is carried over in step with the pictures; files say of themselves what they are told."""

import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.video.footage import open_footage
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.sound import Sound
from gen1_jax.video.streams import Stream
from gen1_jax.video.tags import read_tags

RATE = 44100
FRAMES = np.random.default_rng(0).integers(0, 256, (24, 16, 32, 3), np.uint8)
TAGS = {"comment": "synthetic", "gen1": '{"prompt": "ein grüner Würfel"}'}


def film(path, codec, container=None, at=1.0, seconds=2.4):
    """A film of 10 frames a second in which a beep is heard from a time on."""
    with av.open(str(path), "w", format=container) as output:
        video = output.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 16, "yuv420p"
        audio = output.add_stream(codec, rate=RATE if codec != "libopus" else 48000)
        audio.layout = "mono"
        rate = audio.codec_context.sample_rate
        times = np.arange(int(seconds * rate)) / rate
        wave = (0.5 * np.sin(2 * np.pi * 1000 * times) * (times >= at)).astype(np.float32)
        for index, frame in enumerate(FRAMES):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        resampler = av.AudioResampler(audio.codec_context.format, "mono", rate, frame_size=960)
        whole = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        whole.sample_rate, whole.pts = rate, 0
        for part in [*resampler.resample(whole), *resampler.resample(None)]:
            output.mux(audio.encode(part))
        output.mux(audio.encode(None))


def heard(path) -> tuple[str, np.ndarray, float]:
    """The codec, the loudness in each hundredth of a second, and the duration."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        loud = np.zeros(1000)
        end = 0.0
        for frame in container.decode(stream):
            wave = frame.to_ndarray().astype(np.float64).ravel()
            wave = wave / 32768 if frame.format.name.startswith("s16") else wave
            start = float(frame.pts * frame.time_base)
            places = ((start + np.arange(len(wave)) / frame.sample_rate) * 100).astype(int)
            np.maximum.at(loud, np.clip(places, 0, 999), np.abs(wave))
            end = start + len(wave) / frame.sample_rate
        return stream.codec_context.name, loud, end


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [("a.mp4", "aac", "aac"), ("a.mkv", "libopus", "aac"), ("a.mov", "pcm_s16le", "aac")],
)
@pytest.mark.parametrize("start", [0, 7])
def test_sound_is_kept_in_step(tmp_path, name, codec, kept, start):
    film(tmp_path / name, codec)
    footage = open_footage(tmp_path / name, start=start, num_frames=12)
    assert footage.taken.has_sound
    write_video(tmp_path / "out.mp4", footage.frames, footage.fps, sound=footage.sound)
    assert len(read_video(tmp_path / "out.mp4")) == 12
    found, loud, end = heard(tmp_path / "out.mp4")
    beep = 100 - 10 * start  # hundredths of a second
    assert found == kept and abs(end - 1.2) < 0.06
    assert loud[max(0, beep + 6) : 110].min() > 0.3
    if beep > 6:
        assert loud[: beep - 6].max() < 0.05


def test_a_film_without_sound_stays_so(tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES, 10)
    footage = open_footage(tmp_path / "a.mp4")
    assert footage.sound is None
    assert open_footage(tmp_path / "a.mp4", stride=2).fps == 5


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a"])
def test_tags_come_back(tmp_path, name):
    write_video(tmp_path / name, FRAMES[:3], 10, tags=TAGS)
    found = read_tags(tmp_path / name)
    assert found.items() >= TAGS.items()
    assert len(read_video(tmp_path / name)) == 3
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="text.mp4: cannot be read"):
        read_tags(tmp_path / "text.mp4")


def test_a_stream_is_written_while_it_is_made(tmp_path):
    made = []

    def make():
        for index in range(40):
            made.append(index)
            yield FRAMES[index % 24]

    write_video(tmp_path / "a.mp4", Stream(40, make), Fraction(30000, 1001))
    assert made == list(range(40)) and len(read_video(tmp_path / "a.mp4")) == 40

    def fail():
        yield FRAMES[0]
        raise KeyboardInterrupt

    for name in ("a.mp4", "new.mp4", "folder"):
        with pytest.raises(KeyboardInterrupt):
            write_video(tmp_path / name, Stream(2, fail), 10, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert len(read_video(tmp_path / "a.mp4")) == 40


def test_sound_that_ends_early_ends_early(tmp_path):
    film(tmp_path / "a.mp4", "aac", at=0.2, seconds=0.5)
    sound = Sound(tmp_path / "a.mp4", Fraction(0), Fraction(24, 10))
    write_video(tmp_path / "out.mp4", FRAMES, 10, sound=sound)
    assert len(read_video(tmp_path / "out.mp4")) == 24 and heard(tmp_path / "out.mp4")[2] < 0.6


def test_sound_stays_in_step_over_a_gap(tmp_path):
    """A second of the source's sound is missing; the beep that follows keeps its time."""
    film(tmp_path / "whole.mkv", "libopus", at=1.6)
    with av.open(str(tmp_path / "whole.mkv")) as source:
        with av.open(str(tmp_path / "gap.mkv"), "w") as output:
            places = {s.index: output.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                is_lost = (
                    packet.stream.type == "audio" and 0.3 < float(packet.pts or 0) / 1000 < 1.3
                )
                if packet.pts is not None and not is_lost:
                    packet.stream = places[packet.stream.index]
                    output.mux(packet)
    footage = open_footage(tmp_path / "gap.mkv")
    write_video(tmp_path / "out.mp4", footage.frames, footage.fps, sound=footage.sound)
    _, loud, _ = heard(tmp_path / "out.mp4")
    assert loud[:152].max() < 0.05 and loud[168:220].min() > 0.3


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES[:3], 10)
    before = (tmp_path / "a.mp4").read_bytes()
    code = (
        "import resource, signal, numpy as np; from gen1_jax.video.io import write_video;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "f = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8);"
        f"write_video({str(tmp_path / 'a.mp4')!r}, f, 10, overwrite=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "WritingFailed: cannot write" in ended.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before
