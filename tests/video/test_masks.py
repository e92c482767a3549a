"""Masks: their forms, which frames and pixels they lie on, how they fade out, what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.video.footage import Footage, open_footage
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.masks import composite, feather, to_mask

RNG = np.random.default_rng(0)
SHAPES = np.zeros((3, 16, 24), bool)
SHAPES[0, 4:10, 6:12] = SHAPES[1, 5:11, 8:14] = SHAPES[2, 6:12, 10:16] = True
FOOTAGE = Footage.of(np.zeros((3, 16, 24, 3), np.uint8))


def in_colour(masks: np.ndarray) -> np.ndarray:
    return np.repeat(masks[..., None] * np.uint8(255), 3, axis=-1)


@pytest.fixture
def film(tmp_path):
    """A folder of frames is exact; it states no rate."""
    write_video(tmp_path / "film", RNG.integers(0, 256, (9, 32, 48, 3), np.uint8), 24)
    return tmp_path / "film"


# ---- forms


@pytest.mark.parametrize("suffix", ["", ".mp4", ".gif", ".webp"])
def test_files_are_read(tmp_path, suffix):
    path = tmp_path / f"mask{suffix}"
    big = SHAPES.repeat(8, 1).repeat(8, 2)  # lossy formats blur edges
    write_video(path, in_colour(big), 12)
    np.testing.assert_array_equal(to_mask(path, FOOTAGE).on_frames().array(), SHAPES)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, "255", "colour"])
def test_arrays_are_read(tmp_path, kind):
    kinds = {"255": SHAPES * np.uint8(255), "colour": in_colour(SHAPES)}
    array = kinds[kind] if isinstance(kind, str) else SHAPES.astype(kind)
    np.testing.assert_array_equal(to_mask(array, FOOTAGE).on_frames().array(), SHAPES)
    np.save(tmp_path / "mask.npy", array)
    np.testing.assert_array_equal(
        to_mask(tmp_path / "mask.npy", FOOTAGE).on_frames().array(), SHAPES
    )


def test_pictures_are_read(tmp_path):
    write_video(tmp_path / "mask", in_colour(SHAPES), 12)
    pictures = [Image.fromarray(each) for each in in_colour(SHAPES)]
    for value in (
        pictures,
        [each.convert("L") for each in pictures],
        read_video(tmp_path / "mask"),
    ):
        np.testing.assert_array_equal(to_mask(value, FOOTAGE).on_frames().array(), SHAPES)
    for one in (pictures[0], tmp_path / "mask" / "00000.png", SHAPES[0]):  # stands for all
        found = to_mask(one, FOOTAGE).on_frames().array()
        np.testing.assert_array_equal(found, SHAPES[:1].repeat(3, 0))
    found = to_mask(pictures, FOOTAGE, inverted=True).on_frames().array()
    np.testing.assert_array_equal(found, ~SHAPES)


# ---- which frames


def steps(count: int) -> np.ndarray:
    """A bar that grows from mask to mask, so that each can be told from the others."""
    return np.stack([np.arange(24) <= 1 + i for i in range(count)])[:, None].repeat(16, 1)


def widths(mask) -> list[int]:
    """The number of each frame's mask among `steps`."""
    return [int(each[0].sum()) - 2 for each in mask.on_frames()]


def test_a_mask_of_the_whole_input_is_taken_from_where_the_clip_is(film):
    part = open_footage(film, start=2, stride=3, num_frames=2, size=(16, 24))
    assert widths(to_mask(steps(9), part)) == [2, 5]
    assert widths(to_mask(steps(2), part)) == [0, 1]
    assert widths(to_mask(steps(1), part)) == [0, 0]
    words = "has 8 frames; accepted are 2, one for each frame that is edited, 9 for the whole input"
    with pytest.raises(UserError, match=words):
        to_mask(steps(8), part)
    with pytest.raises(UserError, match="has 10 frames"):
        to_mask(steps(10), part)


