"""Checkpoints as people have them: variants, averages and wrapped modules are read; the rest is
named, with what to do.
"""

import json

import numpy as np
import pytest
from public_models import (
    UNET,
    assert_bits,
    edit_config,
    edit_weights,
    gen1,
    make_reference,
    refused,
    state_of,
    weights_of,
)
from safetensors.numpy import save_file

from gen1_jax.errors import UserError
from gen1_jax.weights.folder import load_model
from gen1_jax.weights.naming import params_to_state_dict
from gen1_jax.weights.starting import check_start, resolve_model
from gen1_jax.weights.variants import choose_weights, list_weights

PLAIN = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def unet():
    return make_reference("unet of SD 1")


@pytest.fixture
def saved(unet, tmp_path):
    unet.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def imported(capsys, folder, *arguments, part="unet"):
    """Imports a folder; returns the tensors, what was printed, and the record."""
    run = folder.parent / "run"
    out, _ = gen1(capsys, run, f"--{part}", folder, "--overwrite", *arguments)
    record = json.loads((run / part / "import.json").read_text())
    return weights_of(run / part / "model"), out, record


# ---- variants


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"], ids=["whole", "shards"])
@pytest.mark.parametrize("name", ["unet of SD 1", "clip of OpenAI"])
def test_the_only_variant_is_taken_and_said(tmp_path, capsys, name, max_shard_size):
    model, part = make_reference(name), name.split()[0]
    if part == "clip":
        max_shard_size = max_shard_size.replace("20KB", "2KB")
    model.save_pretrained(tmp_path / "x", variant="fp16", max_shard_size=max_shard_size)
    assert (len(list((tmp_path / "x").glob("*fp16*"))) > 2) == (max_shard_size != "5GB")
    tensors, out, record = imported(capsys, tmp_path / "x", part=part)
    assert_bits(tensors, state_of(model))
    assert f"{part}: the weights are the variant fp16, since there are no others\n" in out
    assert record["variants"] == ["fp16"]
    assert_bits(params_to_state_dict(load_model(tmp_path / "x")[1]), state_of(model))
    _, out, _ = imported(capsys, tmp_path / "x", "--variant", "fp16", part=part)
    assert "the weights are" not in out


