"""Inputs that people have: phones' images, transparent WebM, recordings with odd clocks."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms
from video_files import clip, encode, fails, psnr

from gen1_jax.video.inputs import to_picture
from gen1_jax.video.io import read_video
from gen1_jax.video.timing import rate_of


def test_a_phones_mpo_is_one_upright_picture(tmp_path):
    large, preview = clip(2, 48, 64)[0], clip(2, 24, 32)[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    Image.fromarray(large).save(
        path, "MPO", save_all=True, append_images=[Image.fromarray(preview)], exif=exif, quality=95
    )
    assert Image.open(path).format == "MPO" and Image.open(path).n_frames == 2
    video = read_video(path)
    assert video.frames.shape == (1, 64, 48, 3)
    assert psnr(video.frames[0], np.rot90(large, -1)) > 28


# ---- HEIC


def test_heic_without_its_library_is_one_line(tmp_path, monkeypatch):
    from gen1_jax.video import images

    monkeypatch.setattr(images, "_knows_heif", lambda: False)
    path = tmp_path / "phone.heic"
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(400))
    fails(path, "HEIC", "pillow-heif", reason="unsupported codec")


def test_heic_is_one_whole_upright_picture(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs the extra `heif`")
    frame = clip(1, 600, 800)[0]  # an iPhone's tiles are of 512x512
    image = heif.from_pillow(Image.fromarray(frame))
    image.save(tmp_path / "phone.heic", quality=90)
    video = read_video(tmp_path / "phone.heic")
    assert video.frames.shape == (1, 600, 800, 3) and psnr(video.frames[0], frame) > 28


# ---- transparency of WebM


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_webm_is_over_black(tmp_path, codec):
    rgba = np.concatenate([clip(3), np.full((3, 48, 64, 1), 255, np.uint8)], -1)
    rgba[:, :, :32, 3] = 0
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"auto-alt-ref": "0", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        stream.bit_rate = 2_000_000
        stream.metadata["alpha_mode"] = "1"
        for index, each in enumerate(rgba):
            frame = av.VideoFrame.from_ndarray(each, format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_video(path).frames
    assert len(frames) == 3 and frames[:, :, :30].max() <= 8
    assert psnr(frames[:, :, 36:], rgba[:, :, 36:, :3]) > 24


# ---- clocks


def recording(path, times, claimed, n=None):
    """Writes a Matroska of pictures at these milliseconds, which claims a rate."""
    frames = clip(n or len(times), 32, 48)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libvpx" if path.suffix == ".webm" else "libx264", rate=claimed
        )
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for each, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(each, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return frames


@pytest.mark.parametrize("count", [8, 70])
def test_a_browsers_recording_has_the_rate_of_its_time_stamps(tmp_path, count):
    times = [0]
    for index in range(1, count):
        times.append(times[-1] + (33, 34, 33, 31, 36)[index % 5])
    frames = recording(tmp_path / "a.webm", times, 1000)
    video = read_video(tmp_path / "a.webm")
    assert abs(video.fps - 30) < 0.5
    assert len(video) == pytest.approx(count, abs=1)
    moved = np.abs(np.diff(video.frames[:8].astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (moved > 0.2).all()  # eight pictures, not one eight times
    assert psnr(video.frames[7], frames[7]) > 24


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_clock_that_leaps_makes_no_still(tmp_path, name):
    ticks = [60 * i + (i >= 5) * 600 * 4000 for i in range(10)]
    encode(tmp_path / name, clip(10), ticks=ticks)
    video = read_video(tmp_path / name)
    assert video.fps == 10 and len(video) == 10
    assert psnr(video.frames, clip(10)) > 26


def test_a_film_of_slides_keeps_its_times(tmp_path):
    encode(tmp_path / "a.mp4", clip(4), ticks=[600 * 400 * i for i in range(4)])
    video = read_video(tmp_path / "a.mp4")
    assert video.fps < 0.01 and len(video) in (4, 5)
    assert psnr(video.frames[-1], clip(4)[-1]) > 26


def test_rates_of_time_stamps_are_never_zero():
    assert rate_of([Fraction(0), Fraction(1)]) is None
    assert rate_of([Fraction(i, 30) for i in range(90)]) == 30
    assert 0 < rate_of([Fraction(3000 * i) for i in range(9)]) < 0.001
    leaping = [Fraction(i, 30) + (10**9 if i > 40 else 0) for i in range(90)]
    assert rate_of(leaping) == 30


# ---- interlaced film


def interlaced(path, frames):
    """Weaves the odd lines of each frame with the even ones of the next, as MPEG-2."""
    woven = frames[:-1:2].copy()
    woven[:, 1::2] = frames[1::2, 1::2]

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv422p"
        stream.bit_rate = 20_000_000
        stream.options = {"flags": "+ildct+ilme", "top": "1"}
        stream.codec_context.options = {"flags": "+ildct+ilme"}
        for index, each in enumerate(woven):
            frame = av.VideoFrame.from_ndarray(each, format="rgb24").reformat(format="yuv422p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return woven


def combing(frame):
    """Returns by how much lines differ from the mean of their neighbours."""
    grey = frame.astype(float).mean(-1)
    return np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()


def test_interlaced_film_is_not_combed(tmp_path):
    frames = np.full((16, 64, 96, 3), 40, np.uint8)
    for index in range(16):
        frames[index, 8:56, 4 * index : 4 * index + 24] = 220
    woven = interlaced(tmp_path / "a.mpg", frames)
    with av.open(str(tmp_path / "a.mpg")) as container:
        assert next(container.decode(video=0)).interlaced_frame
    video = read_video(tmp_path / "a.mpg")
    assert video.fps == 25 and len(video) == len(woven)
    assert combing(woven[4]) > 4 and max(map(combing, video.frames)) < 1.5
    first, second = frames[4:-2:2], frames[5:-1:2]  # the moments of the two fields
    assert max(psnr(video.frames[2:-1], each) for each in (first, second)) > 24


# ---- colour profiles of images


def swapping_profile():
    """Returns an RGB profile whose red is sRGB's blue: what ignores it shows other colours."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    tags = {}
    for index in range(count):
        at = 132 + 12 * index
        tags[bytes(data[at : at + 4])] = at
    red, blue = tags[b"rXYZ"] + 4, tags[b"bXYZ"] + 4
    data[red : red + 8], data[blue : blue + 8] = data[blue : blue + 8], data[red : red + 8]
    text = data.index("sRGB built-in".encode("utf-16-be"))
    data[text : text + 8] = "BGRs".encode("utf-16-be")
    return bytes(data)