def test_a_mask_of_another_rate_is_taken_by_its_time(tmp_path):
    write_video(tmp_path / "film.mp4", RNG.integers(0, 256, (12, 32, 48, 3), np.uint8), 24)
    part = open_footage(tmp_path / "film.mp4", start=1, stride=2, size=(16, 24))
    big = in_colour(steps(6)).repeat(8, 1).repeat(8, 2)
    write_video(tmp_path / "mask.mp4", big[[0, 1, 2, 3, 4, 5, 5]], 12)
    write_video(tmp_path / "half.mp4", big[[0, 1, 2, 3, 4]], 10)
    assert len(part) == 6 and part.rate == 24
    assert widths(to_mask(tmp_path / "mask.mp4", part)) == [0, 1, 2, 3, 4, 5]
    # Times 1/24, 3/24, … s at 10 frames a second.
    assert widths(to_mask(tmp_path / "half.mp4", part)) == [0, 1, 2, 2, 3, 4]
    write_video(tmp_path / "long.mp4", big.repeat(2, 0)[:11], 12)
    with pytest.raises(
        UserError, match="long.mp4: has 11 frames; .* as long at another rate, or 1"
    ):
        to_mask(tmp_path / "long.mp4", part)


# ---- which pixels


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_a_mask_lies_on_the_pixels_of_the_frames(tmp_path, fit, scale):
    """A film that is its own mask: what is white in its frames is edited, wherever they are cut."""
    shape = np.zeros((2, 32, 64), bool)
    shape[0, 8:24, 20:40] = shape[1, 12:28, 24:44] = True
    write_video(tmp_path / "film", in_colour(shape), 24)
    footage = open_footage(tmp_path / "film", size=(16, 16), fit=fit)
    size = round(64 * scale), round(32 * scale)
    grey = [Image.fromarray(each.astype(np.uint8) * 255).resize(size) for each in shape]
    mask = to_mask(grey, footage)
    luma = footage.frames.array().mean(-1)
    sure = np.abs(luma - 127) > 90  # not on an edge
    np.testing.assert_array_equal(mask.on_frames().array()[sure], (luma > 127)[sure])
    full = footage.originals.array().mean(-1)
    assert full.shape[1:] == footage.full_size
    own = mask.on_result(footage.full_size).array()
    assert (own == (full > 127)).mean() > (0.999 if scale >= 1 else 0.97)
    rows, columns = footage.inside or (slice(None), slice(None))
    inner = mask.on_frames().array()[:, rows, columns]
    assert (mask.on_result(inner.shape[1:]).array() == inner).mean() > 0.98


def test_a_mask_of_the_cropped_frames_lies_on_them(tmp_path):
    write_video(tmp_path / "film", np.zeros((3, 32, 64, 3), np.uint8), 24)
    footage = open_footage(tmp_path / "film", size=(16, 16))
    square = np.zeros((32, 32), bool)
    square[:, :16] = True
    found = to_mask(square, footage).on_frames().array()
    assert found[:, :, :8].all() and not found[:, :, 8:].any()
    words = "mask: is 32×48 .height × width.; the shape of 32×64 or of 32×32, the part that is"
    with pytest.raises(UserError, match=words):
        to_mask(np.ones((32, 48), bool), footage)
    with pytest.raises(UserError, match=r"is 32×48 .*; the shape of 32×64 is accepted"):
        to_mask(np.ones((32, 48), bool), open_footage(tmp_path / "film"))