def test_the_places_of_a_variant_s_name():
    shards = [f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    legacy = [f"diffusion_pytorch_model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
    plain = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for index, files, variant in (
        (f"{PLAIN}.index.fp16.json", shards, "fp16"),
        (f"{PLAIN}.fp16.index.json", legacy, "fp16"),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", shards, "fp16"),
        ("model.safetensors.index.json", plain, None),
    ):
        others = ["config.json", "README.md", "model.bin", "my_model.safetensors"]
        assert list_weights([*files, index, *others]) == {variant: (variant, index, tuple(files))}
    whole = [f"model{v}.safetensors" for v in (".non_ema.fp16", ".non-ema", "")]
    assert list(list_weights([*whole, *plain])) == [None, "non-ema", "non_ema.fp16"]
    assert choose_weights([*whole, *plain], None, "x").files == ("model.safetensors",)
    assert choose_weights([PLAIN, *whole], None, "x").files == (PLAIN,)
    assert list_weights(shards) == {}  # without their index


def test_a_variant_is_chosen_among_several(saved, unet, capsys):
    want = state_of(unet)
    for variant in ("fp16", "non_ema"):
        other = {key: array + len(variant) for key, array in want.items()}
        save_file(other, saved / PLAIN.replace(".", f".{variant}.", 1))
    tensors, out, record = imported(capsys, saved)
    assert_bits(tensors, want)
    assert "the weights are" not in out and record["variants"] == [None]
    tensors, out, record = imported(capsys, saved, "--variant", "non_ema")
    assert_bits(tensors, {key: array + 7 for key, array in want.items()})
    assert "the weights are" not in out and record["variants"] == ["non_ema"]

    new = (saved.parent / "new", "--unet", saved)
    refused(capsys, *new, "--variant", "bf16", words="none of the models has a variant bf16")
    (saved / PLAIN).unlink()
    refused(capsys, *new, words=r"variants fp16, non_ema; .* gen1 import --variant fp16$")
    refused(capsys, *new, "--variant", "bf16", words="no variant bf16; there: fp16, non_ema$")
    refused(capsys, new[0], "--pipeline", saved, "--variant", "fp16", words="leave it out")


def test_a_model_without_the_variant_gives_its_plain_weights(saved, capsys):
    vae = make_reference("vae")
    vae.save_pretrained(saved.parent / "vae", variant="fp16")
    _, out, _ = imported(capsys, saved, "--variant", "fp16", "--vae", saved.parent / "vae")
    said = "unet: the weights are the plain ones, since there is no variant fp16\n"
    assert said in out and "vae: the weights" not in out


# ---- averages and wrapped modules


def test_the_average_of_a_training_script(unet, tmp_path, capsys):
    torch, training = pytest.importorskip("torch"), pytest.importorskip("diffusers.training_utils")
    model = type(unet)(**UNET)
    average = training.EMAModel(
        model.parameters(), model_cls=type(model), model_config=model.config
    )
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        average.step(model.parameters())
    average.save_pretrained(tmp_path / "unet_ema")
    written = json.loads((tmp_path / "unet_ema" / "config.json").read_text())
    assert written["optimization_step"] == 2
    tensors, _, _ = imported(capsys, tmp_path / "unet_ema")
    names = [name for name, _ in model.named_parameters()]
    want = {n: x.numpy() for n, x in zip(names, average.shadow_params, strict=True)}
    assert_bits(tensors, want)
    assert not np.array_equal(want["conv_in.bias"], state_of(model)["conv_in.bias"])
    # One such key alone is still a setting that we do not have.
    edit_config(tmp_path / "unet_ema", lambda config: config | {"decay": None, "inv_gamma": None})
    edit_config(tmp_path / "unet_ema", lambda config: {k: v for k, v in config.items() if v})
    command = (tmp_path / "new", "--unet", tmp_path / "unet_ema")
    refused(capsys, *command, words="does not support .*optimization_step=2")


def test_wrapped_modules(saved, unet, capsys):
    torch, want = pytest.importorskip("torch"), state_of(unet)
    wrapped = torch.nn.DataParallel(unet).state_dict()
    assert all(name.startswith("module.") for name in wrapped)

    class Compiled(torch.nn.Module):  # torch.compile gives this name, and takes a second
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

    class Block(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self._checkpoint_wrapped_module = model

    compiled = Compiled(torch.nn.DataParallel(unet)).state_dict()
    middle = unet.mid_block
    try:
        unet.mid_block = Block(middle)
        inside = Compiled(unet).state_dict()
    finally:
        unet.mid_block = middle
    for state in (wrapped, compiled, inside):
        assert set(state) != set(want)
        edit_weights(saved, lambda _, state=state: {k: x.numpy() for k, x in state.items()})
        assert_bits(imported(capsys, saved)[0], want)
    # The same tensor twice is one too many.
    edit_weights(saved, lambda t: t | {"conv_in.bias": want["conv_in.bias"]})
    words = r"1 unexpected \(_orig_mod.conv_in.bias\)$"
    refused(capsys, saved.parent / "new", "--unet", saved, words=words)


# ---- UNets that need more than text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"in_channels": 9}, r"an inpainting UNet, .*\(in_channels=9\)"),
        ({"in_channels": 5}, r"a UNet that sees depth too, as Stable Diffusion 2's .*=5\)"),
        ({"in_channels": 7, "num_class_embeds": 9}, r"Diffusion's ×4 upscaler \(in_channels=7\)"),
        ({"in_channels": 8}, r"a second image too, as InstructPix2Pix \(in_channels=8\)"),
        ({"in_channels": 6}, "a UNet with 6 input and 4 output channels, .*"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 8,
            },
            r"Stable Diffusion XL's UNet \(addition_embed_type='text_time'\)",
        ),
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8},
            "as Stable Diffusion 2.1 unCLIP .class_embed_type=.*",
        ),
        ({"num_class_embeds": 10}, r"a UNet with class embeddings \(num_class_embeds=10\)"),
        ({"time_cond_proj_dim": 8}, r"\(a latent consistency model\) \(time_cond_proj_dim=8\)"),
    ],
)
def test_a_unet_that_needs_more_than_text(unet, tmp_path, capsys, settings, words):
    type(unet)(**UNET, **settings).save_config(tmp_path / "unet")
    words += "; --unet takes UNet2DConditionModel or VideoUNet, for example stable-diffusion-v1-5/"
    refused(capsys, tmp_path / "run", "--unet", tmp_path / "unet", words=words)


