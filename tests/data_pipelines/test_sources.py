"""Streams of a config's data: proportions, kinds, hosts, resuming, augmentation, damage."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import encoded_files
import grain
import numpy as np
import pytest
from footage_files import Images as ImagesBuilder
from footage_files import image, number_of, write, write_footage
from ml_collections import ConfigDict

from gen1_jax.data_pipelines import mixture
from gen1_jax.data_pipelines.sources import (
    make_buckets,
    make_stream,
    make_validation_streams,
    open_raw,
    read_preview_batch,
)
from gen1_jax.errors import UserError

SIZE = (32, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_footage(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second folder: clips 0 to 3, and images of one of the sizes."""
    return str(write_footage(tmp_path_factory.mktemp("other"), 4, {SIZE: 6}))


def open_train(folders):
    return open_raw({"form": "footage", "folder": folders}, "train")


def make(folders, sources=(), image_fraction=0.125, **settings):
    """A stream over folders; `sources` are the arguments of `make_buckets`."""
    videos, images = make_buckets(open_train(folders), buckets=(SIZE,), **dict(sources))
    options = {"batch_size": 2, "num_frames": 4, "image_batch_size": 4, "num_threads": 0}
    return mixture.make_raw_stream(
        videos, images, image_fraction=image_fraction, **{**options, **settings}
    )


def equal(one, two):
    one, two = one.fields(), two.fields()
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype
        and one[k].shape == two[k].shape
        and one[k].tobytes() == two[k].tobytes()
        for k in one
    )


def test_batches_are_clips_and_images_of_the_right_sizes(folder):
    stream = make(folder)
    shapes = [next(stream).frames.shape for _ in range(64)]
    assert shapes[:8] == [(2, 4, *SIZE, 3)] * 7 + [shapes[7]]
    images = [shape for shape in shapes if shape[1] == 1]
    # The folder has nine and three images of these sizes.
    assert images.count((4, 1, *SIZE, 3)) == 6 and images.count((4, 1, 48, 32, 3)) == 2


def test_one_step_in_eight_is_images_never_two_in_a_row_alike_on_every_host(folder):
    """Mixes labels in place of batches, by the shares of the folder's buckets."""
    videos, images = make_buckets(open_train(folder), buckets=(SIZE,))
    shares = [[bucket.share for bucket in each] for each in (videos, images)]
    hosts = []
    for process in range(2):
        kinds = [
            [
                grain.MapDataset.source([(kind, bucket.size)]).repeat()[process::2]
                for bucket in buckets
            ]
            for kind, buckets in (("video", videos), ("image", images))
        ]
        mixed = mixture.mix(*kinds, shares=shares)
        hosts.append([mixed[step] for step in range(8000)])
    assert hosts[0] == hosts[1]
    drawn = np.array([kind == "image" for kind, _ in hosts[0]])
    assert drawn.sum() == 1000 and not (drawn[1:] & drawn[:-1]).any()
    sizes = [size for kind, size in hosts[0] if kind == "image"]
    assert sizes.count(SIZE) == 750  # nine images to three


def test_every_clip_and_image_is_read_as_often(folder):
    clips = make(folder, image_fraction=0.0)
    read = np.concatenate([number_of(next(clips).frames[:, 0]) for _ in range(18)])
    assert np.bincount(read).tolist() == [3] * 12
    images = make(folder, image_fraction=1.0)
    read = {SIZE: [], (48, 32): []}
    for _ in range(12):
        frames = next(images).frames
        read[frames.shape[2:4]].extend(number_of(frames[:, 0]))
    assert np.bincount(read[SIZE]).tolist() == [4] * 9
    assert np.bincount(read[48, 32]).tolist() == [4] * 3


def test_crops_are_random_and_not_scaled(tmp_path):
    """An image that is larger than its bucket in one direction is cropped, not scaled."""
    y, x = np.mgrid[:32, :64]
    write(ImagesBuilder, tmp_path, {"train_32x48": [_picture(np.stack([x, y, 0 * x], -1) * 3)]})
    frames = np.concatenate(
        [next(make([str(tmp_path)], image_fraction=1.0, seed=s)).frames for s in range(6)]
    )
    assert frames.shape == (24, 1, *SIZE, 3)
    left = np.rint(frames[:, 0, :, 4, 0].mean(1) / 3) - 4
    assert left.min() >= 0 and left.max() <= 17 and len(set(left)) > 6
    np.testing.assert_allclose(np.diff(frames[:, 0, 10:20, 8:40, 0].mean((0, 1))).mean(), 3, 0.05)


def _picture(frame):
    from gen1_jax.data_pipelines.footage import records

    return records.encode_image(frame.astype(np.uint8), "", "ramp.png", quality=98)


