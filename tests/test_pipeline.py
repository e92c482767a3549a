"""The table of parts, the settings of a pipeline, and its assembling."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gen1_jax.conditioning import Conditioner
from gen1_jax.configs import demo, paper, tiny
from gen1_jax.errors import UserError
from gen1_jax.files import read_json
from gen1_jax.pipeline import (
    ENCODERS,
    MODELS,
    PARTS,
    SETTINGS,
    assemble,
    check_parts,
    read_settings,
)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_has_its_class(part):
    cls = getattr(importlib.import_module(part.module), part.kind)
    assert cls.__name__ == part.kind
    assert part.name not in MODELS or callable(cls.from_config)


def test_folders_and_kinds_are_told_apart():
    for names in (
        [part.run_folder for part in PARTS.values()],
        [kind for part in PARTS.values() for kind in part.config_kinds],
        [folder for part in PARTS.values() for folder in part.exported],
    ):
        assert len(set(names)) == len(names) >= len(MODELS)


def test_the_encoders_are_those_of_the_conditioner():
    assert {*ENCODERS, "recipe"} == set(vars(Conditioner()))


@pytest.mark.parametrize("flag", [*MODELS, "tokenizer"])
def test_every_part_can_be_imported(flag):
    from argparse import ArgumentParser

    from gen1_jax.commands import import_models

    parser = ArgumentParser()
    import_models.add_arguments(parser)
    assert getattr(parser.parse_args([f"--{flag}", "x", "-o", "run"]), flag) == "x"


def test_settings_of_a_pipeline_are_read_or_refused(micro_run, tmp_path):
    settings = read_settings(micro_run / "pipeline")
    assert settings["size"] == [32, 32] and settings["prior"]["num_steps"] == 2
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"no folder")
    for folder in (tmp_path, tmp_path / "nowhere", file, Path("stabilityai/sd-turbo")):
        with pytest.raises(UserError, match="is no pipeline folder"):
            read_settings(folder)
    with pytest.raises(UserError, match=f"folder of a run; give {micro_run / 'pipeline'}$"):
        read_settings(micro_run)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="import --pipeline .*/exported -o"):
        read_settings(tmp_path / "exported")
    for text, words in (
        ("{", "cannot read .*gen1.json"),
        ("[]", "gen1.json"),
        ("{}", "lacks schedule, spacing"),
        (json.dumps(settings | {"x": 1}).replace("spacing", "spaces"), "lacks spacing; needed:"),
    ):
        (tmp_path / "gen1.json").write_text(text)
        with pytest.raises(UserError, match=words):
            read_settings(tmp_path)


@pytest.mark.parametrize("config", [tiny, demo, paper], ids=lambda module: module.__name__)
def test_configs_name_the_parts_as_the_table_does(config):
    """Configs import no code, so the names of folders stand in them a second time."""
    for name in config.PARTS:
        part = config.get_config(name)
        folders = part.get("folders", {}) if part.kind == "pipeline" else part.get("frozen", {})
        encoders = {name: folder for name, folder in folders.items() if name != "unet"}
        assert (
            encoders.items()
            <= {
                name: f"../{encoder.run_folder}/model" for name, encoder in ENCODERS.items()
            }.items()
        )
        if part.kind == "pipeline":
            assert set(folders) == set(MODELS)
            assert part.tokenizer == f"../{PARTS['tokenizer'].run_folder}"
            assert set(part.settings) == set(SETTINGS)


def folders_of(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(name)
    return {name: root / name for name in names}


def test_parts_are_copied_into_one_folder(tmp_path):
    folders = folders_of(tmp_path / "run", PARTS)
    settings = dict.fromkeys(SETTINGS, 1)
    for _ in range(2):  # the second replaces the first
        assemble(folders, settings, tmp_path / "pipeline")
    assert {path.name for path in (tmp_path / "pipeline").iterdir()} == {*PARTS, "gen1.json"}
    for name in PARTS:
        assert (tmp_path / "pipeline" / name / "config.json").read_text() == name
    assert read_json(tmp_path / "pipeline" / "gen1.json") == settings


def test_a_part_that_is_missing_leaves_no_pipeline(tmp_path):
    folders = folders_of(tmp_path / "run", PARTS) | {"prior": tmp_path / "run" / "nowhere"}
    with pytest.raises(UserError, match="no prior in .*nowhere"):
        assemble(folders, {}, tmp_path / "pipeline")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_parts_of_two_pipelines_are_refused():
    unet = SimpleNamespace(in_channels=12, out_channels=4, cross_attention_dim=8)
    clip = SimpleNamespace(
        projection_dim=8, text_config=SimpleNamespace(max_position_embeddings=24)
    )
    conditioner = SimpleNamespace(
        vae=SimpleNamespace(latent_channels=4), clip=clip, prior=SimpleNamespace(embedding_dim=8)
    )
    check_parts(Path("run"), unet, conditioner, SimpleNamespace(context_length=24))
    with pytest.raises(UserError, match="run/tokenizer: context length is 77; .* take 24"):
        check_parts(Path("run"), unet, conditioner, SimpleNamespace(context_length=77))
