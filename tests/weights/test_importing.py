"""`gen1 import`: public checkpoints come over bit for bit, and the rest is refused by name."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_unet import drawn_params, quick_jit, tiny

from gen1_jax import cli
from gen1_jax.errors import UserError
from gen1_jax.models.autoencoder import AutoencoderKL
from gen1_jax.models.clip import CLIPModel
from gen1_jax.models.dpt import DPTForDepthEstimation
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.pipeline import MODELS
from gen1_jax.weights.folder import load_model, param_template, save_model, write_model
from gen1_jax.weights.importing import find_source, import_part, import_towers
from gen1_jax.weights.naming import params_to_state_dict, torch_shapes

# --- small models of the libraries' own classes ---------------------------------------------------

UNET = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
SD_2 = {
    "cross_attention_dim": 20,
    "attention_head_dim": [1, 2],
    "use_linear_projection": True,
    "upcast_attention": True,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "sample_size": 16,
}
PRIOR = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": 6}
EVERY_NORM = {
    "num_embeddings": 5,
    "embedding_proj_dim": 10,
    "clip_embed_dim": 9,
    "time_embed_dim": 14,
    "norm_in_type": "layer",
    "embedding_proj_norm_type": "layer",
}
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 6,
}
OPENAI = {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "quick_gelu"}
OPEN_CLIP = {"vocab_size": 60, "bos_token_id": 58, "eos_token_id": 59, "hidden_act": "gelu"}
DPT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [4, 8, 12, 8],
    "fusion_hidden_size": 8,
}
# What Intel/dpt-large is published without.
FIRST_RESIDUAL = [
    f"neck.fusion_stage.layers.0.residual_layer1.{layer}.{leaf}"
    for layer in ("convolution1", "convolution2")
    for leaf in ("bias", "weight")
]
REFERENCES = {
    "unet of SD 1": ("unet", "UNet2DConditionModel", UNET),
    "unet of SD 2": ("unet", "UNet2DConditionModel", UNET | SD_2),
    "vae": ("vae", "AutoencoderKL", VAE),
    "clip of OpenAI": ("clip", "CLIPModel", OPENAI),
    "clip of OpenCLIP": ("clip", "CLIPModel", OPEN_CLIP),
    "depth": ("depth", "DPTForDepthEstimation", DPT),
    "prior of Karlo": ("prior", "PriorTransformer", PRIOR),
    "prior of Kandinsky": ("prior", "PriorTransformer", PRIOR | {"embedding_dim": 10}),
    "prior with every norm": ("prior", "PriorTransformer", PRIOR | EVERY_NORM),
}


def make_reference(name):
    """A model of diffusers or transformers, no two of whose parameters are equal."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _, kind, settings = REFERENCES[name]
    if kind in ("CLIPModel", "DPTForDepthEstimation"):
        transformers = pytest.importorskip("transformers")
        if kind == "CLIPModel":
            act = settings["hidden_act"]
            vision = TOWER | {"image_size": 8, "patch_size": 4, "hidden_act": act}
            towers = {"text_config": TOWER | settings, "vision_config": vision}
            model = transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=6))
        else:
            model = transformers.DPTForDepthEstimation(transformers.DPTConfig(**settings))
    else:
        model = getattr(pytest.importorskip("diffusers"), kind)(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def state_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def settings_of(model):
    """config.json without what the writing library says of itself, or repeats in its parts."""

    def plain(config):
        own = {"architectures", "dtype", "transformers_version"}
        kept = {k: v for k, v in config.items() if k not in own and not k.startswith("_")}
        return {k: plain(v) if isinstance(v, dict) else v for k, v in kept.items()}

    # transformers' config writes itself, diffusers' is written by its model.
    writer = model.config if hasattr(model.config, "to_json_string") else model
    return plain(json.loads(writer.to_json_string()))


def edit_weights(folder, change):
    """Replaces the tensors of a folder's one weight file by `change(tensors)`."""
    (file,) = folder.glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config)))