def test_flips_are_seeded_by_step_and_record(tmp_path):
    half = np.zeros((*SIZE, 3), np.uint8)
    half[:, 24:] = 200
    write(ImagesBuilder, tmp_path, {"train_32x48": [_picture(half)]})
    settings = {"image_fraction": 1.0, "flip": True, "image_batch_size": 40}
    one, two = (make([str(tmp_path)], **settings) for _ in range(2))
    first, second = next(one).frames, next(one).frames
    mirrored = first[:, 0, 16, 8, 0] > 100
    assert 8 < mirrored.sum() < 32
    assert (mirrored != (second[:, 0, 16, 8, 0] > 100)).any()
    np.testing.assert_array_equal(first[mirrored][0], first[~mirrored][0][:, :, ::-1])
    two.set_state({"next_index": 1})
    assert next(two).frames.tobytes() == second.tobytes()


def test_interrupted_and_resumed_the_next_batches_are_equal(folder):
    settings = {"flip": True, "num_threads": 1, "seed": 5}
    stream = make(folder, num_workers=2, **settings)
    for _ in range(13):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    want = [next(stream) for _ in range(40)]
    stream.close()
    # The resumed stream has threads in place of processes, and has read something else before.
    resumed = make(folder, **settings | {"num_threads": 2})
    next(resumed)
    resumed.set_state(state)
    assert all(equal(next(resumed), batch) for batch in want)
    resumed.close()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2), (2, 4)])
def test_another_number_of_hosts_goes_on_with_the_same_batches(folder, before, after):
    settings = {"batch_size": 8, "image_batch_size": 8, "flip": True}

    def hosts(count):
        return [
            make(folder, rows=lambda size, n, i=i: np.split(np.arange(size), count)[i], **settings)
            for i in range(count)
        ]

    def together(streams):
        parts = [next(stream).frames for stream in streams]
        assert len({part.shape for part in parts}) == 1
        return np.concatenate(parts)

    whole = make(folder, **settings)
    first = hosts(before)
    for _ in range(13):
        assert together(first).tobytes() == next(whole).frames.tobytes()
    states = [stream.get_state() for stream in first]
    assert all(state == states[0] for state in states)
    second = hosts(after)
    for stream in second:
        stream.set_state(states[0])
    for _ in range(20):
        assert together(second).tobytes() == next(whole).frames.tobytes()


def test_folders_by_weight_in_every_batch(folder, other):
    settings = {"image_fraction": 0.0, "batch_size": 8}
    # Clips from number 4 are in the first folder only, which has 12 of the 16 clips.
    stream = make([folder, other], **settings)
    read = np.concatenate([number_of(next(stream).frames[:, 0]) for _ in range(12)])
    assert np.bincount(read).tolist() == [12] * 4 + [6] * 8
    stream = make([folder, other], sources={"weights": (1, 3)}, **settings)
    for _ in range(3):
        assert (number_of(next(stream).frames[:, 0]) < 4).sum() >= 6
    images = make([folder, other], sources={"weights": (1, 1)}, image_fraction=1.0)
    shapes = [next(images).frames.shape[2:4] for _ in range(16)]
    assert shapes.count((48, 32)) == 2  # a quarter of the first folder's half


def test_image_buckets_by_choice_and_weight(folder):
    stream = make(folder, {"image_buckets": ((48, 32),)}, image_fraction=1.0)
    assert next(stream).frames.shape == (4, 1, 48, 32, 3)
    sources = {"image_buckets": (SIZE, (48, 32)), "image_weights": (1, 3)}
    stream = make(folder, sources, image_fraction=1.0)
    shapes = [next(stream).frames.shape[2:4] for _ in range(20)]
    assert shapes.count((48, 32)) == 15


def test_without_images_frames_of_clips_serve(tmp_path):
    clips = str(write_footage(tmp_path, images={}))
    stream = make(clips, image_fraction=0.5)
    shapes = {next(stream).frames.shape for _ in range(4)}
    assert shapes == {(2, 4, *SIZE, 3), (4, 1, *SIZE, 3)}
    stream = make(clips, {"image_buckets": ((16, 16),)}, image_fraction=1.0)
    assert next(stream).frames.shape == (4, 1, 16, 16, 3)


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ({"image_buckets": ((64, 64),)}, r"no images of \(64, 64\)"),
        ({"image_weights": (1,)}, "1 image_weights for 2"),
        ({"weights": (1, 2)}, "1 folders .* 2 weights"),
        ({"image_weights": (1, 0)}, "above 0"),
    ],
)
def test_bad_settings(folder, sources, says):
    with pytest.raises(UserError, match=says):
        make(folder, sources)


def test_images_alone_cannot_make_videos(tmp_path):
    images = str(write_footage(tmp_path, clips=0))
    assert next(make(images, image_fraction=1.0)).frames.shape[1] == 1
    with pytest.raises(UserError, match="needs videos"):
        make(images)


