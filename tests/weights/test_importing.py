"""Importing: public checkpoints come over bit for bit, in the memory of one model."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
from public_models import (
    FIRST_RESIDUAL,
    REFERENCES,
    assert_bits,
    edit_config,
    edit_weights,
    gen1,
    make_reference,
    refused,
    settings_of,
    state_of,
    weights_of,
    write_public,
)
from safetensors.numpy import load_file
from tiny_unet import quick_jit

from gen1_jax.errors import UserError
from gen1_jax.models.clip import CLIPModel
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.pipeline import MODELS
from gen1_jax.weights.folder import load_model, param_template, write_model
from gen1_jax.weights.importing import import_part, open_towers, write_part
from gen1_jax.weights.naming import params_to_state_dict, torch_shapes
from gen1_jax.weights.public import find_source


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    write_public(root)
    return root


def import_from(folder, part, run):
    return import_part(part, find_source(str(folder)), run)


# ---- every kind of model, bit for bit


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

    # The library that made the model reads ours as the same model, with every setting.
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
    """Stable Diffusion 1.x is published with old names and half of the settings."""
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
    """Stable Diffusion 1.x is published without the settings that came later."""
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
    """Only the named tensors are replaced by zeros."""
    shutil.copytree(public / "depth", tmp_path / "depth")
    gone = (FIRST_RESIDUAL[0], "neck.fusion_stage.layers.1.residual_layer1.convolution1.bias")
    edit_weights(
        tmp_path / "depth", lambda tensors: {k: v for k, v in tensors.items() if k not in gone}
    )
    with pytest.raises(UserError, match=rf": 1 missing \({re.escape(gone[1])}\)$"):
        import_from(tmp_path / "depth", "depth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- CLIP's two towers


@pytest.fixture
def towers(tmp_path):
    """CLIPModel, and the folders of it and of its towers as transformers writes them."""
    model = make_reference("clip of OpenCLIP")
    import torch
    import transformers

    with torch.no_grad():
        model.logit_scale.fill_(np.log(100))  # published towers lack it; this is the default
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
    joined = write_part(open_towers(*sources), folder / "b")
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
        (image, text): "image holds CLIPVision.*; --text-encoder takes CLIPText.* --image-encoder$",
        (text, folder / "clip"): "clip holds CLIPModel; --image-encoder takes .* for --clip",
        (text, folder / "gone"): "gone does not exist",
    }.items():
        refused(capsys, run, "--text-encoder", pair[0], "--image-encoder", pair[1], words=words)
    edit_config(image, lambda config: config | {"projection_dim": 7})
    command = (run, "--text-encoder", text, "--image-encoder", image)
    refused(capsys, *command, words="projects to 6 .* 7")


def test_two_towers_by_the_command_line(towers, capsys):
    _, folder = towers
    towers = ("--text-encoder", folder / "text", "--image-encoder", folder / "image")
    gen1(capsys, folder / "run", *towers)
    assert isinstance(load_model(folder / "run" / "clip" / "model")[0], CLIPModel)


# ---- memory


def test_memory_is_the_model_s_and_little_more(public, tmp_path):
    """The import runs in a process of its own, whose largest size the system reports."""
    pytest.importorskip("resource")
    module = PriorTransformer(num_attention_heads=8, attention_head_dim=64, num_layers=5)
    shapes = torch_shapes(param_template(module))
    size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    assert size > 60e6  # far above what else may vary between two imports
    rng = np.random.default_rng(0)
    # Each tensor holds one number throughout, which shows its place and is quick to make.
    numbers = dict(zip(shapes, rng.permutation(len(shapes)).astype(np.float32), strict=True))
    tensors = {name: np.broadcast_to(numbers[name], shape) for name, shape in shapes.items()}
    (tmp_path / "big").mkdir()
    write_model(tmp_path / "big", module.to_config(), shapes, tensors)
    script = textwrap.dedent("""
        import resource, re, sys
        from pathlib import Path
        from gen1_jax.weights.importing import import_part
        from gen1_jax.weights.public import find_source

        def peak():
            status = Path("/proc/self/status")
            if status.exists():  # Linux counts in ru_maxrss the process that started this one
                return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1])
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of macOS, in bytes

        small, big, run = sys.argv[1:]
        import_part("prior", find_source(small), Path(run) / "small")  # imports need this memory
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
