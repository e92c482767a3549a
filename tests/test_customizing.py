"""`gen1 customize`: a whole new pipeline, half of each batch the subject; bad input is one line."""

import json
import shutil

import numpy as np
import pytest
from command_line import contents, gen1, refused
from PIL import Image
from tiny_unet import flat

from gen1_jax.customizing import training_folder
from gen1_jax.editing import VideoEditor
from gen1_jax.weights.folder import load_model
from gen1_jax.weights.lora import merge_loras

SMALL = (
    "--no-progress", "--config", "tiny", "--set", "sample_every=0", "eval_every=0",
    "data.image_batch_size=4", "optimizer.warmup_steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def run(capsys, images, micro_run, output, *more):
    paths = ("--images", images, "--model", micro_run / "pipeline", "-o", output)
    return gen1(capsys, "customize", *paths, *SMALL, *more)


def test_a_lora_is_trained_and_merged(capsys, images, micro_run, tmp_path, quick):
    """The new folder is a whole pipeline; the same command again finds all of it made."""
    new = tmp_path / "new"
    code, out, err = run(capsys, images, micro_run, new, "--rank", "2", "--steps", "2")
    assert code == 0 and "6 pictures; 15 to 30 are usual" in err, err
    code, out, err = run(capsys, images, micro_run, new, "--rank", "2", "--steps", "2")
    assert code == 0 and "finished before, with 2 steps" in err + out, err
    assert f"gen1 edit clip.mp4 --model {new}" in out
    training = training_folder(new)
    meta = json.loads((training / "subject/images_32x32/train/meta.json").read_text())
    assert meta["count"] == 6 and meta["fields"]["levels"] == [8]
    config = json.loads((training / "customize_lora/config.json").read_text())
    assert config["data"]["folder"] == str(micro_run / "encoded")
    assert config["data"]["subject_share"] == 0.5
    # The new UNet is the old one with the file in NEW/lora; all else is as it was.
    before = load_model(micro_run / "pipeline" / "unet")[1]
    after = flat(load_model(new / "unet")[1])
    for name, array in flat(merge_loras(before, [(new / "lora", 1.0)])).items():
        np.testing.assert_allclose(after[name], array, atol=1e-6)
    assert any(not np.array_equal(after[name], x) for name, x in flat(before).items())
    for part in ("vae", "clip", "depth", "prior", "tokenizer"):
        assert contents(new / part) == contents(micro_run / "pipeline" / part)
    # An editor of the old pipeline with the LoRA is another one, and has the new UNet.
    old = VideoEditor.load(micro_run / "pipeline")
    mixed = VideoEditor.load(
        micro_run / "pipeline", loras=[(new / "lora", 0.5), (new / "lora", 0.5)]
    )
    assert mixed.fingerprint != old.fingerprint
    for name, array in flat(mixed.params["unet"]).items():
        np.testing.assert_allclose(array, after[name], atol=1e-6)
    # Other pictures are another subject.
    other = tmp_path / "other"
    shutil.copytree(images, other)
    shutil.copyfile(images / "0.png", other / "5.png")
    code, _, err = run(capsys, other, micro_run, new, "--rank", "2", "--steps", "3")
    assert code == 2 and "was begun with other pictures" in err


def test_bad_input_is_one_line_and_writes_nothing(capsys, images, micro_run, tmp_path):
    few, none = tmp_path / "few", tmp_path / "none"
    shutil.copytree(images, none)
    (none / "notes.txt").write_text("no picture")
    few.mkdir()
    for number in range(3):
        shutil.copyfile(images / f"{number}.png", few / f"{number}.png")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    before = contents(tmp_path)
    pipeline = micro_run / "pipeline"
    for culprit, changes in (
        ("few holds 3 pictures; 5 or more", {"--images": few}),
        (r"notes\.txt is no picture", {"--images": none}),
        ("missing is not there", {"--images": tmp_path / "missing"}),
        ("is no pipeline folder", {"--model": few}),
        ("taken exists", {"-o": tmp_path / "taken"}),
        ("is the pipeline itself", {"-o": pipeline}),
        ("few holds no data of training", {"--data": few}),
        ("--rank 0; 1 or more", {"--rank": 0}),
        ("--steps 0; 1 or more", {"--steps": 0}),
        ("unknown part 'customize'", {"--config": "rivals"}),
    ):
        given = {"--images": images, "--model": pipeline, "-o": tmp_path / "new", **changes}
        refused(capsys, "customize", *(x for pair in given.items() for x in pair), culprit=culprit)
    assert contents(tmp_path) == before


def test_a_wrong_lora_ends_an_edit_in_one_line(capsys, micro_run, tmp_path):
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "empty").mkdir()
    edit = ("edit", tmp_path / "clip.mp4", "--prompt", "x", "--model", micro_run / "pipeline")
    for lora, culprit in (
        (tmp_path / "missing", "missing: no such file or folder"),
        (f"{tmp_path}:much", "PATH or PATH:SCALE is accepted"),
        (f"{tmp_path}:nan", "PATH or PATH:SCALE is accepted"),
        (f"{tmp_path / 'empty'}:0.5", "empty: the folder has no pytorch_lora_weights"),
    ):
        refused(capsys, *edit, "--lora", lora, "-o", tmp_path / "out.mp4", culprit=culprit)
