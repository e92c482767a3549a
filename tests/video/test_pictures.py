"""Tests that pictures have the right pixels and readable labels, and that files are complete."""

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.video import pictures
from gen1_jax.video.pictures import (
    colour_depth,
    contact_sheet,
    label_strip,
    save_image,
    side_by_side,
)

RED, BLUE = (220, 40, 40), (40, 60, 220)


def flat(colour: tuple, n: int = 4, h: int = 32, w: int = 32) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (n, h, w, 3)).copy()


def share(image: np.ndarray, colour: tuple) -> float:
    return float((np.abs(image.astype(int) - colour).max(-1) < 8).mean())


def test_depth_colours_are_infernos():
    from matplotlib import colormaps

    ramp = np.linspace(0, 1, 256, dtype=np.float32)
    ours = colour_depth(ramp[None, None], low=0, high=1)[0, 0]
    theirs = colormaps["inferno"](ramp)[:, :3] * 255
    assert np.abs(ours - theirs).max() <= 0.5 + 1e-4


def test_depth_has_one_range_for_the_clip():
    depth = np.zeros((2, 8, 8), np.float32)
    depth[0, :4], depth[1, :4] = 5.0, 10.0
    coloured = colour_depth(depth).astype(int).sum(-1)
    assert coloured[1, 0, 0] > coloured[0, 0, 0] > coloured[0, 7, 7] == coloured[1, 7, 7]
    depth[0, 0, 0] = np.nan
    assert colour_depth(depth)[0, 0, 0].sum() < 10  # unknown is dark
    assert len(np.unique(colour_depth(np.ones((2, 4, 4))))) <= 3  # a constant is no error
    assert colour_depth(np.full((1, 2, 2), np.nan)).shape == (1, 2, 2, 3)
    assert colour_depth(-np.ones((1, 2, 2)), low=-1, high=0).sum() < 60  # 0 is a bound too


def test_labels_are_written_and_wrapped():
    short, long = label_strip("source", 128), label_strip("a red ball rolls " * 4, 128)
    assert short.shape[1] == long.shape[1] == 128 and long.shape[0] > 1.8 * short.shape[0]
    assert 0.01 < (short.max(-1) > 150).mean() < 0.3
    cut = label_strip("a red ball rolls " * 40, 128, lines=2)
    assert cut.shape[0] < long.shape[0]
    for text in ("", "Donaudampfschifffahrtsgesellschaftskapitän", "红色的球", "a\nb"):
        strip = label_strip(text, 64)
        assert strip[:, :3].max() < 60 and strip[:, -3:].max() < 60  # no text crosses the edge


def test_side_by_side():
    clips = {"source": flat(RED), "an edit with a long prompt": flat(BLUE)}
    frames = side_by_side(clips, scale=3)
    n, height, width, _ = frames.shape
    assert frames.dtype == np.uint8 and n == 4 and width >= 2 * 96 and height > 96
    assert height % 2 == width % 2 == 0
    assert share(frames[0], RED) * height * width == pytest.approx(96 * 96, rel=0.01)
    assert share(frames[0][:, : width // 2], BLUE) == 0  # the source is on the left
    assert share(frames[0][:, width // 2 :], BLUE) > 0.4
    default = side_by_side({"a": flat(RED, h=64, w=64)})
    assert 240 < default.shape[1] < 320


def test_side_by_side_of_unlike_clips():
    moving = flat(RED, n=5)
    moving[4] = BLUE
    frames = side_by_side({"a": moving, "still": flat(BLUE, n=1, h=64, w=128)}, scale=1)
    assert len(frames) == 5
    assert share(frames[0], BLUE) == share(frames[3], BLUE) > 0.2  # 32 high, 64 wide
    assert share(frames[4], BLUE) > share(frames[0], BLUE)
    with pytest.raises(ValueError, match="uint8"):
        side_by_side({"a": flat(RED), "b": np.zeros((4, 32, 32), np.float32)})


def test_contact_sheet():
    numbered = flat((0, 0, 0), n=9)
    for i in range(9):
        numbered[i] = 28 * i
    rows = [{"source": numbered, "edit": flat(BLUE)}, {"source": flat(RED), "edit": flat(BLUE)}]
    sheet = contact_sheet(rows, frames_per_clip=3, scale=2)
    assert sheet.ndim == 3 and sheet.shape[1] >= 6 * 64
    shown = {v for v in range(0, 225, 28) if share(sheet, (v, v, v)) * sheet[..., 0].size > 4000}
    assert {112, 224} <= shown and not shown & {56, 140, 168, 196}  # first, middle, last
    same = contact_sheet([rows[0], rows[0]], scale=2).shape[0]
    unlike = contact_sheet([rows[0], {"source": numbered, "other": flat(BLUE)}], scale=2).shape[0]
    assert unlike > same  # labels are repeated only where they change
    ragged = contact_sheet([rows[0], {"source": flat(RED, n=1)}])
    assert ragged.shape[2] == 3
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_save_image(tmp_path, monkeypatch):
    image = flat(RED)[0]
    for suffix in (".png", ".jpg", ".webp"):
        save_image(tmp_path / f"new/a{suffix}", image)
        assert share(np.asarray(Image.open(tmp_path / f"new/a{suffix}").convert("RGB")), RED) == 1
    with pytest.raises(UserError, match=r"a\.mp4: .*\.png"):
        save_image(tmp_path / "a.mp4", image)
    with pytest.raises(UserError, match=r"b\.png"):
        save_image(tmp_path / "new/a.png" / "b.png", image)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_image(tmp_path / "new/a.png", flat(BLUE)[0])
    assert share(np.asarray(Image.open(tmp_path / "new/a.png")), RED) == 1
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_a_mosaic_plays_clips_side_by_side():
    clips = [np.full((n, 32, w, 3), 40 * i + 50, np.uint8) for i, (n, w) in enumerate(
        [(4, 48), (2, 48), (1, 24), (4, 48), (3, 48)])]  # fmt: skip
    clips[1][1] = 255
    frames = pictures.mosaic(clips, columns=3)
    # Three across and two down, six pixels around and between, sides even.
    assert frames.shape == (4, 2 * 32 + 3 * 6, 3 * 48 + 4 * 6, 3)
    middles = frames[:, 6 + 16, [6 + 24, 6 + 48 + 6 + 24, 6 + 2 * 54 + 24], 0]
    # The second clip is shorter and starts again; the third is a still.
    np.testing.assert_array_equal(middles, [[50, 90, 130], [50, 255, 130]] * 2)
    edges = frames[0, 6 + 16, [6 + 2 * 54, 6 + 2 * 54 + 47], 0]
    assert (edges < 30).all()  # the narrow clip is centred
    assert (frames[0, 6 + 38 + 16, 6 + 2 * 54 + 24] < 30).all()  # the sixth place is empty


def test_a_mosaic_is_about_as_wide_as_a_screen():
    clip = np.zeros((1, 36, 64, 3), np.uint8)
    for count in (1, 2, 4, 9, 24):
        height, width = pictures.mosaic([clip] * count).shape[1:3]
        assert 0.8 < width / height < 4
    with pytest.raises(ValueError, match="at least one"):
        pictures.mosaic([])