def grey_profile():
    """Returns a profile of linear greys, as ICC.1 (version 2) lays it out."""
    text = b"linear grey\0"
    tags = {
        b"desc": b"desc" + struct.pack(">2I", 0, len(text)) + text + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D),
        b"kTRC": b"curv" + struct.pack(">2I", 0, 0),
        b"cprt": b"text\0\0\0\0none\0",
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">2I", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI12s12x4s24x", start + len(body), b"", 0x02400000, b"mntrGRAYXYZ ", b"acsp"
    )
    header += struct.pack(">4x3i", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


RED = (200, 30, 40)


def written(path, mode):
    image = Image.new("RGB", (16, 16), RED[::-1])
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(path, icc_profile=swapping_profile())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profiles_are_applied_everywhere(tmp_path, mode):
    from gen1_jax.data_pipelines.footage.images import ImageSettings, store_image

    (tmp_path / "frames").mkdir()
    written(tmp_path / "frames/1.png", mode)
    written(tmp_path / "frames/2.png", mode)
    path = tmp_path / "frames/1.png"
    stored = store_image(path.read_bytes(), "", "a", ImageSettings(((16, 16),)))[2]
    for pixels in (
        stored,  # gen1 ingest images
        to_picture(path, 16),  # gen1 edit --image
        to_picture(Image.open(path), 16),
        read_video(tmp_path / "frames").frames[1],  # a folder of frames
    ):
        np.testing.assert_allclose(pixels[8, 8], RED, atol=4)


def test_profiles_of_grey_and_of_print(tmp_path):
    """A grey profile is applied and transparency kept; CMYK without a profile is as it was."""
    for mode, want in {"L": 128, "LA": 64}.items():  # linear 0.216 is sRGB's 0.502
        grey = Image.new("L", (8, 8), 55)
        if mode == "LA":
            grey.putalpha(128)
        grey.save(tmp_path / "a.png", icc_profile=grey_profile())
        frame = read_video(tmp_path / "a.png").frames[0]
        assert frame[4, 4].tolist() == pytest.approx([want] * 3, abs=3), mode
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red = read_video(tmp_path / "a.jpg").frames[0, 4, 4]
    assert red[0] > 240 and red[1] < 15 and red[2] < 15
    broken = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(broken, "PNG", icc_profile=b"no profile at all")
    (tmp_path / "b.png").write_bytes(broken.getvalue())
    assert read_video(tmp_path / "b.png").frames[0, 4, 4].tolist() == list(RED)
