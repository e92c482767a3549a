"""In which length a prior reads text embeddings, told for priors of now and of before."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict
from public_models import PRIOR, edit_config, edit_weights, gen1, weights_of
from tiny_unet import drawn_params

from gen1_jax.conditioning import to_content
from gen1_jax.configs import tiny
from gen1_jax.models.prior import OWN, PriorTransformer
from gen1_jax.resolve import resolve_training
from gen1_jax.weights.exporting import export_pipeline
from gen1_jax.weights.folder import load_model, save_model
from gen1_jax.weights.importing import import_pipeline


def scale_of(folder):
    return load_model(folder)[0].text_embedding_scale


def forget(folder):
    """Makes a model folder of before: its config.json lacks the key."""
    edit_config(folder, lambda config: {k: v for k, v in config.items() if k != OWN})


@pytest.fixture
def public(tmp_path):
    """A public prior, whose statistics are of CLIP's raw embeddings."""
    module = PriorTransformer(**PRIOR)
    params = drawn_params(module)
    params["clip_std"] = np.abs(params["clip_std"]) + 0.2
    save_model(tmp_path / "prior", module, params)
    forget(tmp_path / "prior")
    return tmp_path / "prior"


def with_content_statistics(folder):
    """Gives a prior the statistics that training here finds."""
    content = np.array(to_content(np.random.default_rng(0).normal(1, 2, (64, 6))))
    own = {"clip_mean": content.mean(0)[None], "clip_std": content.std(0)[None] + 1e-4}
    edit_weights(folder, lambda tensors: tensors | {k: np.float32(v) for k, v in own.items()})


def test_a_prior_says_its_scale_or_is_told_by_its_statistics(public, tmp_path, capsys):
    # Imported now, and imported before.
    gen1(capsys, tmp_path / "run", "--prior", public)
    imported = tmp_path / "run" / "prior" / "model"
    assert json.loads((imported / "config.json").read_text())[OWN]["text_embedding_scale"] == "raw"
    assert scale_of(imported) == "raw"
    forget(imported)
    assert scale_of(imported) == "raw"
    # A public file whose statistics nobody set.
    unset = {"clip_mean": np.zeros((1, 6), np.float32), "clip_std": np.ones((1, 6), np.float32)}
    edit_weights(imported, lambda tensors: tensors | unset)
    assert scale_of(imported) == "raw"
    # Trained here before; exported in bfloat16, too; and taken in again as if it were public.
    with_content_statistics(public)
    assert scale_of(public) == "content"
    gen1(capsys, tmp_path / "again", "--prior", public)
    assert scale_of(tmp_path / "again" / "prior" / "model") == "content"
    halves = {key: array.astype(ml_dtypes.bfloat16) for key, array in weights_of(public).items()}
    edit_weights(public, lambda _: halves)
    assert scale_of(public) == "content"


def prior_config(**changes):
    config = tiny.get_config("prior")
    config.model.update(PRIOR | {"num_embeddings": 5})
    config.data.update({"num_frames": 8, "image_fraction": 1.0, "fields": ("content", "tokens")})
    for key, value in changes.items():
        config[key] = ConfigDict(value) if key == "model" else value
    return config


def test_a_prior_is_trained_on_as_it_was_made(public):
    def scale(**options):
        begun = options.pop("begun", None)
        config = prior_config(**options)
        config = resolve_training(config, has_data=False, begun=begun)
        return PriorTransformer.from_config(config.model.to_dict()).text_embedding_scale

    edit_config(public, lambda config: config | {"num_embeddings": 5})
    assert scale() == "content"
    assert scale(begun={**PRIOR}) == "content"  # a run of before
    assert scale(begun={**PRIOR, OWN: {"text_embedding_scale": "raw"}}) == "raw"
    assert scale(model={"like": str(public)}, init_from=str(public)) == "raw"
    with_content_statistics(public)
    assert scale(model={"like": str(public)}, init_from=str(public)) == "content"


def test_a_public_prior_learns_from_images_in_its_own_scale():
    """Content has lost the length of an embedding; the typical one takes its place."""
    rng = np.random.default_rng(0)
    raw = rng.normal(0.2, 0.4, (512, 6)).astype(np.float32)
    params = {"clip_mean": raw.mean(0, keepdims=True), "clip_std": raw.std(0, keepdims=True)}
    module = PriorTransformer(**PRIOR)
    got = module.standardise(params, to_content(raw))
    assert np.abs(np.mean(got)) < 0.2 and 0.7 < np.std(got) < 1.2
    content = module.clone(text_embedding_scale="content").standardise(params, to_content(raw))
    assert np.std(content) > 2 * np.std(got)


def test_an_exported_prior_comes_back_with_its_scale_and_clamp(micro_run, tmp_path):
    shutil.copytree(micro_run / "pipeline", tmp_path / "pipeline")
    own = {"text_embedding_scale": "raw", "clip_sample_range": 10.0}
    edit_config(tmp_path / "pipeline" / "prior", lambda config: config | {OWN: own})
    export_pipeline(tmp_path / "pipeline", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["prior_clamp"] == 10
    import_pipeline(tmp_path / "out", tmp_path / "back")
    prior, _ = load_model(tmp_path / "back" / "prior")
    assert (prior.text_embedding_scale, prior.clip_sample_range) == ("raw", 10)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"clip_sample_range": 10}, 10),
        ({"clip_sample": False}, 1e9),
        ({"_class_name": "DDIMScheduler", "clip_sample_range": 10}, 5),
        ({"prediction_type": "epsilon"}, "prediction_type='epsilon'; accepted: 'sample'"),
        ({"num_train_timesteps": 100}, "num_train_timesteps=100; accepted: 1000"),
    ],
)
def test_the_clamp_is_that_of_the_sampler_beside_the_prior(public, capsys, changes, expected):
    sampler = {"_class_name": "UnCLIPScheduler", "prediction_type": "sample"} | changes
    folder = public.parent / "prior_scheduler"
    folder.mkdir()
    (folder / "scheduler_config.json").write_text(json.dumps(sampler))
    run = public.parent / "run"
    if isinstance(expected, str):
        _, (line,) = gen1(capsys, run, "--prior", public, code=2)
        assert expected in line and not run.exists()
    else:
        out, _ = gen1(capsys, run, "--prior", public)
        assert load_model(run / "prior" / "model")[0].clip_sample_range == expected
        assert ("no UnCLIPScheduler" in out) == (changes.get("_class_name") is not None)
        # What a prior's own file says goes before the sampler beside it.
        own = {OWN: {"text_embedding_scale": "raw", "clip_sample_range": 3.0}}
        edit_config(public, lambda config: config | own)
        out, _ = gen1(capsys, run, "--prior", public, "--overwrite")
        assert load_model(run / "prior" / "model")[0].clip_sample_range == 3
        assert "no UnCLIPScheduler" not in out