def test_a_damaged_record_neither_stops_nor_hides(tmp_path):
    records = [image(i, SIZE) for i in range(4)]
    records[2]["image"] = records[2]["image"][:200]
    write(ImagesBuilder, tmp_path, {"train_32x48": records})
    stream = make([str(tmp_path)], image_fraction=1.0)
    with pytest.warns(UserWarning, match=r"2\.jpg is damaged.*1 of 4 records so far"):
        read = np.concatenate([number_of(next(stream).frames[:, 0]) for _ in range(5)])
    assert len(read) == 20 and set(read) == {0, 1, 3}
    records[3]["image"] = b""
    write(ImagesBuilder, tmp_path / "two", {"train_32x48": records})
    with pytest.warns(UserWarning), pytest.raises(UserError, match="2 of 4 records are damaged"):
        next(make([str(tmp_path / "two")], image_fraction=1.0))


READS = """
import sys
from gen1_jax.data_pipelines import mixture
from gen1_jax.data_pipelines.raw import make_buckets, open_raw

if __name__ == "__main__":
    data = open_raw({"form": "footage", "folder": sys.argv[1]}, "train")
    videos, _ = make_buckets(data, buckets=((32, 48),))
    stream = mixture.make_raw_stream(
        videos, batch_size=2, num_frames=4, image_fraction=0, num_workers=1
    )
    next(stream)
    import multiprocessing

    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read()
"""


def test_readers_end_with_a_run_that_is_killed(folder, tmp_path):
    script = tmp_path / "reads.py"
    script.write_text(READS)
    command = [sys.executable, script, folder]
    root = Path(mixture.__file__).parents[1]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    with process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert workers
    for _ in range(300):
        if not any(map(_runs, workers)):
            return
        time.sleep(0.1)
    pytest.fail(f"{workers} are still there")


def _runs(pid):
    """Returns whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# ---- by a config


def config(folder, **fields):
    return ConfigDict(
        {
            "form": "footage",
            "folder": folder,
            "fields": ("frames",),
            "batch_size": 2,
            "image_batch_size": 4,
            "image_fraction": 0.125,
            "num_frames": 4,
            "stride": 1,
            "buckets": (SIZE,),
            "flip": True,
            "num_threads": 1,
            "num_workers": 0,
            **fields,
        }
    )


def test_a_config_names_footage(folder, other):
    stream = make_stream(config(folder), seed=3)
    wanted = make(folder, flip=True, seed=3)
    assert all(equal(next(stream), next(wanted)) for _ in range(10))
    both = make_stream(config((folder, other), weights=(1, 1)), seed=3)
    assert next(both).frames.shape == (2, 4, *SIZE, 3)


def test_previews_come_from_the_validation_split_if_there_is_one(folder, tmp_path):
    frames = read_preview_batch(config(folder)).frames
    assert set(number_of(frames[:, 0])) == {50, 51}
    no_split = str(write_footage(tmp_path, clips=0))
    preview = read_preview_batch(config(no_split, image_fraction=1.0))
    assert preview.frames.shape[:2] == (4, 1)


def test_a_size_that_the_validation_split_lacks_is_left_out(folder, tmp_path):
    both = {"image_buckets": (SIZE, SIZE[::-1]), "image_fraction": 0.5}
    write_footage(tmp_path, clips=2, images={})
    numbers = {f"train_{h}x{w}": (h, w) for h, w in both["image_buckets"]}
    numbers["validation_32x48"] = SIZE
    write(ImagesBuilder, tmp_path, {name: [image(0, size)] for name, size in numbers.items()})
    data = config(str(tmp_path), **both)
    assert next(make_stream(data, seed=0)).size  # training reads both kinds
    assert read_preview_batch(data).num_frames == 4
    with pytest.warns(UserWarning, match="no images of .48, 32.*: the others are read"):
        streams = make_validation_streams(data)
    assert list(streams) == ["video", "image"]
    with pytest.warns(UserWarning, match="no images of .48, 32."):
        assert next(streams["image"]()).frames.shape == (4, 1, *SIZE, 3)


@pytest.mark.parametrize("form", ["footage", "encoded"])
def test_a_stage_of_images_opens_no_clips(folder, tmp_path, form):
    settings = config(str(tmp_path)).to_dict()
    if form == "footage":
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    else:
        encoded_files.write_folder(tmp_path / "clips" / "train")
        encoded_files.write_folder(tmp_path / "images_48x48" / "train")
        settings = {"form": form, "folder": str(tmp_path), "batch_size": 2}
    settings["image_fraction"] = 1.0
    before = [next(make_stream(settings, 0, split)) for split in ("train", "validation")]
    files = [path for path in (tmp_path / "clips").rglob("*") if path.is_file()]
    shards = [path for path in files if path.suffix != ".json"]
    assert shards
    for shard in shards:
        shard.write_bytes(b"")
    after = [next(make_stream(settings, 0, split)) for split in ("train", "validation")]
    assert all(map(equal, before, after))
    with pytest.raises((UserError, UserWarning)):  # where clips are read, it is noticed
        mixed = make_stream(settings | {"image_fraction": 0.5}, 0)
        next(mixed), next(mixed)


def test_unknown_forms(folder):
    with pytest.raises(UserError, match="accepted: raw, footage, tfds, encoded"):
        make_stream(config(folder, form="film"), seed=0)
