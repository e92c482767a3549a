"""Parts that were made with different models are refused by name; nothing is trained here."""

import json
import re
import shutil
from pathlib import Path

import pytest
from micro_run import load
from ml_collections import ConfigDict

from gen1_jax.config import MADE_FROM
from gen1_jax.errors import UserError
from gen1_jax.files import read_json, write_json
from gen1_jax.made_from import check_training
from gen1_jax.resolve import resolve_training
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights.digest import digest_model, digest_params, digest_tokenizer
from gen1_jax.weights.folder import load_model
from gen1_jax.workflow import run_part


def change(folder: Path) -> None:
    """Changes one number of a model."""
    (file,) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.fixture
def changed(micro_run, tmp_path):
    """Returns a part's model with one number changed, in a run of its own."""

    def make(part: str) -> str:
        folder = tmp_path / "other" / part / "model"
        shutil.copytree(micro_run / part / "model", folder)
        change(folder)
        return str(folder)

    return make


def finish(config, workdir: Path) -> dict:
    """Leaves what a finished part leaves, without its training."""
    record = check_training(resolve_training(config), workdir)
    write_json(workdir / "model" / "config.json", {})
    write_json(workdir / "finished.json", {"steps": config.num_steps})
    write_json(workdir / MADE_FROM, record)
    return record


def refused(config, workdir: Path, *words: str) -> str:
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UserError) as caught:
        run_part(config, workdir, progress=False)
    line = str(caught.value)
    assert "\n" not in line and sorted(workdir.rglob("*")) == before
    for word in words:
        assert word in line, line
    return line


@pytest.mark.parametrize("part", ["clip", "autoencoder"])
def test_a_folder_has_the_digest_of_its_parameters(micro_run, part):
    """The digest is the one in an encoded folder's meta.json, where older folders have it too."""
    digest = digest_model(micro_run / part / "model")
    assert digest == digest_params(load_model(micro_run / part / "model")[1])
    meta = read_json(micro_run / "encoded" / "train" / "meta.json")
    assert digest in meta["models"].values()
    assert meta["tokenizer"] == digest_tokenizer(micro_run / "tokenizer")


def test_a_changed_number_is_another_model(micro_run, changed):
    assert digest_model(changed("clip")) != digest_model(micro_run / "clip" / "model")


def test_a_tokenizer_in_another_layout_is_the_same(micro_run, tmp_path):
    shutil.copytree(micro_run / "tokenizer", tmp_path / "slow")
    (tmp_path / "slow" / "tokenizer.json").unlink()
    assert digest_tokenizer(tmp_path / "slow") == digest_tokenizer(micro_run / "tokenizer")
    settings = tmp_path / "slow" / "tokenizer_config.json"
    settings.write_text(json.dumps(read_json(settings) | {"model_max_length": 9}))
    assert load_tokenizer(tmp_path / "slow").context_length == 9
    assert digest_tokenizer(tmp_path / "slow") != digest_tokenizer(micro_run / "tokenizer")


@pytest.mark.parametrize(
    ("part", "kind", "model", "label"),
    [("image", "vae", "autoencoder", "autoencoder"), ("prior", "clip", "clip", "CLIP")],
)
def test_data_of_another_encoder_are_refused(
    micro_run, tmp_path, changed, part, kind, model, label
):
    folder = changed(model)
    config = load(micro_run, part, **{f"frozen.{kind}": folder})
    encoded = micro_run / "encoded" / "train"
    refused(config, tmp_path / part, f"{encoded} was made with another {label}", folder)


def test_encoded_data_are_compared_with_the_encoders(micro_run, tmp_path, changed):
    """`gen1 all` comes past the finished data, and finds that an encoder was trained anew."""
    shutil.copytree(micro_run / "encoded", tmp_path / "encoded")
    run_part(load(micro_run, "encoded"), tmp_path / "encoded", progress=False)
    config = load(micro_run, "encoded", **{"frozen.depth": changed("depth")})
    refused(config, tmp_path / "encoded", "was made with another depth model")
    meta = tmp_path / "encoded" / "validation" / "meta.json"
    write_json(meta, read_json(meta) | {"tokenizer": "0" * 64})
    refused(load(micro_run, "encoded"), tmp_path / "encoded", "validation", "another tokenizer")
    write_json(meta, {k: v for k, v in read_json(meta).items() if k not in ("models", "tokenizer")})
    run_part(config := load(micro_run, "encoded"), tmp_path / "encoded", progress=False)
    assert config.frozen  # data of unknown encoders: there is nothing to compare


