"""`gen1 import`: every part at once, from disk or the hub; wrong input is refused by name."""

import json
import shutil

import numpy as np
import pytest
from public_models import (
    assert_bits,
    contents,
    edit_config,
    edit_weights,
    gen1,
    refused,
    weights_of,
    write_public,
)

from gen1_jax import cli
from gen1_jax.pipeline import MODELS
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights.folder import load_model
from gen1_jax.weights.importing import import_part
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.public import FLAGS, find_source


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    write_public(root)
    return root


# ---- the command line


def test_every_part_at_once(public, tmp_path, capsys):
    run = tmp_path / "runs" / "paper"
    out, lines = gen1(capsys, run, *(x for part in MODELS for x in (f"--{part}", public / part)))
    assert not lines and not any(path.name.startswith(".") for path in run.iterdir())
    folders = {part.run_folder for part in MODELS.values()}
    assert {path.name for path in run.iterdir()} == folders | {"tokenizer"}
    for part, (_, folder, _, kind, *_) in MODELS.items():
        module, params = load_model(run / folder / "model")
        assert type(module).__name__ == kind
        want = weights_of(public / part)
        assert_bits(params_to_state_dict(params), want)
        numbers = f"{len(want)} tensors, {sum(x.size for x in want.values()):,} parameters"
        assert f"{part}: {numbers}: {run / folder / 'model'}\n" in out
        assert {path.name for path in (run / folder).iterdir()} == {"model", "import.json"}
    tokens = [
        load_tokenizer(where).encode(["ab a"]) for where in (run / "tokenizer", public / "clip")
    ]
    np.testing.assert_array_equal(*tokens)
    assert "unet: it predicts noise; train on with loss.prediction_type=epsilon" in out
    record = json.loads((run / "unet" / "import.json").read_text())
    assert record["prediction_type"] == "epsilon"


def test_a_part_is_replaced_only_where_that_is_said(public, tmp_path, capsys):
    run = tmp_path / "run"
    gen1(capsys, run, "--prior", public / "prior")
    shutil.copytree(public / "prior", tmp_path / "other")
    edit_weights(tmp_path / "other", lambda t: {name: array + 1 for name, array in t.items()})
    # The other part of the same command is not written either.
    command = ("--vae", public / "vae", "--prior", tmp_path / "other")
    refused(capsys, run, *command, words="run/prior exists.*--overwrite")
    gen1(capsys, run, *command, "--overwrite")
    want = weights_of(tmp_path / "other")
    assert_bits(weights_of(run / "prior" / "model"), want)
    assert (run / "autoencoder" / "model").is_dir()


def test_a_tokenizer_is_replaced_only_where_that_is_said(public, tmp_path, capsys):
    run = tmp_path / "run"
    gen1(capsys, run, "--tokenizer", public / "words")
    for command in (("--tokenizer", public / "words"), ("--clip", public / "clip")):
        refused(capsys, run, *command, words="run/tokenizer exists; .*--overwrite")
    gen1(capsys, run, "--clip", public / "clip", "--overwrite")
    assert {path.name for path in run.iterdir()} == {"clip", "tokenizer"}


def test_what_was_trained_is_never_replaced(public, tmp_path, capsys):
    trained = tmp_path / "run" / "prior"
    shutil.copytree(public / "prior", trained / "model")
    (trained / "config.json").write_text("{}")
    command = (tmp_path / "run", "--prior", public / "prior", "--overwrite")
    refused(capsys, *command, words="will not replace .*run/prior")


