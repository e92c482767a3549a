"""The precomputed encoded form: writing, reading, levels and frames, and the mixture over it."""

import json

import numpy as np
import pytest

from data_pipelines import encoded
from gen1_jax.batch import Batch
from gen1_jax.errors import UserError

LEVELS = (0, 3, 7)


def record(index, n=4, size=6):
    rng = np.random.default_rng(index)
    return {
        "latents": rng.normal(size=(n, size, size, 4)),
        "structure": np.broadcast_to(
            np.array(LEVELS)[:, None, None, None, None] + 0.0, (3, n, size, size, 4)
        ),
        "levels": np.array(LEVELS),
        "content": rng.normal(size=(n, 5)) + np.arange(n)[:, None] * 100,
        "tokens": np.full(7, index),
    }


@pytest.fixture
def folder(tmp_path):
    with encoded.EncodedWriter(tmp_path / "train", meta={"vae": "x"}, records_per_file=4) as writer:
        for index in range(10):
            writer.write(record(index))
    return tmp_path / "train"


def test_round_trip(folder):
    source = encoded.EncodedSource(folder)
    assert len(source) == 10 and source.meta["vae"] == "x" and len(source.meta["files"]) == 3
    assert sorted(p.name for p in folder.iterdir()) == [*source.meta["files"], "meta.json"]
    for index in range(10):
        for name, want in record(index).items():
            have = source[index][name]
            np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-3)
            assert have.dtype == (np.int32 if name in ("levels", "tokens") else np.float16)
    assert len(encoded.EncodedSource([folder, folder])) == 20


@pytest.mark.parametrize("image", [False, True])
def test_batch_form(image):
    stored = encoded.deserialize(encoded.serialize(record(0)))
    levels, frames = set(), set()
    for seed in range(40):
        example = encoded.to_batch_form(stored, np.random.default_rng(seed), (0, 7, 5), image)
        n = 1 if image else 4
        assert example["latents"].shape == example["structure"].shape == (n, 6, 6, 4)
        assert example["latents"].dtype == example["content"].dtype == np.float32
        level, frame = int(example["structure_level"]), int(round(example["content"][0] / 100))
        assert (example["structure"] == level).all()
        if image:  # the content is that of the frame itself
            np.testing.assert_array_equal(
                example["latents"][0], stored["latents"][frame].astype(np.float32)
            )
        levels.add(level)
        frames.add(frame)
    assert levels == {0, 7} and frames == {0, 1, 2, 3}


def test_stream_mixes_and_resumes(folder):
    def stream():
        return iter(
            encoded.make_encoded_dataset(
                encoded.EncodedSource(folder),
                batch_size=2,
                levels=LEVELS,
                fields=("latents", "structure", "structure_level", "content", "tokens"),
            )
        )

    first, frames = stream(), []
    for _ in range(16):
        batch = Batch.from_dict(next(first))
        frames.append(batch.num_frames)
        assert batch.size == (8 if batch.num_frames == 1 else 2)
        assert batch.structure_level.dtype == np.int32 and batch.content.shape[1] == 5
        np.testing.assert_array_equal(batch.structure[:, 0, 0, 0, 0], batch.structure_level)
    assert frames == ([4] * 7 + [1]) * 2
    state = first.get_state()
    want = [next(first) for _ in range(20)]
    again = stream()
    again.set_state(state)
    for batch in want:
        have = next(again)
        assert all(have[k].tobytes() == batch[k].tobytes() for k in batch)


def test_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with encoded.EncodedWriter(tmp_path / "x", records_per_file=1) as writer:
            writer.write(record(0))
            writer.write({**record(1), "tokens": np.full(7, 1 // 0)})
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="at least one"):
        with encoded.EncodedWriter(tmp_path / "x"):
            pass
    with pytest.raises(UserError, match="no finished folder"):
        encoded.EncodedSource(tmp_path / "x")


def test_bad_records_and_folders(folder, tmp_path):
    good = record(0)
    for change, says in [
        ({"latents": good["latents"][0]}, "axes"),
        ({"content": good["content"][:2]}, "disagrees"),
        ({"levels": np.array([0])}, "disagrees"),
        ({"latents": good["latents"] * 1e9}, "float16"),
        ({"extra": good["tokens"]}, "unknown extra"),
    ]:
        with pytest.raises(UserError, match=says):
            encoded.serialize({**good, **change})
    with pytest.raises(UserError, match="no content"):
        encoded.serialize({k: v for k, v in good.items() if k != "content"})
    with pytest.raises(UserError, match="no structure level"):
        encoded.to_batch_form(good, np.random.default_rng(0), (1, 2))
    with pytest.raises(UserError, match="already"):
        encoded.EncodedWriter(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        encoded.EncodedWriter(tmp_path / "file" / "sub")
    meta = json.loads((folder / "meta.json").read_text())
    for change, says in [
        ({"count": 11}, "fewer or more"),
        ({"files": ["gone.array_record"]}, "lacks"),
        ({"format": 99}, "format 99"),
    ]:
        (folder / "meta.json").write_text(json.dumps({**meta, **change}))
        with pytest.raises(UserError, match=says):
            encoded.EncodedSource(folder)