def test_no_stage_starts_from_an_inpainting_unet(unet, tmp_path):
    own, other = tmp_path / "own", tmp_path / "inpainting"
    unet.save_config(own)
    type(unet)(**UNET, in_channels=9).save_config(other)
    words = "of 4 input channels, as of text-to-image models, or of 12, as of ours$"
    with pytest.raises(UserError, match=f"image: model like .* an inpainting UNet, .*{words}"):
        resolve_model({}, str(other), name="image")
    model = json.loads((own / "config.json").read_text())
    merge = {"widened": ("conv_in/kernel",)}
    for channels in (4, 12):
        wider = model | {"in_channels": channels}
        check_start(wider, str(own), merge, name="structure")
        with pytest.raises(
            UserError, match=f"structure: init_from .* an inpainting UNet, .*{words}"
        ):
            check_start(wider, str(other), merge, name="structure")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ControlNetModel", "which steers a UNet and is none"),
        ("MotionAdapter", "the motion modules of AnimateDiff without their UNet"),
        ("UNetMotionModel", "AnimateDiff's UNet, whose motion modules are not our"),
        ("UNet3DConditionModel", "a video UNet of another design"),
        ("UNetSpatioTemporalConditionModel", "Stable Video Diffusion's UNet"),
        ("FluxTransformer2DModel", "a diffusion transformer, not a UNet"),
    ],
)
def test_a_model_of_another_design(tmp_path, capsys, kind, words):
    assert hasattr(pytest.importorskip("diffusers"), kind)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(json.dumps({"_class_name": kind}))
    refused(capsys, tmp_path / "run", "--unet", tmp_path / "x", words=f"x holds {kind}, {words}")


# ---- adapters, quantised weights, other formats


