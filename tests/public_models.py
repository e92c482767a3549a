"""Public checkpoints in small, and `gen1 import` of them, for the tests of importing."""

import json
import re
import warnings

import pytest
from safetensors.numpy import load_file, save_file
from tiny_unet import drawn_params, tiny

from gen1_jax import cli
from gen1_jax.models.autoencoder import AutoencoderKL
from gen1_jax.models.clip import CLIPModel, CLIPTextConfig, CLIPVisionConfig
from gen1_jax.models.dpt import DPTForDepthEstimation
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.weights.folder import save_model

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
# The tensors that the published Intel/dpt-large lacks.
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
    """Returns a model of diffusers or transformers whose parameters all differ."""
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
    """Returns config.json without the entries of the library that wrote it."""

    def plain(config):
        own = {"architectures", "dtype", "transformers_version"}
        kept = {k: v for k, v in config.items() if k not in own and not k.startswith("_")}
        return {k: plain(v) if isinstance(v, dict) else v for k, v in kept.items()}

    # In transformers the config writes itself; in diffusers the model writes it.
    writer = model.config if hasattr(model.config, "to_json_string") else model
    return plain(json.loads(writer.to_json_string()))


def edit_weights(folder, change):
    """Replaces the tensors of a folder, which are in one file, by `change(tensors)`."""
    (file,) = folder.glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config)))


def weights_of(folder):
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_bits(got, want):
    """Asserts the same names, types, shapes and bits."""
    assert set(got) == set(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


def write_public(root):
    """Writes a folder of each part, a tokenizer beside CLIP and a scheduler beside the UNet."""
    tower = {name: value for name, value in TOWER.items() if name != "projection_dim"}
    modules = {
        "unet": tiny(temporal=False),
        "vae": AutoencoderKL.from_config(VAE),
        "clip": CLIPModel(
            CLIPTextConfig(**tower, vocab_size=60),
            CLIPVisionConfig(**tower, image_size=8, patch_size=4),
            6,
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


# ---- gen1 import


def contents(folder):
    """Returns every path below a folder, with the bytes of files."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


def gen1(capsys, output, *arguments, code=0):
    """Runs `gen1 import -o OUTPUT …`; returns stdout and the lines of stderr that are ours."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of its own
        got = cli.main([str(x) for x in ("import", "-o", output, *arguments)])
    out, err = capsys.readouterr()
    assert got == code and "Traceback" not in err, err
    return out, [line for line in re.split(r"[\r\n]+", err) if line.startswith("gen1: ")]


def refused(capsys, output, *arguments, words):
    """Runs `gen1 import`, which must end in one line and change nothing in or beside the output.

    `words` is a pattern of the culprit's name. Returns the line.
    """
    before = contents(output.parent)
    _, lines = gen1(capsys, output, *arguments, code=2)
    assert len(lines) == 1 and re.search(words, lines[0]), lines
    assert contents(output.parent) == before
    return lines[0]
