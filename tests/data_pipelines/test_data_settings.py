"""Settings of data: whatever a mapping holds, the answer is a stream or one line."""

import dataclasses
import random

import pytest
from encoded_files import write_folder
from footage_files import write_footage
from ml_collections import ConfigDict

from gen1_jax.data_pipelines.settings import (
    FORMS,
    SOURCES,
    check_data,
    check_source,
    switch_form,
)
from gen1_jax.data_pipelines.sources import (
    complete,
    make_stream,
    make_validation_streams,
    open_raw,
    read_preview_batch,
)
from gen1_jax.errors import UserError
from gen1_jax.settings import describe

WHOLE = {
    "raw": {"form": "raw", "world": "nowhere", "builder": "test"},
    "footage": {"form": "footage", "folder": "nowhere"},
    "tfds": {"form": "tfds", "dataset": "films", "data_dir": "nowhere"},
    "encoded": {"form": "encoded", "folder": "nowhere"},
}
VALUES = [
    None, True, 0, -1, 3, 2**70, 0.5, float("nan"), float("inf"), 1e300, "", "x", "../x", b"x",
    (), [], {}, (1,), ((1,),), ((0, 0),), ((8, 8),), ((8, 8), 3), ("frames",), ("latents", "x"),
    {"a": 1}, {1: 2}, object(), [None], (2.5,), "frames", ((8, "8"),), range(3), {3},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_setting_is_described(form):
    for each in describe(FORMS[form]):
        assert each.doc and "\n" not in each.doc
        assert not each.is_required or each.name in WHOLE[form]


@pytest.mark.parametrize("form", FORMS)
def test_no_mapping_ends_in_anything_but_one_line(form):
    """Each setting with each wrong value, and mappings that are mutated at random."""
    names = [field.name for kind in FORMS.values() for field in dataclasses.fields(kind)]
    names = [*dict.fromkeys(names), "size", "foldr", "", 3, None]
    rng = random.Random(0)
    mappings = [WHOLE[form] | {name: value} for name in names for value in VALUES]
    for _ in range(600):
        mutated = dict(WHOLE[form])
        for _ in range(rng.randrange(1, 4)):
            if rng.random() < 0.2 and mutated:
                mutated.pop(rng.choice(list(mutated)))
            else:
                mutated[rng.choice(names)] = rng.choice(VALUES)
        mappings.append(mutated)
    refused = 0
    for mapping in mappings:
        for read in (check_data, check_source):
            try:
                read(mapping)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 700
    assert refused > 1000


@pytest.mark.parametrize("data", [None, 3, "raw", (), [("form", "raw")], {}, {"form": None}])
def test_what_is_no_data(data):
    for read in (make_stream, read_preview_batch, make_validation_streams):
        with pytest.raises(UserError, match="data"):
            read(data, 0) if read is make_stream else read(data)
    with pytest.raises(UserError, match="data"):
        open_raw(data, "train")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"form": "footge"}, "'footge'; accepted: raw, footage, tfds, encoded.*mean 'footage'"),
        ({"form": "footage"}, "data.folder is missing"),
        ({"form": "footage", "folder": 3}, r"data.folder is 3 \(a whole number\); text or a list"),
        ({"form": "footage", "folder": ()}, "data.folder is (); at least one"),
        (
            {"folder": "x", "num_frame": 8},
            "no key 'data.num_frame'; did you mean 'data.num_frames'",
        ),
        (
            {"folder": "x", "stride": 2},
            "data.stride is a setting of form raw, footage and tfds, and data",
        ),
        ({"folder": "x", "batch_size": 0}, "data.batch_size is 0; a whole number of 1 or more"),
        (
            {"folder": "x", "levels": (8,)},
            r"data.levels is \(8,\); a list of whole numbers from",
        ),
        ({"folder": "x", "levels": ()}, r"data.levels is \(\); at least one"),
        (
            {"folder": "x", "fields": ("frames",)},
            "data.fields is .'frames',.; a list, each 'latents",
        ),
        ({"folder": "x", "image_fraction": 2}, "data.image_fraction is 2; a number from 0 to 1"),
    ],
)
def test_wrong_settings_name_what_is_accepted(change, says):
    with pytest.raises(UserError, match=says.replace("();", r"\(\);")):
        check_data({"form": "encoded"} | change)


def test_another_form_keeps_what_means_the_same():
    data = {"form": "encoded", "folder": "x", "buckets": ((4, 4),), "batch_size": 3, "levels": (0,)}
    assert switch_form(data, "footage") == {"form": "footage", "batch_size": 3, "levels": (0,)}
    assert switch_form(data, "encoded") == data
    assert SOURCES.keys() - FORMS.keys() == {"pictures"}  # which no part trains on as they are