ALONE = [flag for flag in FLAGS if flag not in ("text_encoder", "image_encoder")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--unet"),
        (("--overwrite",), "--unet"),
        (("--pipeline", "x", "--vae", "vae"), "leave out --vae"),
        (("--pipeline", "x", "--tokenizer", "words"), "leave out --tokenizer"),
        (("--pipeline", "x", "--text-encoder", "a", "--image-encoder", "b"), "out --text-encoder"),
        (("--pipeline", "unet"), "model_index.json in .*unet"),
        (("--pipeline", "gone"), "no folder gone"),
        (
            ("--pipeline", "sd"),
            "sd is a StableDiffusionPipeline, .*: gen1 import --unet sd/unet --vae sd/vae "
            "--tokenizer sd/tokenizer -o RUN$",
        ),
        (("--text-encoder", "clip"), "--text-encoder and --image-encoder"),
        (("--clip", "clip", "--text-encoder", "a", "--image-encoder", "b"), "--clip"),
        (("--unet", "./gone"), "gone does not exist"),
        (("--unet", "/gone/unet"), "/gone/unet does not exist"),
        (("--unet", "~nobody-of-this-name/unet"), "~nobody-of-this-name/unet does not exist"),
        (("--unet", "gone"), "gone does not exist"),
        (("--unet", "unet/config.json"), "unet/config.json is a file; give its folder: unet$"),
        (("--unet", "v1-5.ckpt"), "v1-5.ckpt is a file; .*from_single_file"),
        (("--unet", "scheduler"), "no model, with config.json, in scheduler; --unet takes"),
        (("--tokenizer", "unet"), "unet holds UNet2DCond.*; --tokenizer takes a CLIP tokenizer"),
        (("--unet", "vae"), "vae holds AutoencoderKL; --unet takes UNet2DConditionModel or Video"),
        (("--vae", "unet"), "unet holds UNet2DCond.*; --vae takes AutoencoderKL.* for --unet$"),
        (("--depth", "clip"), "clip holds CLIPModel; .*DPTForDepthEstimation.* for --clip$"),
        (("--prior", "vae", "--vae", "vae"), "vae holds AutoencoderKL; .*PriorTransformer"),
        # a whole pipeline, and a wrong part of it
        (("--unet", "sd"), "sd is no model, .*; give --unet sd/unet$"),
        (("--vae", "sd/"), "sd is no model, .*; give --vae sd/vae$"),
        (("--tokenizer", "sd"), "sd is no model, .*; give --tokenizer sd/tokenizer$"),
        (("--unet", "sd/vae"), "sd/vae holds AutoencoderKL; give --unet sd/unet$"),
        (("--tokenizer", "sd/text_encoder"), "holds CLIPTextModel .*; give --tokenizer sd/token"),
        (("--clip", "sd"), "sd is a whole StableDiffusionPipeline, .*; --clip takes CLIPModel"),
        (("--clip", "sd/text_encoder"), "holds CLIPTextModel .without the projection.*CLIPModel"),
        (("--prior", "sd"), "StableDiffusionPipeline, .*; --prior takes .*karlo"),
        (("--depth", "sd"), "StableDiffusionPipeline, .*; --depth takes .*dpt-large"),
        (
            ("--text-encoder", "sd/text_encoder", "--image-encoder", "sd/vae"),
            "without the projection.*; --text-encoder takes CLIPTextModelWithProjection",
        ),
        (("--text-encoder", "clip", "--image-encoder", "sd"), "clip holds CLIPModel"),
        (
            ("--clip", "towers"),
            "halves .*; give --text-encoder towers/text --image-encoder towers/image$",
        ),
        (("--unet", "towers"), "towers is a whole Gen1Pipeline, .*; --unet takes"),
        # a run of ours, whose parts have a config.json that names no model
        (("--unet", "run"), "give --unet run/unet/model$"),
        (("--unet", "run/unet"), "give --unet run/unet/model$"),
        # what lacks something
        *(((f"--{flag}", "empty"), "empty is an empty folder; --") for flag in ALONE),
        (("--unet", "pickled"), "pickled holds pickled weights only"),
        (("--clip", "clip", "--tokenizer", "long"), "tokenizer in long has 61 tokens, .* 60;"),
    ],
)  # fmt: skip
def test_wrong_arguments(wrong, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(wrong)
    refused(capsys, tmp_path / "run", *arguments, words=words)


@pytest.fixture(scope="module")
def wrong(public, tmp_path_factory):
    """A folder of what one may give by mistake, beside the right models."""
    root = tmp_path_factory.mktemp("wrong")
    shutil.copytree(public, root, dirs_exist_ok=True)
    for name, source in {"unet": "unet", "vae": "vae", "tokenizer": "words"}.items():
        shutil.copytree(public / source, root / "sd" / name)
    (root / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (root / "sd" / "text_encoder").mkdir()
    config = {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}
    (root / "sd" / "text_encoder" / "config.json").write_text(json.dumps(config))
    shutil.copytree(public / "unet", root / "run" / "unet" / "model")
    (root / "run" / "unet" / "config.json").write_text('{"kind": "train"}')
    for name, kind in {"text": "clip_text_model", "image": "clip_vision_model"}.items():
        (root / "towers" / name).mkdir(parents=True)
        (root / "towers" / name / "config.json").write_text(json.dumps({"model_type": kind}))
    index = {"_class_name": ["pipeline", "Gen1Pipeline"]}
    (root / "towers" / "model_index.json").write_text(json.dumps(index))
    (root / "empty").mkdir()
    (root / "v1-5.ckpt").touch()
    shutil.copytree(public / "unet", root / "pickled")
    (file,) = (root / "pickled").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    shutil.copytree(public / "words", root / "long")
    vocab = json.loads((root / "long" / "vocab.json").read_text())
    (root / "long" / "vocab.json").write_text(json.dumps(vocab | {"z": 60}))
    return root


def test_no_bar_and_no_folder_before_a_refusal(public, tmp_path, capsys):
    """Also where the second model is the wrong one, and where the output is no place for it."""
    (tmp_path / "file").touch()
    for output, arguments in (
        ("new/run", ("--vae", public / "vae", "--unet", public / "prior")),
        ("file/run", ("--vae", public / "vae")),
        ("new/pipeline", ("--pipeline", public / "vae")),
    ):
        assert cli.main([str(x) for x in ("import", "-o", tmp_path / output, *arguments)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("gen1: ") and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_clip_without_a_tokenizer_is_said(public, tmp_path, capsys):
    shutil.copytree(public / "clip", tmp_path / "clip")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "clip" / name).unlink()
    run = tmp_path / "run"
    out, _ = gen1(capsys, run, "--clip", tmp_path / "clip")
    assert f"tokenizer: none in {tmp_path / 'clip'}, " in out and "gen1 import --tokenizer" in out
    gen1(capsys, run, "--tokenizer", public / "words")
    out, _ = gen1(capsys, run, "--clip", tmp_path / "clip", "--overwrite")
    assert "tokenizer:" not in out


# Part, setting, and the culprit that the error names.
UNSUPPORTED = [
    ("unet", {"class_embed_type": "timestep"}, "class_embed_type"),
    ("unet", {"num_class_embeds": 1000}, "num_class_embeds"),
    ("unet", {"resnet_skip_time_act": True}, "resnet_skip_time_act"),
    ("unet", {"dropout": 0.1}, "dropout"),
    ("unet", {"attention_type": "gated"}, "attention_type"),
    ("unet", {"num_attention_heads": 8}, "num_attention_heads"),
    ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type"),  # SDXL
    ("unet", {"transformer_layers_per_block": [1, 2]}, "transformer_layers_per_block"),
    ("unet", {"only_cross_attention": [False, True]}, "only_cross_attention"),
    ("unet", {"mid_block_type": None}, "mid_block_type"),
    ("unet", {"encoder_hid_dim": 768}, "encoder_hid_dim"),  # Kandinsky
    ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos"),
    ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type"),
    ("unet", {"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 2}, "down_block_types"),
    ("unet", {"up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"]}, "up_block_types.*UpBlock3D"),
    ("unet", {"cross_attention_dim": [6, 6]}, "cross_attention_dim"),
    ("vae", {"act_fn": "mish"}, "act_fn"),
    ("vae", {"latents_mean": [0.1, 0, 0, 0]}, "latents_mean"),
    ("vae", {"shift_factor": 0.1}, "shift_factor"),
    ("vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types"),
    ("vae", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
    ("vae", {"_class_name": ["pipeline", "Gen1Pipeline"]}, "Gen1Pipeline"),
    ("clip", {"model_type": "siglip"}, "siglip"),
    ("clip", {"text_config": {"hidden_act": "mish"}}, "hidden_act"),
    ("depth", {"is_hybrid": True}, "is_hybrid"),
    ("depth", {"is_hybrid": True, "backbone_config": {"model_type": "bit"}}, "backbone_config"),
    ("depth", {"backbone": "resnet50"}, "backbone"),
    ("depth", {"use_batch_norm_in_fusion_residual": True}, "use_batch_norm_in_fusion_residual"),
    ("depth", {"model_type": "zoedepth"}, "zoedepth"),
    ("prior", {"dropout": 0.1}, "dropout"),
    ("prior", {"encoder_hid_proj_type": None}, "encoder_hid_proj_type"),  # Shap-E
    ("prior", {"norm_in_type": "batch"}, "norm_in_type"),
]


@pytest.mark.parametrize(("part", "changes", "words"), UNSUPPORTED)
def test_a_setting_that_we_do_not_have_is_named(public, tmp_path, capsys, part, changes, words):
    shutil.copytree(public / part, tmp_path / "model")
    edit_config(tmp_path / "model", lambda config: config | changes)
    refused(capsys, tmp_path / "run", f"--{part}", tmp_path / "model", words=words)


def without(name):
    return lambda tensors: {key: array for key, array in tensors.items() if key != name}


def with_type(name, dtype):
    return lambda tensors: tensors | {name: tensors[name].astype(dtype)}


MISFITS = {
    "a missing bias": ("unet", without("conv_in.bias"), r"1 missing \(conv_in.bias\)"),
    "a missing scalar": ("clip", without("logit_scale"), r"1 missing \(logit_scale\)"),
    "one that is used": ("depth", without("head.head.4.bias"), r"1 missing \(head.head.4.bias\)"),
    "none": ("prior", lambda t: {}, r"\d+ missing .*, and \d+ more"),
    "one too many": (
        "vae",
        lambda t: t | {"loss.w": np.ones(2, np.float32)},
        r"1 unexpected \(loss.w\)",
    ),
    "another shape": (
        "vae",
        lambda t: t | {"encoder.conv_in.bias": np.ones(9, np.float32)},
        r"encoder.conv_in.bias is \[9\], not \[8\]",
    ),
    "another type": ("prior", with_type("clip_std", np.float64), "clip_std is F64"),
    "whole numbers": ("prior", with_type("clip_std", np.int8), "clip_std is I8"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit(public, tmp_path, capsys, misfit):
    part, change, words = MISFITS[misfit]
    shutil.copytree(public / part, tmp_path / "model")
    edit_weights(tmp_path / "model", change)
    (tmp_path / "run").mkdir()
    refused(capsys, tmp_path / "run", f"--{part}", tmp_path / "model", words=words)


def test_truncated_and_pickled_weights(public, tmp_path, capsys):
    shutil.copytree(public / "vae", tmp_path / "model")
    (file,) = (tmp_path / "model").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    command = (tmp_path / "run", "--vae", tmp_path / "model")
    refused(capsys, *command, words="is no whole safetensors file")
    file.rename(file.with_suffix(".bin"))
    refused(capsys, *command, words="holds pickled weights only")


@pytest.mark.parametrize("existing", [False, True])
def test_stopped_halfway_nothing_stays(public, tmp_path, existing):
    run = tmp_path / "run"
    if existing:
        import_part("vae", find_source(str(public / "vae")), run)
    before = contents(run)
    read = []

    def stop(name, size):
        read.append(name)
        if len(read) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_part("vae", find_source(str(public / "vae")), run, stop)
    assert len(read) == 5 and contents(run) == before
