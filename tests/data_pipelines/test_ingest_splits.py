"""Splits follow from what an input holds, wherever it lies and whatever its name."""

import shutil

import pytest
from known_footage import archive, film_file, folder_of_frames, jpeg, read_inputs, shot

from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.identity import identify, identify_path
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.keys import TRAIN, VALIDATION, name_split

CLIPS = ClipSettings(size=(36, 64), num_frames=4, stride=3)
IMAGES = ImageSettings(buckets=((16, 16),))


def splits(folder):
    """Content -> split of each input that is used."""
    return {row["content"]: row["split"] for row in read_inputs(folder).values() if row["kept"]}


def test_another_root_gives_the_same_splits(tmp_path):
    """40 pictures by themselves, and under other names in an archive elsewhere."""
    one, other = tmp_path / "one", tmp_path / "elsewhere" / "deep"
    one.mkdir()
    other.mkdir(parents=True)
    pictures = [jpeg(shot(seed, 1, 16, 16)[0]) for seed in range(40)]
    for index, data in enumerate(pictures):
        (one / f"{index}.jpg").write_bytes(data)
    members = {f"{index:03d}x.jpg": data for index, data in enumerate(reversed(pictures))}
    archive(other / "a.tar", members)
    for source, out in ((one, "out_1"), (other, "out_2")):
        ingest(str(source), tmp_path / out, IMAGES, validation_fraction=0.3, progress=False)
    found = splits(tmp_path / "out_1" / "images")
    assert found == splits(tmp_path / "out_2" / "images") and len(found) == 40
    assert set(found.values()) == {TRAIN, VALIDATION}
    assert found == {identify(data): name_split(identify(data), 0.3) for data in pictures}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    for index in range(4):
        film_file(root / f"{index}.mp4", index)
    folder_of_frames(root / "pictures", shot(77, 12))
    return root


def test_films_keep_their_split_under_other_names(films, tmp_path):
    other = tmp_path / "films" / "b"
    shutil.copytree(films, other)
    (other / "0.mp4").rename(other / "9.mp4")
    (other / "pictures").rename(other.parent / "a")
    for source, out in ((films, "out_1"), (other.parent, "out_2")):
        ingest(str(source), tmp_path / out, CLIPS, validation_fraction=0.5, progress=False)
    found = splits(tmp_path / "out_1" / "clips")
    assert found == splits(tmp_path / "out_2" / "clips") and len(found) == 5
    assert identify_path(films / "pictures") in found


def test_the_share_that_is_held_out(tmp_path):
    held = sum(name_split(identify(b"%d" % index), 0.1) == VALIDATION for index in range(10_000))
    assert 900 < held < 1100