# ---- what follows from the data


def test_footage_says_its_sizes(tmp_path):
    folder = write_footage(tmp_path)
    settings = complete(ConfigDict({"form": "footage", "folder": str(folder), "batch_size": 2}))
    assert (settings.num_frames, settings.buckets) == (4, ((32, 48),))
    assert (settings.image_fraction, settings.image_batch_size) == (0.125, 8)
    assert complete({"form": "footage", "folder": folder, "stride": 3}).num_frames == 2
    given = {"num_frames": 3, "buckets": ((16, 16),), "image_fraction": 0.5, "image_batch_size": 5}
    data = {"form": "footage", "folder": folder, "batch_size": 2, "num_threads": 0}
    shapes = {next(make_stream(data | given, 0)).frames.shape for _ in range(1)}
    assert shapes == {(2, 3, 16, 16, 3)}
    assert next(make_stream(data, 0)).frames.shape == (2, 4, 32, 48, 3)


def test_images_alone_are_read_as_images(tmp_path):
    folder = write_footage(tmp_path, clips=0)
    data = {"form": "footage", "folder": folder, "batch_size": 4, "num_threads": 0}
    assert complete(data).image_fraction == 1
    assert next(make_stream(data, 0)).frames.shape[:2] == (4, 1)
    assert read_preview_batch(data).frames.shape[:2] == (4, 1)
    with pytest.warns(UserWarning, match="no held-out loss of images: .*--validation-fraction"):
        assert make_validation_streams(data) == {}


@pytest.fixture
def encoded(tmp_path):
    """What `gen1 precompute` makes of footage with images of two sizes."""
    for name in ("clips/train", "clips/validation", "images_12x12/train", "images_16x8/train"):
        write_folder(tmp_path / name)
    return tmp_path


def test_the_folder_of_encoded_footage_is_enough(encoded):
    data = {"form": "encoded", "folder": encoded}
    settings = complete(data)
    found = tuple(str(encoded / name) for name in ("images_12x12", "images_16x8"))
    assert settings.image_folders == found and settings.image_buckets == ((6, 6), (6, 6))
    assert (settings.num_frames, settings.buckets) == (4, ((6, 6),))
    assert (settings.image_fraction, settings.image_batch_size) == (0.125, 32)
    whole = {"buckets": ((6, 6),), "image_folders": found, "num_frames": 4, "image_fraction": 0.125}
    whole |= {"folder": encoded / "clips", "batch_size": 2, "image_buckets": ((6, 6), (6, 6))}
    one, other = (
        make_stream(each, 3) for each in (data | {"batch_size": 2}, data | whole)
    )  # the same batches as with everything said
    for _ in range(10):
        one_batch, other_batch = next(one).fields(), next(other).fields()
        assert all(v.tobytes() == other_batch[k].tobytes() for k, v in one_batch.items())
    with pytest.warns(UserWarning, match="no held-out loss of images: .*no validation split"):
        assert list(make_validation_streams(data)) == ["video"]


def test_images_that_were_not_ingested_are_left_out_and_said(encoded):
    names = ("images_12x12", "images_9x9")
    data = {"form": "encoded", "folder": encoded / "clips", "image_fraction": 0.5}
    data["image_buckets"] = ((6, 6), (5, 5))
    with pytest.warns(UserWarning, match="no encoded images in .*images_9x9; the other sizes"):
        stream = make_stream(data | {"image_folders": [encoded / name for name in names]}, 0)
    assert {next(stream).num_frames for _ in range(4)} == {1, 4}
    with pytest.raises(UserError, match=f"gen1 precompute .* --workdir {encoded}` make them"):
        make_stream(data | {"image_folders": [encoded / "a", encoded / "b"]}, 0)


def test_missing_encoded_data_name_the_command(tmp_path):
    for folder in (tmp_path, tmp_path / "gone", tmp_path / "gone" / "clips"):
        with pytest.raises(UserError, match="gen1 precompute --config NAME:encoded --workdir"):
            make_stream({"form": "encoded", "folder": folder}, 0)
    write_folder(tmp_path / "images_12x12" / "train")
    images = {"form": "encoded", "folder": tmp_path}
    assert next(make_stream(images, 0)).num_frames == 1
    with pytest.raises(UserError, match="holds no encoded clips; "):
        make_stream(images | {"image_fraction": 0.5}, 0)
