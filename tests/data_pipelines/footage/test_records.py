"""Stored clips and images come back in their colours, and damage raises an error."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from gen1_jax.data_pipelines.footage import records
from gen1_jax.errors import UserError


def moving(n=8, h=48, w=80):
    """[n h w 3] uint8: a coloured gradient that a bright square crosses."""
    y, x = np.mgrid[:h, :w]
    frames = np.stack([np.stack([x * 255 // w, y * 255 // h, 0 * x + 90], -1)] * n).astype(np.uint8)
    for i in range(n):
        frames[i, 8:24, 8 + 4 * i : 24 + 4 * i] = (250, 240, 20)
    return frames


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def stored(n=8):
    times = np.arange(n) * 4 / 29.97
    return records.encode_clip(moving(n), times, "a square – крест", "a/b.mp4", 120)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_clip_comes_back(n):
    clip = records.decode_clip(stored(n))
    assert clip["frames"].dtype == np.uint8 and clip["frames"].shape == (n, 48, 80, 3)
    assert all(psnr(a, b) > 32 for a, b in zip(clip["frames"], moving(n), strict=True))
    np.testing.assert_array_equal(clip["times"], np.arange(n) * 4 / 29.97)
    assert clip["times"].dtype == np.float64
    assert (clip["caption"], clip["source"]) == ("a square – крест", "a/b.mp4")
    assert clip["start"] == 120 and isinstance(clip["start"], int)


@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (30, 30, 200), (255, 255, 255)])
def test_colours_are_kept(colour):
    frames = np.broadcast_to(np.uint8(colour), (2, 64, 64, 3))
    decoded = records.decode_clip(records.encode_clip(frames, [0, 1], "", "", 0))["frames"]
    assert np.abs(decoded.astype(int) - colour).max() <= 4


def test_a_clip_is_a_film_that_players_play():
    with av.open(io.BytesIO(stored()["video"])) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert context.colorspace == 1  # BT.709


def test_the_same_clip_gives_the_same_bytes():
    assert stored() == stored()


def test_quality_is_a_choice():
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    good, poor = (
        records.encode_clip(noise, np.arange(4), "", "", 0, crf=crf)["video"] for crf in (10, 40)
    )
    assert len(poor) < len(good) / 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda video: b"",
        lambda video: b"no video",
        lambda video: video[: len(video) // 2],
        lambda video: video[:-1000],
        lambda video: video.replace(b"avc1", b"none"),  # of a codec that nobody knows
    ],
)
def test_a_damaged_clip_is_named(damage):
    record = stored()
    record["video"] = damage(record["video"])
    with pytest.raises(UserError, match=r"a/b\.mp4 from frame 120 is damaged"):
        records.decode_clip(record)


def test_a_clip_with_frames_too_many_is_damaged():
    record = stored() | {"times": stored(7)["times"]}
    with pytest.raises(UserError, match="damaged"):
        records.decode_clip(record)


@pytest.mark.parametrize(
    ("frames", "times", "says"),
    [
        (np.zeros((2, 47, 80, 3), np.uint8), [0, 1], "even sides"),
        (np.zeros((2, 48, 80, 3), np.uint8), [0], "times of shape"),
        (np.zeros((2, 48, 80, 3), np.float32), [0, 1], "uint8"),
        (np.zeros((0, 48, 80, 3), np.uint8), [], "uint8"),
    ],
)
def test_what_cannot_be_stored(frames, times, says):
    with pytest.raises(UserError, match=says):
        records.encode_clip(frames, times, "", "a", 0)


def test_an_image_comes_back():
    record = records.encode_image(moving(1)[0], "ein Quadrat", "b/c.png")
    image = records.decode_image(record)
    assert image["frames"].shape == (1, 48, 80, 3) and image["frames"].dtype == np.uint8
    assert psnr(image["frames"], moving(1)) > 32
    assert (image["caption"], image["source"]) == ("ein Quadrat", "b/c.png")


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
def test_bytes_of_the_file_serve_as_they_are(image_format):
    buffer = io.BytesIO()
    Image.fromarray(moving(1)[0]).convert("L").save(buffer, image_format)
    record = {"image": buffer.getvalue(), "caption": b"", "source": b"x"}
    assert records.decode_image(record)["frames"].shape == (1, 48, 80, 3)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"GIF89a" + b, lambda b: b[:400]])
def test_a_damaged_image_is_named(damage):
    record = records.encode_image(moving(1)[0], "", "b/c.png")
    record["image"] = damage(record["image"])
    with pytest.raises(UserError, match=r"b/c\.png is damaged"):
        records.decode_image(record)