def test_it_fades_out_around_what_is_edited():
    mask = np.zeros((20, 20), np.float32)
    mask[8:12, 8:12] = 1
    soft = feather(mask, 2)
    np.testing.assert_array_equal(soft[8:12, 8:12], 1)
    np.testing.assert_allclose(soft[9, 12:16], [0.8, 0.6, 0.4, 0.2], atol=1e-6)
    assert not soft[:4].any() and not soft[16:].any() and not soft[:, 16:].any()
    np.testing.assert_array_equal(feather(mask, 0), mask)
    np.testing.assert_allclose(feather(np.ones((5, 5), np.float32), 2), 1)
    # At twice the size it is twice as wide; a latent that holds any of it is edited.
    share = to_mask(mask, Footage.of(np.zeros((1, 20, 20, 3), np.uint8)), feather=4)
    assert (share.on_frames().array() > 0).sum() == 12**2
    assert (share.on_result((40, 40)).array() > 0).sum() == 24**2
    cells = share.cells(4)
    assert cells.shape == (1, 5, 5, 1) and cells.dtype == np.float32
    np.testing.assert_array_equal(cells[0, :, :, 0], np.pad(np.ones((3, 3)), 1))


def test_pixels_of_the_source_are_put_back():
    edited, source = RNG.integers(0, 256, (2, 6, 6, 3), np.uint8)
    share = np.zeros((6, 6), np.float32)
    share[:2], share[2] = 1, 0.5
    made = composite(edited, source, share)
    np.testing.assert_array_equal(made[:2], edited[:2])
    np.testing.assert_array_equal(made[3:], source[3:])
    assert np.abs(made[2] - (edited[2].astype(float) + source[2]) / 2).max() <= 0.5


# ---- what is refused


def test_masks_that_are_none_are_refused(tmp_path):
    (tmp_path / "text.png").write_bytes(b"hello")
    (tmp_path / "text.npy").write_bytes(b"hello")
    (tmp_path / "folder").mkdir()
    dark = Image.fromarray(SHAPES[0].astype(np.uint8))
    for value, words in (
        (tmp_path / "text.png", "text.png"),
        (tmp_path / "text.npy", "no NumPy array of numbers; a video, a picture for all frames"),
        (tmp_path / "folder", "folder"),
        (tmp_path / "none.mp4", "none.mp4: no such file"),
        ("", "'' .str. was given"),
        (3, r"mask is 3 \(int\); a video"),
        ([[1], [2, 3]], "mask: .*; a video"),
        (np.zeros(3), r"float64 \[3\] is no mask; numbers \[n H W\]"),
        (np.full((16, 24), np.nan), "has values from nan to nan; 0 to 1 are accepted"),
        (np.full((16, 24), 2.0), "has values from 2.0 to 2.0; 0 to 1"),
        (np.full((16, 24), 300), "has values from 300 to 300; 0 to 255, or 0 and 1, are"),
        (np.zeros((16, 24)), "nothing would be edited, since its brightest value is 0 of 255"),
        (dark, "its brightest value is 1 of 255 and white is edited"),
        (np.zeros((0, 16, 24)), "is no mask"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            to_mask(value, FOOTAGE)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="darkest value is 255 of 255 and black is edited with"):
        to_mask(np.ones((16, 24)), FOOTAGE, inverted=True)
    with pytest.raises(UserError, match="its parts vanish in frames of 16×24"):
        line = np.zeros((160, 240))
        line[80, 100] = 1
        to_mask(line, FOOTAGE).cells(8)


def test_a_mask_of_all_is_said():
    for array, inverted in ((np.ones((16, 24)), False), (np.zeros((16, 24)), True)):
        with pytest.warns(UserWarning, match="mask: all of it is edited, as without a mask"):
            assert to_mask(array, FOOTAGE, inverted).on_frames().array().all()


def test_times_are_exact():
    """A frame of a mask begins with a frame of the film, however the rate is written."""
    from gen1_jax.video.masks import choose_frames

    film = Footage.of(np.zeros((100, 2, 2, 3), np.uint8))
    taken = open_taken(100)
    film = film.__class__(**{**film.__dict__, "rate": Fraction(30000, 1001), "taken": taken})
    found = choose_frames(50, Fraction(15000, 1001), film, "mask")
    np.testing.assert_array_equal(found, np.arange(100) // 2)


def open_taken(total: int):
    from gen1_jax.video.selection import Selection

    return Selection(0, 1, total, total, True, (2, 2), (2, 2))
