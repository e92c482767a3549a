"""A subject's pictures: none is left out, they fill half of each batch, and no other file is."""

import numpy as np
import pytest
from encoded_files import write_folder
from PIL import Image

from gen1_jax.data_pipelines.pictures import LEAST, Pictures
from gen1_jax.data_pipelines.sources import make_stream, read_preview_batch
from gen1_jax.errors import UserError

SIZE = 6  # of the latents of encoded_files


@pytest.fixture
def folder(tmp_path):
    """Eight pictures: two alike, one small, one turned by its EXIF flag, one transparent."""
    rng, pictures = np.random.default_rng(0), tmp_path / "pictures"
    pictures.mkdir()
    images = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)) for _ in range(6)]
    for number, image in enumerate([*images, images[0]]):
        image.save(pictures / f"{number}.png")
    images[1].resize((2, 2)).save(pictures / "10.webp")
    turned = Image.Exif()
    turned[0x0112] = 6
    images[2].save(pictures / "2.jpg", exif=turned)
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(pictures / "3.png")
    (pictures / ".DS_Store").write_bytes(b"x")
    return pictures


def test_every_picture_counts(folder):
    pictures = Pictures(folder)
    names = [path.name for path in pictures.paths]
    assert names == [
        "0.png",
        "1.png",
        "2.jpg",
        "2.png",
        "3.png",
        "4.png",
        "5.png",
        "6.png",
        "10.webp",
    ]
    shapes = [example["frames"].shape for example in map(pictures.__getitem__, range(9))]
    assert shapes[2] == (1, 30, 20, 3) and shapes[8] == (1, 2, 2, 3)  # upright; small
    assert np.array_equal(pictures[0]["frames"], pictures[7]["frames"])
    assert pictures[4]["frames"].min() == 255  # on white
    before = pictures.digest()
    (folder / "6.png").unlink()
    assert Pictures(folder).digest() != before


def test_what_is_no_picture_is_named(folder, tmp_path):
    for path in list(folder.glob("[3-9].png"))[: 9 - LEAST + 1]:
        path.unlink()
    (folder / "10.webp").unlink()
    with pytest.raises(UserError, match=r"pictures holds 4 pictures; 5 or more are accepted"):
        Pictures(folder)
    (folder / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"notes\.txt is no picture"):
        Pictures(folder).digest()
    (folder / "notes.txt").unlink()
    (folder / "4.png").write_bytes((folder / "0.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"4\.png cannot be read as a picture"):
        Pictures(folder).digest()
    for path, said in ((tmp_path / "missing", "is not there"), (folder / "0.png", "is a file")):
        with pytest.raises(UserError, match=said):
            Pictures(path)


def encoded(tmp_path, **data):
    for split in ("train", "validation"):
        write_folder(tmp_path / "clips" / split)
    write_folder(tmp_path / "subject" / "images_48x48" / "train", count=5)
    data = {"subject": str(tmp_path / "subject"), "image_fraction": 1.0, **data}
    return {"form": "encoded", "folder": str(tmp_path / "clips"), "batch_size": 4, **data}


def test_half_of_each_batch_is_the_subjects(tmp_path, monkeypatch):
    """Which is told by the levels: the subject's records are stored under other ones."""
    import encoded_files

    data = {"image_batch_size": 6, "levels": (0, 1, 3)}
    data = encoded(tmp_path, **data)
    record = encoded_files.record
    monkeypatch.setattr(encoded_files, "LEVELS", (0, 1, 2))
    monkeypatch.setattr(encoded_files, "record", lambda i: record(i, n=1) | {
        "levels": np.array([1, 1, 1])})  # fmt: skip
    write_folder(tmp_path / "other" / "images_48x48" / "train", count=5)
    for share, wanted in ((0.5, 3), (1.0, 6), (0.0, 0)):
        settings = data | {"subject": str(tmp_path / "other"), "subject_share": share}
        stream = make_stream(settings, seed=1)
        for _ in range(6):
            batch = next(stream)
            assert batch.latents.shape == (6, 1, SIZE, SIZE, 4)
            assert (batch.structure_level == 1).sum() == wanted
        stream.close()
    # A preview: the validation split's clips with the subject's content.
    preview = read_preview_batch(data | {"subject": str(tmp_path / "other")})
    plain = read_preview_batch(data | {"subject": "", "image_fraction": 0.0})
    np.testing.assert_array_equal(preview.latents, plain.latents)
    assert preview.latents.shape[1] == 4
    assert np.abs(preview.content).max() < 50 < np.abs(plain.content).max()  # of frame 0 alone


def test_a_subject_needs_images_of_its_size(tmp_path):
    data = encoded(tmp_path)
    with pytest.raises(UserError, match="image_fraction is 0; a subject's pictures need"):
        make_stream(data | {"image_fraction": 0.0}, seed=0)
    with pytest.raises(UserError, match="holds no encoded pictures of a subject"):
        make_stream(data | {"subject": str(tmp_path / "clips")}, seed=0)


def test_half_of_a_raw_batch_is_the_subjects(micro_run, folder):
    """The pictures are cropped to the clips' size, whatever their own."""
    for path in folder.iterdir():
        if path.suffix == ".png":
            Image.new("RGB", (9, 9), (255, 0, 255)).save(path)
    for name in ("10.webp", "2.jpg"):
        (folder / name).unlink()
    data = {"form": "raw", "world": str(micro_run / "world"), "builder": "test"}
    data |= {"buckets": ((16, 16),), "image_fraction": 1.0, "image_batch_size": 4}
    data |= {"subject": str(folder), "fields": ("frames",), "num_threads": 0}
    batch = next(make_stream(data, seed=0))
    assert batch.frames.shape == (4, 1, 16, 16, 3)
    assert [np.all(frame == (255, 0, 255)) for frame in batch.frames].count(True) == 2
