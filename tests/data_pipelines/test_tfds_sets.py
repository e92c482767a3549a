"""Data sets that TensorFlow Datasets has prepared, read by name: videos, images, captions, classes.

The fixtures are real data sets, which TFDS writes here without TensorFlow.
"""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from gen1_jax.data_pipelines.quiet import silent_tfds
from gen1_jax.data_pipelines.raw import open_raw
from gen1_jax.data_pipelines.sources import complete, make_stream
from gen1_jax.data_pipelines.to_encode import complete_source, open_records
from gen1_jax.errors import Damaged, UserError

COLOURS = ("red", "green_apple", "blue")


def frames(index, n=6, size=(12, 20), channels=3):
    rng = np.random.default_rng(index)
    return rng.integers(0, 255, (n, *size, channels), dtype=np.uint8)


def png(picture):
    """The file of a picture: TFDS itself encodes pictures by TensorFlow."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


class _Set(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    code_path = epath.Path(__file__)
    pkg_dir_path = epath.Path(__file__).parent
    counts = {"train": 5, "validation": 2}

    def _info(self):
        features = tfds.features.FeaturesDict(self.features())
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self.examples(count) for split, count in self.counts.items()}

    def _generate_examples(self, *args):
        raise NotImplementedError

    def examples(self, count):
        return ((i, self.example(i)) for i in range(count))


class Films(_Set):
    name = "films"

    def features(self):
        return {
            "video": tfds.features.Sequence(tfds.features.Image(shape=(12, 20, 3))),
            "poster": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=COLOURS),
        }

    def example(self, i):
        video = [png(frame) for frame in frames(i)]
        return {"video": video, "poster": png(frames(i, 1, (8, 8))[0]), "label": i % 3}


class Photos(_Set):
    name = "photos"

    def features(self):
        return {
            "image": tfds.features.Image(),
            "words": {"captions": tfds.features.Sequence({"text": tfds.features.Text()})},
        }

    def example(self, i):
        text = [{"text": f"photo {i}"}, {"text": "another"}] if i else []
        return {"image": png(frames(i, 1, (10 + i, 16))[0]), "words": {"captions": text}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    with silent_tfds():
        for builder in (Films, Photos):
            builder(data_dir=str(root), file_format="array_record").download_and_prepare()
    return str(root)


def settings(data_dir, dataset="films", **others):
    return {"form": "tfds", "data_dir": data_dir, "dataset": dataset} | others


def as_tfds_gives(data_dir, name, split):
    """What TFDS itself reads."""
    with silent_tfds():
        return tfds.builder_from_directory(f"{data_dir}/{name}/1.2.0").as_data_source(split)


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("validation", 2)])
def test_videos_are_those_of_as_data_source(data_dir, split, count):
    (opened,) = open_raw(settings(data_dir, caption="label"), split)
    clips, wanted = opened.clips.examples, as_tfds_gives(data_dir, "films", split)
    assert len(clips) == len(wanted) == count and not opened.images
    for i in range(count):
        np.testing.assert_array_equal(clips[i]["frames"], wanted[i]["video"])
        assert clips[i]["caption"] == COLOURS[wanted[i]["label"]].replace("_", " ")
    without = open_raw(settings(data_dir), split)[0].clips.examples
    assert "caption" not in without[0]


def test_a_video_is_read_without_tensorflow(data_dir, tmp_path):
    """TFDS stores a Video as a list of images; its own class of it needs TensorFlow."""
    shutil.copytree(f"{data_dir}/films", tmp_path / "films")
    path = tmp_path / "films/1.2.0/features.json"
    stored = json.loads(path.read_text())
    stored["featuresDict"]["features"]["video"] = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {"shape": {"dimensions": ["-1", "12", "20", "3"]}, "encodingFormat": "png"},
    }
    path.write_text(json.dumps(stored))
    one, other = (
        open_raw(settings(str(place)), "train")[0].clips.examples for place in (tmp_path, data_dir)
    )
    np.testing.assert_array_equal(one[3]["frames"], other[3]["frames"])


def test_images_are_cropped_to_the_sizes_that_are_asked_for(data_dir):
    asked = settings(data_dir, "photos:1.2.0", image_buckets=((8, 8), (8, 16)))
    (opened,) = open_raw(asked, "train")
    wanted = as_tfds_gives(data_dir, "photos", "train")
    assert opened.clips is None and set(opened.images) == {(8, 8), (8, 16)}
    examples = opened.images[8, 8].examples
    captions = []
    for i in range(5):
        np.testing.assert_array_equal(examples[i]["frames"], wanted[i]["image"][None])
        captions.append(examples[i]["caption"])
    assert sorted(captions) == ["", "photo 1", "photo 2", "photo 3", "photo 4"]
    with pytest.raises(UserError, match="photos holds images; data.image_buckets names"):
        open_raw(settings(data_dir, "photos"), "train")


def test_training_reads_them(data_dir):
    fields = ("frames", "structure_level", "content_frame")
    batches = {"batch_size": 2, "image_batch_size": 4, "fields": fields, "num_threads": 0}
    asked = settings(data_dir, num_frames=4, image_fraction=0.5, **batches)
    assert complete(asked).buckets == ((12, 20),)
    stream = make_stream(asked, seed=0)
    shapes = {next(stream).frames.shape for _ in range(4)}
    assert shapes == {(2, 4, 12, 20, 3), (4, 1, 12, 20, 3)}
    photos = settings(data_dir, "photos", image_buckets=((8, 8),), **batches)
    assert complete(photos).image_fraction == 1 and complete(photos).num_frames == 1
    batch = next(make_stream(photos | {"shuffle_window": 1}, seed=0))
    assert batch.frames.shape == (4, 1, 8, 8, 3)


def test_precompute_takes_them(data_dir):
    source = complete_source(settings(data_dir), ("train", "validation"))
    assert source.size == (12, 20)
    folders = [
        raw.folder for split in ("train", "validation") for raw in open_records(source, split)
    ]
    assert folders == ["clips/train", "clips/validation"]
    photos = complete_source(settings(data_dir, "photos", image_buckets=((8, 8),)), ("train",))
    (raw,) = open_records(photos, "train")
    assert raw.folder == "images_8x8/train" and raw.clip(0)["frames"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "movies"}, "no TFDS data set movies is prepared in"),
        ({"dataset": "films:9.9.9"}, "no TFDS data set films:9.9.9 is prepared"),
        ({"frames": "label"}, "data.frames 'label' names no single .*there: poster, video"),
        ({"caption": "title"}, "data.caption 'title' names no single .*there: label"),
        (
            {"train_split": "test"},
            r"no split 'test' \(data.train_split\); there: train",
        ),
        ({"frames": "poster"}, "data.image_buckets names the sizes"),
        ({"data_dir": "gs://bucket/sets"}, "gs://bucket/sets: a TFDS data set is read from a disk"),
    ],
)
def test_what_is_not_there_is_one_line(data_dir, change, says):
    with pytest.raises(UserError, match=says) as caught:
        open_raw(settings(data_dir) | change, "train")
    assert "\n" not in str(caught.value)


def test_files_of_another_form_are_named(data_dir, tmp_path):
    info = json.loads(open(f"{data_dir}/films/1.2.0/dataset_info.json").read())
    folder = tmp_path / "films" / "1.2.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(open(f"{data_dir}/films/1.2.0/features.json").read())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="stored as tfrecord; array_record is accepted"):
        open_raw(settings(str(tmp_path)), "train")
    info["fileFormat"] = "array_record"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="lacks films-train.array_record-00000-of-00001"):
        open_raw(settings(str(tmp_path)), "train")


def test_a_damaged_record_is_replaced(data_dir, tmp_path):
    shutil.copytree(f"{data_dir}/films", tmp_path / "films")
    (path,) = (tmp_path / "films/1.2.0").glob("films-train*")
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    clips = open_raw(settings(str(tmp_path)), "train")[0].clips.examples
    with pytest.warns(UserWarning, match="record . of .*films, train is damaged") as noted:
        replaced = [int(clips[i]["replaced"]) for i in range(5)]
    assert sum(replaced) == len(noted) == 1
    with pytest.raises(Damaged):
        clips._source[replaced.index(1)]


def test_tensorflow_is_not_needed(data_dir):
    code = (
        "import sys\n"
        "from gen1_jax.data_pipelines.raw import open_raw\n"
        f"(opened,) = open_raw({settings(data_dir)!r}, 'train')\n"
        "print(opened.clips.examples[0]['frames'].shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(6, 12, 20, 3) False\n"