def weights_of(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_bits(got, want):
    """Same names, types, shapes and bits."""
    assert set(got) == set(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


def import_from(folder, part, run):
    return import_part(part, find_source(str(folder)), run)


# --- every kind of model, bit for bit -------------------------------------------------------------


@pytest.mark.parametrize("max_shard_size", ["5GB", "2KB"], ids=["whole", "shards"])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_public_model_comes_over_bit_for_bit(tmp_path, name, max_shard_size):
    part, kind, _ = REFERENCES[name]
    model = make_reference(name)
    model.save_pretrained(tmp_path / "public", max_shard_size=max_shard_size)
    count = len(list((tmp_path / "public").glob("*.safetensors")))
    assert count == 1 if max_shard_size == "5GB" else count > 2
    seen = {}
    source = find_source(str(tmp_path / "public"))
    imported = import_part(
        part, source, tmp_path / "run", lambda key, size: seen.update({key: size})
    )

    want = state_of(model)
    folder, ours = MODELS[part].run_folder, MODELS[part].kind
    assert imported.folder == tmp_path / "run" / folder / "model" and imported.kind == ours
    assert imported.tensors == len(want) and imported.absent == ()
    assert imported.parameters == sum(array.size for array in want.values())
    assert seen == {key: array.nbytes for key, array in want.items()}
    assert_bits(weights_of(imported.folder), want)
    module, params = load_model(imported.folder)
    assert type(module).__name__ == ours
    assert_bits(params_to_state_dict(params), want)

    # And back: the library that made it reads ours as the same model, no setting lost.
    again, report = type(model).from_pretrained(imported.folder, output_loading_info=True)
    assert not any(report.values())
    assert_bits(state_of(again), want)
    assert settings_of(again) == settings_of(model)
    record = json.loads((tmp_path / "run" / folder / "import.json").read_text())
    assert record["source"] == str(tmp_path / "public") and record["revision"] is None


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32_exactly(public, tmp_path, dtype):
    shutil.copytree(public / "prior", tmp_path / "half")
    half = {name: array.astype(dtype) for name, array in weights_of(public / "prior").items()}
    edit_weights(tmp_path / "half", lambda _: half)
    imported = import_from(tmp_path / "half", "prior", tmp_path / "run")
    assert_bits(weights_of(imported.folder), {k: v.astype(np.float32) for k, v in half.items()})


def test_an_autoencoder_with_the_old_names_of_attention(tmp_path):
    """As Stable Diffusion 1.x's is published: old names, and half of the settings not written."""
    model = make_reference("vae")
    model.save_pretrained(tmp_path / "public")
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(tensors):
        for new, name in old.items():
            tensors = {key.replace(new, name): array for key, array in tensors.items()}
        return tensors

    edit_weights(tmp_path / "public", rename)
    assert sum(".proj_attn." in name for name in weights_of(tmp_path / "public")) == 4
    # fmt: off
    written = (
        "_class_name", "act_fn", "block_out_channels", "down_block_types", "in_channels",
        "latent_channels", "layers_per_block", "norm_num_groups", "out_channels", "sample_size",
        "up_block_types",
    )
    # fmt: on
    edit_config(tmp_path / "public", lambda config: {key: config[key] for key in written})
    imported = import_from(tmp_path / "public", "vae", tmp_path / "run")
    assert_bits(weights_of(imported.folder), state_of(model))
    assert settings_of(type(model).from_pretrained(imported.folder)) == settings_of(model)


def test_a_unet_with_the_settings_of_2022(tmp_path):
    """As Stable Diffusion 1.x's is published: settings that came later are not written."""
    model = make_reference("unet of SD 1")
    model.save_pretrained(tmp_path / "public")
    # fmt: off
    written = (
        "_class_name", "act_fn", "attention_head_dim", "block_out_channels", "center_input_sample",
        "cross_attention_dim", "down_block_types", "downsample_padding", "flip_sin_to_cos",
        "freq_shift", "in_channels", "layers_per_block", "mid_block_scale_factor", "norm_eps",
        "norm_num_groups", "out_channels", "sample_size", "up_block_types",
    )
    # fmt: on
    edit_config(tmp_path / "public", lambda config: {key: config[key] for key in written})
    imported = import_from(tmp_path / "public", "unet", tmp_path / "run")
    assert settings_of(type(model).from_pretrained(imported.folder)) == settings_of(model)


def test_constants_of_old_checkpoints_are_left_behind(tmp_path):
    model = make_reference("clip of OpenAI")
    model.save_pretrained(tmp_path / "public")
    constants = {
        "text_model.embeddings.position_ids": np.arange(77)[None],
        "vision_model.embeddings.position_ids": np.arange(5)[None],
    }
    edit_weights(tmp_path / "public", lambda tensors: tensors | constants)
    imported = import_from(tmp_path / "public", "clip", tmp_path / "run")
    assert_bits(weights_of(imported.folder), state_of(model))


def test_depth_without_the_tensors_that_nothing_is_computed_with(tmp_path):
    model = make_reference("depth")
    model.save_pretrained(tmp_path / "public")
    whole = import_from(tmp_path / "public", "depth", tmp_path / "whole")
    edit_weights(
        tmp_path / "public",
        lambda tensors: {k: v for k, v in tensors.items() if k not in FIRST_RESIDUAL},
    )
    imported = import_from(tmp_path / "public", "depth", tmp_path / "run")
    assert whole.absent == () and sorted(imported.absent) == FIRST_RESIDUAL
    record = json.loads((tmp_path / "run" / "depth" / "import.json").read_text())
    assert sorted(record["absent"]) == FIRST_RESIDUAL
    want = state_of(model)
    want |= {name: np.zeros_like(want[name]) for name in FIRST_RESIDUAL}
    assert_bits(weights_of(imported.folder), want)

    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    module, params = load_model(whole.folder)
    predict = quick_jit(lambda params: module.apply({"params": params}, pixels))
    depth = predict(params)
    assert depth.std() > 0
    np.testing.assert_array_equal(predict(load_model(imported.folder)[1]), depth)


def test_one_unused_tensor_missing_is_not_all_of_them(public, tmp_path):
    """Zeros stand in by name, nowhere else."""
    shutil.copytree(public / "depth", tmp_path / "depth")
    gone = (FIRST_RESIDUAL[0], "neck.fusion_stage.layers.1.residual_layer1.convolution1.bias")
    edit_weights(
        tmp_path / "depth", lambda tensors: {k: v for k, v in tensors.items() if k not in gone}
    )
    with pytest.raises(UserError, match=rf": 1 missing \({re.escape(gone[1])}\)$"):
        import_from(tmp_path / "depth", "depth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- CLIP's two towers ----------------------------------------------------------------------------


@pytest.fixture
def towers(tmp_path):
    """CLIPModel, and folders of it and of its towers as transformers writes them."""
    model = make_reference("clip of OpenCLIP")
    import torch
    import transformers

    with torch.no_grad():
        model.logit_scale.fill_(np.log(100))  # which published towers do not carry
    model.save_pretrained(tmp_path / "clip")
    for folder, kind, config in (
        ("text", transformers.CLIPTextModelWithProjection, model.config.text_config),
        ("image", transformers.CLIPVisionModelWithProjection, model.config.vision_config),
    ):
        tower = kind(config)
        tower.load_state_dict({name: model.state_dict()[name] for name in tower.state_dict()})
        tower.save_pretrained(tmp_path / folder, max_shard_size="2KB")
    return model, tmp_path


def test_two_towers_are_one_clip(towers):
    model, folder = towers
    whole = import_from(folder / "clip", "clip", folder / "a")
    sources = (find_source(str(folder / name)) for name in ("text", "image"))
    joined = import_towers(*sources, folder / "b")
    assert joined[1:] == whole[1:]
    assert_bits(weights_of(joined.folder), state_of(model))
    assert load_model(joined.folder)[0] == load_model(whole.folder)[0]
    assert joined.folder == folder / "b" / "clip" / "model"
    record = json.loads((folder / "b" / "clip" / "import.json").read_text())
    assert record["source"] == f"{folder / 'text'} and {folder / 'image'}"


def test_towers_that_do_not_belong_together(towers, capsys):
    _, folder = towers
    text, image, run = folder / "text", folder / "image", folder / "run"
    for pair, words in {
        (image, text): "model_type 'clip_vision_model'; accepted here: 'clip_text_model'",
        (text, folder / "clip"): "model_type 'clip'; accepted here: 'clip_vision_model'",
        (text, folder / "gone"): "gone does not exist",
    }.items():
        refused(capsys, run, "--text-encoder", pair[0], "--image-encoder", pair[1], words=words)
    edit_config(image, lambda config: config | {"projection_dim": 7})
    command = (run, "--text-encoder", text, "--image-encoder", image)
    refused(capsys, *command, words="projects to 6 channels, the image encoder to 7")


def test_two_towers_by_the_command_line(towers, capsys):
    _, folder = towers
    gen1(
        capsys,
        folder / "run",
        "--text-encoder",
        folder / "text",
        "--image-encoder",
        folder / "image",
    )
    assert isinstance(load_model(folder / "run" / "clip" / "model")[0], CLIPModel)


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A model folder of each part, a tokenizer beside CLIP's, a scheduler beside the UNet's."""
    root = tmp_path_factory.mktemp("public")
    tower = {name: value for name, value in TOWER.items() if name != "projection_dim"}
    modules = {
        "unet": tiny(temporal=False),
        "vae": AutoencoderKL.from_config(VAE),
        "clip": CLIPModel(
            tower | {"vocab_size": 60}, tower | {"image_size": 8, "patch_size": 4}, 6
        ),
        "depth": DPTForDepthEstimation.from_config(DPT),
        "prior": PriorTransformer(**PRIOR),
    }
    for part, module in modules.items():
        save_model(root / part, module, drawn_params(module))
    words = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>", "ab</w>"]
    for where in (root / "clip", root / "words"):
        where.mkdir(exist_ok=True)
        (where / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
        (where / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    return root


def contents(folder):
    """Every path below a folder, with the bytes of files."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


def gen1(capsys, output, *arguments, code=0):
    """stdout, and the lines of stderr that are ours, of `gen1 import -o OUTPUT …`."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of its own
        got = cli.main([str(x) for x in ("import", "-o", output, *arguments)])
    out, err = capsys.readouterr()
    assert got == code and "Traceback" not in err, err
    return out, [line for line in re.split(r"[\r\n]+", err) if line.startswith("gen1: ")]


def refused(capsys, output, *arguments, words):
    """The one line of an error; nothing in or beside the output has changed."""
    before = contents(output.parent)
    _, lines = gen1(capsys, output, *arguments, code=2)
    assert len(lines) == 1 and re.search(words, lines[0]), lines
    assert contents(output.parent) == before
    return lines[0]


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
    from gen1_jax.tokenizer import load_tokenizer

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
    # Nor is anything else written that was asked for together with it.
    command = ("--vae", public / "vae", "--prior", tmp_path / "other")
    refused(capsys, run, *command, words="run/prior exists; give another --output, or --overwrite")
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
    refused(
        capsys, *command, words="will not replace .*run/prior: it holds files but no import.json"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to import; give --unet, --vae"),
        (("--overwrite",), "nothing to import"),
        (("--pipeline", "x", "--vae", "vae"), "--pipeline is a whole pipeline: give no other"),
        (("--pipeline", "x", "--tokenizer", "words"), "--pipeline is a whole pipeline"),
        (("--pipeline", "x", "--text-encoder", "a", "--image-encoder", "b"), "whole pipeline"),
        (("--pipeline", "unet"), "no model_index.json in .*unet; it is no exported pipeline"),
        (("--text-encoder", "clip"), "--text-encoder and --image-encoder together"),
        (("--clip", "clip", "--text-encoder", "a", "--image-encoder", "b"), "and no --clip beside"),
        (("--unet", "./gone"), "gone does not exist; accepted: a folder with config.json .*hub id"),
        (("--unet", "/gone/unet"), "/gone/unet does not exist; accepted: a folder"),
        (("--unet", "~nobody-of-this-name/unet"), "does not exist; accepted: a folder"),
        (("--unet", "gone"), "gone does not exist; accepted: a folder"),
        (("--unet", "unet/config.json"), "config.json is a file; accepted: a folder"),
        (("--unet", "scheduler"), "no config.json in scheduler; it is no model folder"),
        (("--tokenizer", "unet"), "no tokenizer in unet; accepted: tokenizer.json, or vocab.json"),
        (("--unet", "vae"), "vae holds AutoencoderKL; accepted: VideoUNet"),
        (("--vae", "unet"), "unet holds VideoUNet; accepted: AutoencoderKL"),
        (("--depth", "clip"), "clip holds CLIPModel; accepted: DPTForDepthEstimation"),
        (("--prior", "vae", "--vae", "vae"), "vae holds AutoencoderKL; accepted: PriorTransformer"),
    ],
)
def test_wrong_arguments(public, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(public)
    if "--prior" in arguments:  # the parts before it are whole, and stay
        _, (line,) = gen1(capsys, tmp_path / "run", *arguments, code=2)
        assert re.search(words, line)
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"autoencoder"}
    else:
        refused(capsys, tmp_path / "run", *arguments, words=words)


UNSUPPORTED = [
    ("unet", {"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
    ("unet", {"num_class_embeds": 1000}, "num_class_embeds=1000"),
    ("unet", {"resnet_skip_time_act": True}, "resnet_skip_time_act=True"),
    ("unet", {"dropout": 0.1}, "dropout=0.1; accepted: 0.0"),
    ("unet", {"attention_type": "gated"}, "attention_type='gated'; accepted: 'default'"),
    ("unet", {"num_attention_heads": 8}, "num_attention_heads=8"),
    ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type='text_time'"),  # SDXL
    ("unet", {"transformer_layers_per_block": [1, 2]}, "transformer_layers_per_block="),
    ("unet", {"only_cross_attention": [False, True]}, "only_cross_attention="),
    ("unet", {"mid_block_type": None}, "mid_block_type=None"),
    ("unet", {"encoder_hid_dim": 768}, "encoder_hid_dim=768"),  # Kandinsky
    ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
    ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
    (
        "unet",
        {"down_block_types": ["SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"]},
        r"down_block_types=\('SimpleCrossAttnDownBlock2D'.*; accepted: 2 of CrossAttnDownBlock2D",
    ),
    ("unet", {"up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"]}, "up_block_types=.*UpBlock3D"),
    ("unet", {"cross_attention_dim": [6, 6]}, "cross_attention_dim=.*one number"),
    ("vae", {"act_fn": "mish"}, "act_fn='mish'"),
    ("vae", {"latents_mean": [0.1, 0, 0, 0]}, "latents_mean="),
    ("vae", {"shift_factor": 0.1}, "shift_factor=0.1"),
    ("vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types="),
    ("vae", {"_class_name": "AutoencoderTiny"}, "kind 'AutoencoderTiny'; accepted: AutoencoderKL"),
    ("vae", {"_class_name": ["pipeline", "Gen1Pipeline"]}, "kind .'pipeline', 'Gen1Pipeline'."),
    ("clip", {"model_type": "siglip"}, "kind 'siglip'; accepted: "),
    ("clip", {"text_config": {"hidden_act": "mish"}}, "hidden_act is 'mish'; accepted: "),
    ("depth", {"is_hybrid": True}, "is_hybrid is True; accepted: false"),
    ("depth", {"is_hybrid": True, "backbone_config": {"model_type": "bit"}}, "backbone_config is"),
    ("depth", {"backbone": "resnet50"}, "backbone is 'resnet50'; accepted: null"),
    ("depth", {"use_batch_norm_in_fusion_residual": True}, "use_batch_norm_in_fusion_residual is"),
    ("depth", {"model_type": "zoedepth"}, "kind 'zoedepth'"),
    ("prior", {"dropout": 0.1}, "dropout=0.1"),
    ("prior", {"encoder_hid_proj_type": None}, "encoder_hid_proj_type=None"),  # Shap-E
    ("prior", {"norm_in_type": "batch"}, "norm_in_type='batch'"),
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
    "a missing bias": ("unet", without("conv_in.bias"), r"1 missing \(conv_in.bias\)$"),
    "a missing scalar": ("clip", without("logit_scale"), r"1 missing \(logit_scale\)$"),
    "one that is used": ("depth", without("head.head.4.bias"), r"1 missing \(head.head.4.bias\)$"),
    "none": ("prior", lambda t: {}, r"\d+ missing .*, and \d+ more"),
    "one too many": (
        "vae",
        lambda t: t | {"loss.w": np.ones(2, np.float32)},
        r"1 unexpected \(loss.w\)$",
    ),
    "another shape": (
        "vae",
        lambda t: t | {"encoder.conv_in.bias": np.ones(9, np.float32)},
        r"1 of another shape \(encoder.conv_in.bias is \[9\], not \[8\]\)$",
    ),
    "another type": (
        "prior",
        with_type("clip_std", np.float64),
        "clip_std is F64; accepted: float32, float16, bfloat16",
    ),
    "whole numbers": (
        "prior",
        with_type("clip_std", np.int8),
        "clip_std is I8; accepted: float32, float16, bfloat16",
    ),
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
        import_from(public / "vae", "vae", run)
    before = contents(run)
    read = []

    def stop(name, size):
        read.append(name)
        if len(read) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_part("vae", find_source(str(public / "vae")), run, stop)
    assert len(read) == 5 and contents(run) == before


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of downloads, and no network (HF_HUB_OFFLINE, of conftest.py)."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nobody/nothing", "config.json and its safetensors from nobody/nothing at revision main"),
        ("nobody/nothing/unet", "unet/config.json and its .* from nobody/nothing at revision main"),
        ("nobody/nothing@fp16", "config.json and its .* from nobody/nothing at revision fp16"),
        ("nobody/nothing/a/unet@refs/pr/1", "a/unet/config.json .* at revision refs/pr/1"),
        ("nobody/no--thing", r"cannot download nobody/no--thing \(HFValidationError\)"),
    ],
)
def test_without_network_it_says_what_to_download(hub, tmp_path, capsys, model, words):
    command = (tmp_path / "runs" / "new", "--unet", model)
    (tmp_path / "runs").mkdir()
    line = refused(capsys, *command, words=words)
    assert line.startswith(f"gen1: cannot download {model} (")
    assert line.endswith("and give the folder that holds them")


def test_what_the_hub_s_cache_holds_is_imported(hub, public, tmp_path, capsys):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = hub / "models--someone--diffusion"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(public / part, cache / "snapshots" / commit / part)
    run = tmp_path / "run"
    gen1(capsys, run, "--unet", "someone/diffusion/unet", "--vae", "someone/diffusion/vae@main")
    assert_bits(weights_of(run / "unet" / "model"), weights_of(public / "unet"))
    assert_bits(weights_of(run / "autoencoder" / "model"), weights_of(public / "vae"))
    record = json.loads((run / "unet" / "import.json").read_text())
    assert (record["source"], record["revision"]) == ("someone/diffusion/unet", commit)
    assert record["prediction_type"] == "epsilon"
    command = (tmp_path / "other" / "run", "--prior", "someone/diffusion/prior")
    (tmp_path / "other").mkdir()
    refused(capsys, *command, words="someone/diffusion has no folder prior/ at revision main")


# --- memory ---------------------------------------------------------------------------------------


def test_memory_is_the_model_s_and_little_more(public, tmp_path):
    """A process of its own, whose largest size the operating system reports."""
    pytest.importorskip("resource")
    module = PriorTransformer(num_attention_heads=16, attention_head_dim=64, num_layers=4)
    shapes = torch_shapes(param_template(module))
    size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    assert size > 200e6
    rng = np.random.default_rng(0)
    # A number a tensor: the right one in the right place, and no time spent on drawing.
    numbers = dict(zip(shapes, rng.permutation(len(shapes)).astype(np.float32), strict=True))
    tensors = {name: np.broadcast_to(numbers[name], shape) for name, shape in shapes.items()}
    (tmp_path / "big").mkdir()
    write_model(tmp_path / "big", module.to_config(), shapes, tensors)
    script = textwrap.dedent("""
        import resource, re, sys
        from pathlib import Path
        from gen1_jax.weights.importing import find_source, import_part

        def peak():
            status = Path("/proc/self/status")
            if status.exists():  # Linux counts in ru_maxrss the process that started this one
                return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1])
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of macOS, in bytes

        small, big, run = sys.argv[1:]
        import_part("prior", find_source(small), Path(run) / "small")  # what all imports need
        before = peak()
        import_part("prior", find_source(big), Path(run) / "big")
        print(peak() - before)
    """)
    command = [sys.executable, "-c", script, public / "prior", tmp_path / "big", tmp_path / "run"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, env=environment, check=True
    )
    largest = max(array.nbytes for array in tensors.values())
    assert largest <= int(done.stdout) < 1.5 * size
    files = [*(tmp_path / "run" / "big" / "prior" / "model").glob("*.safetensors")]
    assert [file.stat().st_size for file in files] == [
        file.stat().st_size for file in (tmp_path / "big").glob("*.safetensors")
    ]
    read = load_file(files[0])
    assert all((read.pop(name) == number).all() for name, number in numbers.items()) and not read
    for folder in ("big", "run"):  # pytest keeps the folders of some runs
        shutil.rmtree(tmp_path / folder)