def test_a_part_knows_the_model_that_it_started_from(micro_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(micro_run / "video" / "model", run / "video" / "model")
    config = load(micro_run, "structure", init_from=str(run / "video" / "model"))
    record = finish(config, run / "structure")
    assert record["models"].keys() == {"vae", "clip", "depth"}
    assert record["init_from"]["folder"] == "../video/model"
    run_part(config, run / "structure", progress=False)  # finished, and as it was
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    change(run / "video" / "model")
    line = refused(config, run / "structure", "was made from", "which has changed since")
    assert str(run / "video" / "model") in line and str(run / "structure" / MADE_FROM) in line
    more = load(micro_run, "structure", init_from=config.init_from, num_steps=9)
    refused(more, run / "structure", "changed")  # nor does it go on with more steps
    config.init_from = str(moved / "video" / "model")
    run_part(config, moved / "structure", progress=False)
    (run / "structure" / MADE_FROM).unlink()  # made before there were records, or meant so
    config.init_from = str(run / "video" / "model")
    run_part(config, run / "structure", progress=False)


def test_a_stage_of_another_autoencoder_starts_no_stage(micro_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(micro_run / "image" / "model", run / "image" / "model")
    write_json(run / "image" / MADE_FROM, {"models": {"vae": "0" * 64}})
    config = load(micro_run, "video", init_from=str(run / "image" / "model"))
    refused(
        config, run / "video", f"{run / 'image'} was made with another autoencoder", "0000000000"
    )


def test_a_part_that_never_saved_anything_was_made_from_nothing(micro_run, tmp_path):
    config, workdir = resolve_training(load(micro_run, "image")), tmp_path / "image"
    record = check_training(config, workdir)
    write_json(workdir / MADE_FROM, {"models": {"vae": "0" * 64}, "init_from": {"folder": "../x"}})
    assert check_training(config, workdir) == record
    (workdir / "checkpoints").mkdir()
    with pytest.raises(UserError, match=f"{workdir} was made with another autoencoder"):
        check_training(config, workdir)


def test_a_finished_part_is_checked_for_all_that_it_was_made_from(micro_run, tmp_path):
    """Also if its config does not say which models these are, since its model is like another."""
    run = tmp_path / "run"
    shutil.copytree(micro_run / "video" / "model", run / "video" / "model")
    config = load(micro_run, "structure", init_from=str(run / "video" / "model"))
    record = finish(config, run / "structure")
    config.model = ConfigDict({"like": "init_from"})
    run_part(config, run / "structure", progress=False)
    record["models"]["depth"] = "0" * 64
    write_json(run / "structure" / MADE_FROM, record)
    refused(config, run / "structure", "with the depth model 0000000000; accepted: parts made with")


def test_data_that_changed_are_refused(micro_run, tmp_path):
    shutil.copytree(micro_run / "encoded", tmp_path / "encoded")
    config = load(micro_run, "image", **{"data.folder": str(tmp_path / "encoded")})
    finish(config, tmp_path / "image")
    meta = tmp_path / "encoded" / "train" / "meta.json"
    write_json(meta, read_json(meta) | {"first_record": "0" * 64})
    refused(config, tmp_path / "image", str(tmp_path / "encoded"), "which has changed since (data")
    shutil.rmtree(tmp_path / "encoded")
    run_part(config, tmp_path / "image", progress=False)  # they may be gone


@pytest.mark.parametrize(
    ("part", "kind", "label"),
    [
        ("unet", "vae", "autoencoder"),
        ("unet", "depth", "depth model"),
        ("prior", "clip", "CLIP"),
        ("clip", "tokenizer", "tokenizer"),
    ],
)
def test_a_pipeline_is_made_of_what_belongs_together(micro_run, tmp_path, part, kind, label):
    config = load(micro_run, "pipeline")
    folder = tmp_path / part / "model"
    shutil.copytree(config.folders[part], folder)
    config.folders[part] = str(folder)
    own = config.tokenizer if kind == "tokenizer" else config.folders[kind]
    digest = digest_tokenizer(own) if kind == "tokenizer" else digest_model(own)
    write_json(folder.parent / MADE_FROM, {"models": {kind: digest}})
    run_part(config, tmp_path / "pipeline", progress=False)
    shutil.rmtree(tmp_path / "pipeline")
    write_json(folder.parent / MADE_FROM, {"models": {kind: "0" * 64}})
    line = refused(config, tmp_path / "pipeline", f"another {label}", "(0000000000)")
    assert re.search(f"{folder.parent} was made with .* than {own} is now", line)