def test_adapters(saved, unet, capsys):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    run, adapter = saved.parent / "run", saved.parent / "adapter"
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    low_rank = {"lora_A": torch.ones(2, 16), "lora_B": torch.ones(16, 2)}
    layers = {f"{layer}.{name}.weight": matrix for name, matrix in low_rank.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(adapter, unet_lora_layers=layers)
    (file,) = adapter.iterdir()
    words = f"{file.name} .*holds a LoRA adapter, which changes a model and .*fuse_lora"
    refused(capsys, run, "--unet", adapter, words=words)
    refused(capsys, run, "--unet", file, words=words)
    file = file.rename(adapter / "my_style.safetensors")
    refused(capsys, run, "--unet", adapter, words=words.replace("pytorch_lora_weights", "my_style"))
    # A UNet with an adapter of PEFT, saved unmerged.
    name = f"{layer}.weight"
    edit_weights(
        saved,
        lambda t: (
            {k: x for k, x in t.items() if k != name}
            | {f"{layer}.base_layer.weight": t[name]}
            | {f"{layer}.{k}.default.weight": x.numpy() for k, x in low_rank.items()}
        ),
    )
    words = r"unmerged LoRA adapter \(2 tensors such as .*lora_A.*\)\. Merge .*unload_lora"
    refused(capsys, run, "--unet", saved, words=words)


def quantised(tensors):
    """Names and types of bitsandbytes' 4 bits: each weight is bytes, with its tables beside it."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    tables = {"absmax": np.float32, "quant_map": np.float32}
    tables["quant_state.bitsandbytes__nf4"] = np.uint8
    return tensors | {
        name: np.zeros((128, 1), np.uint8),
        **{f"{name}.{table}": np.zeros(4, dtype) for table, dtype in tables.items()},
    }


def test_quantised_weights(saved, unet, capsys):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    run, whole = saved.parent / "run", weights_of(saved)
    halves = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in unet.state_dict().items()}
    save_file(halves, saved / PLAIN)
    words = r"holds quantised weights \({}\); accepted: float32, .*dequantize"
    refused(capsys, run, "--unet", saved, words=words.format(r"\S+weight is F8_E4M3"))
    edit_weights_to = quantised(whole)
    save_file({k: torch.from_numpy(x.copy()) for k, x in edit_weights_to.items()}, saved / PLAIN)
    refused(capsys, run, "--unet", saved, words=words.format(r"\S+to_q.weight is U8"))
    setting = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    edit_config(saved, lambda config: config | setting)
    refused(capsys, run, "--unet", saved, words=words.format("bitsandbytes"))


ONE_FILE = {
    "a model": (
        ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.x"),
        "Stable Diffusion in one file.*StableDiffusionPipeline.from_single_file.*FOLDER/unet",
    ),
    "XL": (
        ("model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.x"),
        "Stable Diffusion XL in one file, whose UNet is of another design$",
    ),
    "a UNet": (("input_blocks.0.0.weight",), "UNet2DConditionModel.from_single_file"),
    "a VAE": (("encoder.down.0.block.0.conv1.weight",), "AutoencoderKL.from_single_file"),
    "CLIP": (("visual.conv1.weight", "token_embedding.weight"), "transformers' names"),
    "words": (("<cat>",), "a textual-inversion embedding"),
    "an adapter": (("lora_unet_mid_block_x.lora_down.weight",), "a LoRA adapter"),
}


@pytest.mark.parametrize("kind", ONE_FILE)
def test_a_single_file(tmp_path, capsys, kind):
    names, words = ONE_FILE[kind]
    folder = tmp_path / "x"
    folder.mkdir()
    save_file({name: np.zeros(3, np.float32) for name in names}, folder / "v1.safetensors")
    command = (tmp_path / "run", "--unet")
    refused(capsys, *command, folder / "v1.safetensors", words=f"is a file; it holds .*{words}")
    refused(capsys, *command, folder, words=f"no config.json, and v1.safetensors holds .*{words}")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("diffusion_pytorch_model.fp16.bin",), "pickled weights only .*save_pretrained"),
        (("diffusion_flax_model.msgpack",), "Flax weights only .*safetensors for PyTorch$"),
        (("openvino_model.xml", "openvino_model.bin"), "weights for OpenVINO only"),
        (("model.onnx", "weights.pb"), "weights for ONNX only"),
        (("unet-Q8_0.gguf",), r"quantised weights \(GGUF\) only"),
        (("unet.safetensors",), "no weights in .*; unet.safetensors is there$"),
    ],
)
def test_weights_of_other_formats(saved, capsys, names, words):
    (saved / PLAIN).unlink()
    for name in names:
        (saved / name).write_bytes(b"x")
    refused(capsys, saved.parent / "run", "--unet", saved, words=words)


def test_a_file_of_a_model_s_folder(saved, capsys):
    run = saved.parent / "run"
    (saved / "diffusion_pytorch_model.bin").touch()
    for name in ("config.json", PLAIN, "diffusion_pytorch_model.bin"):
        refused(capsys, run, "--unet", saved / name, words=f"is a file; give its folder: {saved}$")
    (saved / PLAIN).unlink()
    refused(capsys, run, "--unet", saved / "diffusion_pytorch_model.bin", words="pickled weights, ")
