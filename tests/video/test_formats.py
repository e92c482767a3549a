"""Tests sizes, rotation flags, pixel formats, colours and alpha of real-world files."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_files import clip, encode, fails, psnr

from gen1_jax.errors import UserError
from gen1_jax.video import io as video_io
from gen1_jax.video.io import fit_size, read_video, write_video

# ---- shapes, rotation, pixel formats


def test_size_covers_and_crops(tmp_path):
    write_video(tmp_path / "a", clip(2, 40, 80), 8)
    video = read_video(tmp_path / "a", size=(20, 20))
    red = video.frames[1, 18, :, 0].astype(float)  # the gradient over the middle half of the width
    assert video.frames.shape == (2, 20, 20, 3)
    assert red[0] == pytest.approx(255 * 0.26, abs=6) and red[-1] == pytest.approx(
        255 * 0.74, abs=6
    )
    assert read_video(tmp_path / "a", size=(50, 30)).frames.shape == (2, 50, 30, 3)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    assert video_io.resize_frame(noise, (16, 16)).std() < 12  # antialiased: 16x16 pixels averaged
    assert fit_size(33, 47, 8) == (32, 48) and fit_size(3, 500, 16) == (16, 496)
    assert fit_size(1080, 1920, 8, max_side=448) == (256, 448)


def test_odd_sizes(tmp_path):
    frames = clip(3, 33, 47)
    path = encode(tmp_path / "odd.mp4", frames, pix_fmt="yuv444p", options={"crf": "12"})
    assert psnr(read_video(path).frames, frames) > 32
    encode(tmp_path / "odd.mkv", frames, codec="ffv1", pix_fmt="yuv420p")
    assert read_video(tmp_path / "odd.mkv").frames.shape == (3, 33, 47, 3)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_flag(tmp_path, degrees, mirrored):
    frames = clip(3)
    path = encode(
        tmp_path / "turned.mp4",
        frames,
        setup=lambda s: s.set_display_rotation(degrees, hflip=mirrored),
    )
    shown = np.rot90(frames, degrees // 90, axes=(1, 2))  # counter-clockwise, then mirrored
    shown = shown[:, :, ::-1] if mirrored else shown
    video = read_video(path)
    assert video.frames.shape == shown.shape and psnr(video.frames, shown) > 27


def test_portrait_phone_matrix(tmp_path):
    """A phone held upright writes these bytes into `tkhd`: a turn by 90 degrees clockwise."""
    path = encode(tmp_path / "a.mp4", clip(3))
    data = path.read_bytes()
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    at = data.index(unit, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    video = read_video(path)
    assert psnr(video.frames, np.rot90(clip(3), -1, axes=(1, 2))) > 27


def test_exif_orientation(tmp_path):
    image = Image.fromarray(clip(1)[0])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert psnr(read_video(tmp_path / "a.jpg").frames[0], np.rot90(clip(1)[0], -1)) > 28


def test_pixel_aspect(tmp_path):
    def anamorphic(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = encode(tmp_path / "a.mp4", clip(3), setup=anamorphic)
    assert read_video(path).frames.shape == (3, 48, 85, 3)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.mp4", "libx264", "yuv422p"),
        ("a.mp4", "libx265", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mkv", "ffv1", "yuv444p16le"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mov", "png", "rgb48be"),
        ("a.mov", "qtrle", "rgb24"),
    ],
)
def test_pixel_formats(tmp_path, name, codec, pix_fmt):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    encode(tmp_path / name, clip(3), codec, pix_fmt, options=options)
    video = read_video(tmp_path / name)
    assert video.fps == 10 and psnr(video.frames, clip(3)) > 26


@pytest.mark.parametrize(("height", "matrix"), [(720, 1), (480, 5)])
@pytest.mark.parametrize("tagged", [False, True])
def test_colours_of_untagged_video_are_what_players_show(tmp_path, height, matrix, tagged):
    frames = np.full((1, height, 64, 3), (200, 40, 90), np.uint8)
    yuv = av.VideoFrame.from_ndarray(frames[0], format="rgb24").reformat(
        format="yuv444p", dst_colorspace=matrix, dst_color_range=1
    )
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = height, 64, "yuv444p"
        if tagged:
            stream.codec_context.colorspace = matrix if matrix == 1 else 6
        else:
            yuv.colorspace = 2
        container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))
    assert np.abs(read_video(tmp_path / "a.mkv").frames.astype(int) - frames).max() <= 3


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "ffv1")])
@pytest.mark.parametrize("depth", ["gray", "gray10le"])
def test_grey(tmp_path, name, codec, depth):
    frames = clip(3)
    encode(tmp_path / name, frames, codec, depth)
    video = read_video(tmp_path / name)
    assert (video.frames.max(-1).astype(int) - video.frames.min(-1)).max() <= 1
    luma = frames @ np.array([0.299, 0.587, 0.114])
    assert psnr(video.frames[..., 0], luma) > 26


def test_grey_16_bit_png(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, 0)
    Image.fromarray(values).save(tmp_path / "a.png")
    frame = read_video(tmp_path / "a.png").frames[0]
    assert frame[0, 0, 0] == 0 and frame[0, -1, 2] == 255 and abs(int(frame[0, 32, 1]) - 129) < 2


@pytest.mark.parametrize(
    ("transfer", "signals"),
    [(16, (0.0, 0.440, 0.580, 0.653, 0.752)), (18, (0.0, 0.5, 0.75, 0.858, 1.0))],
)
def test_highlights_of_hdr_are_kept(tmp_path, transfer, signals):
    """Black, 50, 203 (white), 400 and 1,000 cd/m2 in PQ and HLG, as BT.2390 maps them."""
    frames = np.zeros((2, 32, 160, 3), np.uint16)
    for place, signal in enumerate(signals):
        frames[:, :, 32 * place : 32 * place + 32] = round(signal * 65535)

    def hdr(stream):
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = 9, transfer, 9

    def to_yuv(frame):
        return frame.reformat(format="yuv420p10le", dst_colorspace=9)

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 160, "yuv420p10le"
        hdr(stream)
        for frame in frames:
            container.mux(
                stream.encode(to_yuv(av.VideoFrame.from_ndarray(frame, format="rgb48le")))
            )
        container.mux(stream.encode(None))
    shown = read_video(tmp_path / "a.mkv").frames[1, 16, 16::32].astype(int)
    assert np.ptp(shown, axis=-1).max() <= 2  # greys stay grey
    np.testing.assert_allclose(shown[:, 0], [0, 142, 230, 246, 255], atol=4)


@pytest.mark.parametrize("name", ["folder", "a.webp", "a.png", "a.mov", "a.mkv", "a.gif"])
def test_alpha_is_over_black(tmp_path, name):
    rgba = np.concatenate([clip(3), np.full((3, 48, 64, 1), 255, np.uint8)], -1)
    rgba[:, :, :32, 3] = 0
    for index in range(3):
        rgba[index, 30:40, 40 + 5 * index] = 255  # frames differ in their opaque part
    path = tmp_path / name
    images = [Image.fromarray(frame) for frame in rgba]
    if name == "folder":
        path.mkdir()
        for index, image in enumerate(images):
            image.save(path / f"{index}.png")
    elif path.suffix in (".webp", ".png", ".gif"):
        extra = {"disposal": 2} if path.suffix == ".gif" else {}
        images[0].save(path, save_all=True, append_images=images[1:], duration=100, **extra)
    elif path.suffix == ".mov":
        encode(path, rgba, "qtrle", "argb", source="rgba")
    else:
        encode(path, rgba, "ffv1", "yuva444p", source="rgba")
    frames = read_video(path).frames
    assert len(frames) == 3
    assert frames[:, :, :31].max() <= 2
    assert psnr(frames[:, :, 34:], rgba[:, :, 34:, :3]) > 24


def test_folder_in_natural_order(tmp_path):
    frames = clip(12, 16, 16)
    frames[:, 0, 0] = np.arange(12)[:, None]
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{index}.PNG")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._frame1.png").write_text("a hidden file of another system")
    np.testing.assert_array_equal(read_video(tmp_path).frames, frames)
    Image.fromarray(clip(1, 20, 16)[0]).save(tmp_path / "frame12.png")
    fails(tmp_path, "20x16", "16x16")
    assert read_video(tmp_path, size=(16, 16)).frames.shape == (13, 16, 16, 3)
    (tmp_path / "frame3.PNG").write_bytes(b"no png")
    with pytest.raises(UserError, match=r"frame3\.PNG"):
        read_video(tmp_path, size=(16, 16))
