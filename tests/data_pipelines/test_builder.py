"""The TFDS builder of moving shapes: round trip without TensorFlow, splits, bad names."""

import importlib.util

import numpy as np
import pytest

from gen1_jax.data_pipelines.moving_shapes import builder, records
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder.build(folder, "test", progress=False)
    return folder


def test_tensorflow_is_not_needed(data_dir):
    assert importlib.util.find_spec("tensorflow") is None
    assert len(builder.load(data_dir, "test", "train")) == 24


def test_round_trip(data_dir):
    source = builder.load(data_dir, "test", "test")
    for index in range(len(source)):
        example = records.decode_example(source[index])
        assert example["seed"] == builder.split_seed("test", index)
        clip = render(example["seed"], size=builder.CONFIGS["test"].size)
        np.testing.assert_array_equal(example["frames"], clip.frames)
        np.testing.assert_array_equal(example["mask"], clip.mask)
        np.testing.assert_allclose(example["depth"], clip.depth, atol=1e-5)
        assert example["caption"] == clip.caption and example["truth"] == clip.truth


def test_splits_do_not_overlap(data_dir):
    seen: dict[bytes, str] = {}
    for split in builder.SPLITS:
        for record in builder.load(data_dir, "test", split):
            assert seen.setdefault(record["video"], split) == split
    assert len(seen) == 40
    ends = [(builder.split_seed(s, 0), builder.split_seed(s, 2**32 - 1)) for s in builder.SPLITS]
    assert all(a[1] < b[0] for a, b in zip(ends, ends[1:], strict=False))


def test_second_build_reads_what_is_there(data_dir, monkeypatch):
    def never(*_, **__):
        raise AssertionError("rendered again")

    monkeypatch.setattr(builder, "render", never)
    assert {k: len(v) for k, v in builder.build(data_dir, "test").items()} == {
        "train": 24,
        "validation": 8,
        "test": 8,
    }


def test_interrupted_build_leaves_no_data_set(tmp_path, monkeypatch):
    def interrupted(seed, **kwargs):
        if seed == builder.split_seed("train", 5):
            raise KeyboardInterrupt
        return render(seed, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            builder.build(tmp_path, "test", progress=False)
    with pytest.raises(UserError, match="make one: gen1 world"):
        builder.load(tmp_path, "test", "train")
    assert len(builder.build(tmp_path, "test", progress=False)["train"]) == 24


def test_custom_config(tmp_path, capfd):
    config = builder.MovingShapesConfig(
        name="wide", num_frames=3, size=(24, 40), counts=(2, 0, 1), description="small"
    )
    sources = builder.build(tmp_path, config, progress=False)
    assert set(sources) == {"train", "test"}
    assert records.decode_example(sources["train"][1])["mask"].shape == (3, 24, 40)
    assert capfd.readouterr() == ("", "")


def test_bad_names(data_dir, tmp_path):
    with pytest.raises(UserError, match="one of: demo"):
        builder.build(tmp_path, "nonesuch")
    with pytest.raises(UserError, match="one of: .*train"):
        builder.load(data_dir, "test", "trian")
    with pytest.raises(UserError, match="one of: train"):
        builder.split_seed("trian", 0)
    with pytest.raises(UserError, match="make one: gen1 world"):
        builder.load(tmp_path, "test", "train")
    with pytest.raises(UserError, match="not a readable video"):
        records.decode_video(b"no video")
    unknown_codec = records.encode_video(np.zeros((2, 8, 8, 3), np.uint8)).replace(b"rle ", b"none")
    with pytest.raises(UserError, match="not a readable video"):
        records.decode_video(unknown_codec)


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        builder.build(tmp_path / "file", "test", progress=False)
