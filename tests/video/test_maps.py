"""Structure maps: precision, forms, numbers of frames, and what is refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from video_files import clip

from gen1_jax.errors import UserError
from gen1_jax.video import given_maps
from gen1_jax.video import maps as maps_module
from gen1_jax.video.footage import Footage
from gen1_jax.video.io import read_video, write_video
from gen1_jax.video.maps import as_grey, open_map, write_map

RNG = np.random.default_rng(0)
MAP = RNG.uniform(-1, 1, (3, 8, 10)).astype(np.float32)
FRAMES = Footage.of(np.zeros((3, 8, 10, 3), np.uint8))


def read_map(path):
    return open_map(path).map(lambda frame: as_grey(frame, str(path))).array()


def to_map(*arguments, **options):
    return given_maps.to_map(*arguments, **options).array()


@pytest.mark.parametrize(
    ("name", "error"), [("m.npy", 0), ("m", 1e-4), ("m.webp", 0.3), ("m.mp4", 0.3)]
)
def test_round_trips(tmp_path, name, error):
    write_map(tmp_path / name, MAP, 12)
    read = read_map(tmp_path / name)
    assert read.dtype == np.float32 and read.shape == MAP.shape
    unit = read if error == 0 else read / (65535 if name == "m" else 255) * 2 - 1
    assert np.abs(unit - MAP).mean() <= error
    with pytest.raises(UserError, match="exists already.*--overwrite"):
        write_map(tmp_path / name, MAP, 12)
    write_map(tmp_path / name, MAP, 12, overwrite=True)


def test_pictures_keep_their_precision(tmp_path):
    deep = RNG.integers(0, 65536, (8, 10)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_map(tmp_path / "deep.png")[0], deep)
    Image.fromarray(MAP[0]).save(tmp_path / "float.tiff")
    np.testing.assert_array_equal(read_map(tmp_path / "float.tiff")[0], MAP[0])
    grey = RNG.integers(0, 256, (8, 10), np.uint8)
    for mode in ("L", "RGB", "RGBA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "grey.png")
        np.testing.assert_allclose(read_map(tmp_path / "grey.png")[0], grey, atol=1e-3)


def test_colours_are_taken_by_their_brightness(tmp_path):
    write_video(tmp_path / "colours", clip(3), 12)
    with pytest.warns(UserWarning, match="colours: has colours; their brightness"):
        maps = to_map(
            read_video(tmp_path / "colours"), dataclasses.replace(FRAMES, source_size=(48, 64))
        )
    assert maps.shape == (3, 8, 10)


def test_which_frames_of_a_map_are_taken():
    for given in (MAP, list(map(Image.fromarray, MAP))):
        np.testing.assert_array_equal(to_map(given, FRAMES), MAP)
    for given in (MAP[0], MAP[:1], Image.fromarray(MAP[0])):  # one stands for all
        np.testing.assert_array_equal(to_map(given, FRAMES), MAP[:1].repeat(3, 0))
    whole = RNG.random((9, 8, 10)).astype(np.float32)
    later = dataclasses.replace(FRAMES, start=2, stride=3)
    np.testing.assert_array_equal(to_map(whole, later), whole[2:9:3])
    with pytest.warns(UserWarning, match="its first 3 frames are taken"):
        np.testing.assert_array_equal(to_map(whole, FRAMES), whole[:3])
    with pytest.raises(UserError, match="8 frames; accepted are 3, .* 1 for all, or 9 and more"):
        to_map(whole[:8], later)


def test_a_map_of_another_size_is_cropped_as_frames_are():
    columns = np.tile(np.arange(40, dtype=np.float32), (3, 20, 1))
    with pytest.warns(
        UserWarning, match="20×40 .* cropped to its middle 20×25, 38 % cut off → 8×10"
    ):
        fitted = to_map(columns, FRAMES)
    assert fitted.shape == (3, 8, 10)
    expected = 7.5 + 2.5 * (np.arange(10) + 0.5) - 0.5  # pixel centres of the middle 25 columns
    np.testing.assert_allclose(fitted[0, 4, 2:-2], expected[2:-2], atol=0.3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.npy", b"hello", "m.npy: cannot be read: no NumPy array of numbers; a video, a picture"),
        ("m.npz", b"", "cannot be read"),
        ("m.txt", b"hello", "not a video"),
        ("m.png", b"", "empty"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        open_map(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_arrays_and_folders_that_are_none(tmp_path):
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.savez(tmp_path / "named.npz", a=MAP)
    (tmp_path / "mixed").mkdir()
    for i, side in enumerate((4, 5)):
        Image.new("L", (side, side)).save(tmp_path / "mixed" / f"{i}.png")
    for name, words in (
        ("words.npy", "is no structure map"),
        ("named.npz", "holds arrays by name"),
        ("mixed", "pictures of 4x4 and of 5x5"),
        ("nowhere", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=words):
            to_map(tmp_path / name, Footage.of(np.zeros((2, 4, 4, 3), np.uint8)))


COLOURS = RNG.integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)


@pytest.mark.parametrize(("name", "error"), [("m.npy", 1e-4), ("m", 0), ("m.webp", 60)])
def test_colours_come_back(tmp_path, name, error):
    """As arrays and files, whole; where grey is wanted their brightness is taken, and is said."""
    np.testing.assert_array_equal(to_map(COLOURS, FRAMES, colours=True), COLOURS)
    write_map(tmp_path / name, COLOURS / np.float32(127.5) - 1, 12)
    read = to_map(tmp_path / name, FRAMES, colours=True)
    assert read.shape == COLOURS.shape and np.abs(read - COLOURS).mean() <= error
    with pytest.warns(UserWarning, match=f"{name}: has colours; their brightness is taken"):
        grey = to_map(tmp_path / name, FRAMES)
    assert grey.shape == MAP.shape and np.abs(grey - COLOURS @ [0.299, 0.587, 0.114]).max() < 99


def test_grey_is_no_colour_unless_it_may_be(tmp_path):
    write_map(tmp_path / "grey", MAP, 12)
    for given in (tmp_path / "grey", COLOURS[..., :1].repeat(3, axis=-1), MAP):
        with pytest.raises(UserError, match="is grey; this model was trained on structure in col"):
            to_map(given, FRAMES, colours=True)
        assert len(to_map(given, FRAMES, colours=True, grey_too=True)) == 3
    with pytest.raises(UserError, match=r"colours in floats are accepted in \[-1, 1\]"):
        to_map(COLOURS.astype(float), FRAMES, colours=True)


def test_a_map_waits_on_the_disk_and_not_in_memory(tmp_path, monkeypatch):
    """Of a long map each frame is read once, and none that no frame of the clip needs."""
    for i in range(9):
        Image.fromarray((MAP[i % 3] * 100 + 128 + i).astype(np.uint8)).save(tmp_path / f"{i}.png")
    read = []
    inner = maps_module._read_picture
    monkeypatch.setattr(
        maps_module, "_read_picture", lambda path: read.append(path.stem) or inner(path)
    )
    stream = given_maps.to_map(tmp_path, dataclasses.replace(FRAMES, start=1, stride=3))
    for _ in range(2):
        assert stream.array().shape == (3, 8, 10)
    assert read == [str(i) for i in range(8)]


def test_an_empty_folder_holds_no_map(tmp_path):
    with pytest.raises(UserError, match="a folder without images") as caught:
        to_map(tmp_path, FRAMES)
    assert "\n" not in str(caught.value)
