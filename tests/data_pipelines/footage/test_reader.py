"""Reading ingested folders: their content, missing files, and damage."""

import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from footage_files import number_of, write_footage

from gen1_jax.data_pipelines.footage.reader import open_footage
from gen1_jax.data_pipelines.footage.records import decode_clip, decode_image
from gen1_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_footage(tmp_path_factory.mktemp("data"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_what_is_in_a_folder(folder):
    footage = open_footage(folder)
    assert footage.splits() == ["train", "validation"]
    assert len(footage.clips("train")) == 12 and len(footage.clips("validation")) == 2
    assert {k: len(v) for k, v in footage.images("train").items()} == {(32, 48): 9, (48, 32): 3}
    assert footage.images("validation") == {}


def test_records_come_back(folder):
    footage = open_footage(str(folder))
    for number in range(12):
        clip = decode_clip(footage.clips("train")[number])
        assert clip["caption"] == f"clip {number}" and clip["start"] == number
        assert number_of(clip["frames"][0]) == number
        np.testing.assert_allclose(clip["times"], np.arange(4) / 6)
    image = decode_image(footage.images("train")[48, 32][2])
    assert image["frames"].shape == (1, 48, 32, 3) and number_of(image["frames"][0]) == 2


def test_the_pace_of_clips(copy):
    """Frames a sixth of a second apart, every 4th of their source: 24 frames a second."""
    assert open_footage(copy).pace("train") == {}  # no report says the stride
    (copy / "clips/report.json").write_text(json.dumps({"asked": {"settings": {"stride": 4}}}))
    assert open_footage(copy).pace("train") == {"stride": 4, "frame_rate": 24.0}
    assert open_footage(copy).pace("test") == {}


def test_records_go_to_other_processes(folder):
    clips = pickle.loads(pickle.dumps(open_footage(folder).clips("train")))
    assert number_of(decode_clip(clips[5])["frames"][0]) == 5


def test_clips_or_images_alone(tmp_path):
    clips = open_footage(write_footage(tmp_path / "clips", images={}))
    assert clips.images("train") == {} and clips.has_clips("train")
    images = open_footage(write_footage(tmp_path / "images", clips=0))
    assert images.splits() == ["train"] and not images.has_clips("train")
    with pytest.raises(UserError, match="no clips of split 'train'"):
        images.clips("train")


def test_reading_needs_neither_beam_nor_tensorflow(folder):
    code = (
        "import sys\n"
        "from gen1_jax.data_pipelines.footage.reader import open_footage\n"
        "from gen1_jax.data_pipelines.footage.records import decode_clip\n"
        f"clip = decode_clip(open_footage({str(folder)!r}).clips('train')[0])\n"
        "print(len(clip['frames']), {'apache_beam', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["4", "set()"], done.stderr


def test_folders_that_are_none(tmp_path, folder):
    for wrong in (tmp_path, tmp_path / "nowhere", folder / "clips"):
        with pytest.raises(UserError, match="is not there|no clips or images"):
            open_footage(wrong)
    with pytest.raises(UserError, match="split 'test'"):
        open_footage(folder).clips("test")


def test_a_file_that_is_missing(copy):
    file = next((copy / "clips/1.0.0").glob("*train.array_record*"))
    file.unlink()
    with pytest.raises(UserError, match=f"lacks {file.name}"):
        open_footage(copy)


def test_records_of_another_form(copy):
    features = copy / "clips/1.0.0/features.json"
    content = json.loads(features.read_text())
    names = content["featuresDict"]["features"]
    names["sound"] = names.pop("times")
    features.write_text(json.dumps(content))
    with pytest.raises(UserError, match="clips.* records of .*sound"):
        open_footage(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 3}'])
def test_an_unreadable_description(copy, content):
    (copy / "clips/1.0.0/dataset_info.json").write_text(content)
    with pytest.raises(UserError, match="clips.*cannot be read|no clips"):
        open_footage(copy)


def test_a_flipped_bit_is_found(copy):
    file = next((copy / "clips/1.0.0").glob("*train.array_record*"))
    whole = [open_footage(copy).clips("train")[i]["video"] for i in range(12)]
    content = bytearray(file.read_bytes())
    content[content.index(bytes(4096)) // 2] ^= 1  # zeros follow the records
    file.write_bytes(content)
    clips, damaged = open_footage(copy).clips("train"), []
    for number in range(12):
        try:
            assert clips[number]["video"] == whole[number]
        except UserError as error:
            text = f"record {number} of .*clips, train is damaged: .*hash mismatch"
            assert re.match(text, str(error))
            damaged.append(number)
    assert len(damaged) == 1
