"""Names the kinds of checkpoints that we do not read, and says what their owners can do.

The kinds are those that people have: adapters, quantised weights, whole models in one file, models
of other designs, and other frameworks' files.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

FLOATS = "float32, float16, bfloat16"

# ---- by the names of files

# How libraries and training scripts name the file of an adapter.
_ADAPTER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_ADAPTER_ALONE = (
    "a LoRA adapter, which changes a model and is none. Merge it in diffusers: load the pipeline "
    "that it belongs to, then pipe.load_lora_weights(ADAPTER), pipe.fuse_lora(), "
    "pipe.unload_lora_weights() and pipe.unet.save_pretrained(FOLDER)"
)

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_UNPICKLE = (
    "which can run any code when read; accepted: safetensors. Convert them once, where you trust "
    "them: load the model in diffusers or transformers and call save_pretrained(FOLDER)"
)
# Pattern of a file's name → what the file is. Other frameworks come before pickles, because
# OpenVINO's files end in .bin too.
_FRAMEWORKS = {
    r"openvino_\w+\.(xml|bin)": "weights for OpenVINO",
    r".*\.onnx(_data)?|weights\.pb": "weights for ONNX",
    r".*\.msgpack": "Flax weights",
    r".*\.h5": "TensorFlow weights",
    r".*\.(gguf|ggml)": "quantised weights (GGUF)",
    r".*\.(mlmodelc|mlpackage)": "weights for Core ML",
    r".*\.(engine|plan|trt)": "weights for TensorRT",
}


def advice_on_names(names: Iterable[str], where: str) -> str | None:
    """Returns what a folder holds in place of weights that we read, by the names of its files.

    Args:
      names: the names of the files.
      where: the folder, with which the line begins.

    Returns:
      The line, or None if nothing is known by its name.
    """
    names = sorted(names)
    for pattern, what in _FRAMEWORKS.items():
        for name in names:
            if re.fullmatch(pattern, name):
                return (
                    f"{where} holds {what} only ({name}); accepted: the same model's safetensors "
                    "for PyTorch"
                )
    if pickled := [name for name in names if name.endswith(_PICKLED)]:
        return f"{where} holds pickled weights only ({pickled[0]}), {_UNPICKLE}"
    return None


def advice_on_file_name(name: str) -> str | None:
    """Returns what a file holds by its name alone, as the end of a line; None if it is unknown."""
    if name in _ADAPTER_FILES:
        return _ADAPTER_ALONE
    for pattern, what in _FRAMEWORKS.items():
        if re.fullmatch(pattern, name):
            return f"{what}; accepted: the same model's safetensors for PyTorch"
    if name.endswith(_PICKLED):
        return (
            f"pickled weights, {_UNPICKLE}; Stable Diffusion in one file is loaded by "
            "StableDiffusionPipeline.from_single_file"
        )
    return None


# ---- by the tensors

# LoRA and its kin, as diffusers, PEFT, kohya's scripts and LyCORIS name them.
_ADAPTER = re.compile(
    r"(^|[._])(lora_[A-Za-z]+|lora\.(up|down)|hada_w[12]|lokr_w[12]|oft_\w+|dora_scale)([._]|$)"
)
_UNDER_ADAPTER = ".base_layer."
# A quantised weight is bytes with tables beside it: bitsandbytes', torchao's, quanto's, GPTQ's.
_QUANTISED = re.compile(r"(^|[._])q?weight(\._data|_qdata)?$")
_BYTES = re.compile(r"F8_|F4|F6_|[IU](8|16|32)$")
_EMBEDDING = "a textual-inversion embedding, which is a word and no model"


class _InOneFile(NamedTuple):
    """A model in one file: how one of its tensors is named, what it is, how it becomes a folder."""

    pattern: str
    what: str
    loader: str


_SAVED = "Turn it into {} with diffusers: {}.from_single_file(FILE).save_pretrained(FOLDER)"
_ONE_FILE = (
    _InOneFile(
        r"conditioner\.embedders\.\d",
        "Stable Diffusion XL in one file, whose UNet is of another design",
        "",
    ),
    _InOneFile(r"control_model\.", "a ControlNet in one file, which steers a UNet and is none", ""),
    _InOneFile(
        r"model\.diffusion_model\.input_blocks\.",
        "Stable Diffusion in one file",
        _SAVED.format("folders", "StableDiffusionPipeline") + ", then give FOLDER/unet, FOLDER/vae",
    ),
    _InOneFile(
        r"model\.diffusion_model\.",
        "a diffusion model in one file, of another design than Stable Diffusion 1.x and 2.x",
        "",
    ),
    _InOneFile(
        r"(input_blocks\.\d+\.|middle_block\.)",
        "Stable Diffusion's UNet in one file",
        _SAVED.format("a folder", "UNet2DConditionModel"),
    ),
    _InOneFile(
        r"(first_stage_model\.)?(encoder\.down\.\d|decoder\.up\.\d)",
        "an autoencoder in one file",
        _SAVED.format("a folder", "AutoencoderKL"),
    ),
    _InOneFile(
        r"visual\.(conv1|transformer\.resblocks|trunk)\b",
        "CLIP in the names of OpenAI or OpenCLIP; accepted: the same model in transformers' names, "
        "which the hub's repository has as model.safetensors",
        "",
    ),
    _InOneFile(r"(ip_adapter|image_proj)\.", "an IP-Adapter, which steers a UNet and is none", ""),
    _InOneFile(r".*\.motion_modules\.", "motion modules of AnimateDiff without their UNet", ""),
)


def advice_on_tensors(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
) -> str | None:
    """Returns what tensors are that no model of ours has, as the end of a line; None if unknown.

    Args:
      shapes: the shape of each tensor, by name.
      dtypes: the type of each tensor, as safetensors write it.
    """
    if adapters := [name for name in shapes if _ADAPTER.search(name)]:
        if any(_UNDER_ADAPTER in name for name in shapes):
            return (
                f"a model with an unmerged LoRA adapter ({len(adapters)} tensors such as "
                f"{adapters[0]}). Merge it where the model is loaded: fuse_lora() and "
                "unload_lora() in diffusers, merge_and_unload() in PEFT; then "
                "save_pretrained(FOLDER)"
            )
        return _ADAPTER_ALONE
    for name, dtype in dtypes.items():
        if _QUANTISED.search(name) and _BYTES.match(dtype):
            return quantised(f"{name} is {dtype}")
    for pattern, what, loader in _ONE_FILE:
        if any(re.match(pattern, name) for name in shapes):
            return ". ".join(filter(None, (what, loader)))
    return None


def advice_on_embedding(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns what a file of hardly any tensor is: a word's embedding, under the word itself."""
    flat = all("." not in name and len(shape) <= 2 for name, shape in shapes.items())
    return _EMBEDDING if shapes and flat else None


def quantised(how: str) -> str:
    """Returns what quantised weights are, as the end of a line."""
    return (
        f"quantised weights ({how}); accepted: {FLOATS}. Give the checkpoint that they were made "
        "from, or load them in diffusers or transformers, call dequantize() and then "
        "save_pretrained(FOLDER)"
    )


# ---- by config.json

# The class or the `model_type` of a config.json → what that is.
_MODELS = {
    r"\w*ControlNet\w*|T2IAdapter|MultiAdapter": "which steers a UNet and is none",
    r"UNetMotionModel": "AnimateDiff's UNet, whose motion modules are not our temporal layers",
    r"MotionAdapter": "the motion modules of AnimateDiff without their UNet",
    r"UNet3DConditionModel": "a video UNet of another design (ModelScope, ZeroScope)",
    r"UNetSpatioTemporalConditionModel": "Stable Video Diffusion's UNet",
    r"I2VGenXLUNet": "I2VGen-XL's UNet",
    r"\w+Transformer[23]DModel|\w*DiT\w*": "a diffusion transformer, not a UNet",
    r"AutoencoderKLTemporalDecoder": "Stable Video Diffusion's autoencoder",
    r"AutoencoderTiny|ConsistencyDecoderVAE": "a stand-in for an autoencoder",
    r"Flax\w+": "a Flax model",
}
# A setting of a UNet2DConditionModel, its value (None: any that is on) → what the UNet is.
_UNETS = (
    ("addition_embed_type", "text_time", "Stable Diffusion XL's UNet"),
    ("addition_embed_type", "text_image", "Kandinsky 2.1's UNet"),
    ("addition_embed_type", "image", "Kandinsky 2.2's UNet"),
    ("addition_embed_type", "image_hint", "Kandinsky 2.2's UNet for ControlNet"),
    ("addition_embed_type", "text", "DeepFloyd IF's UNet"),
    ("encoder_hid_dim_type", "ip_image_proj", "a UNet with an IP-Adapter; unload_ip_adapter() in "
     "diffusers and save_pretrained(FOLDER) take it out"),
    ("in_channels", 9, "an inpainting UNet, which sees a mask and a masked image too"),
    ("in_channels", 5, "a UNet that sees depth too, as Stable Diffusion 2's depth model; `gen1 "
     "evaluate --depth-model` takes its whole pipeline as a rival"),
    ("in_channels", 7, "the UNet of Stable Diffusion's ×4 upscaler"),
    ("in_channels", 8, "a UNet that sees a second image too, as InstructPix2Pix"),
    ("class_embed_type", "projection", "a UNet with an embedding beside the text, as Stable "
     "Diffusion 2.1 unCLIP"),
    ("class_embed_type", None, "a UNet with class embeddings"),
    ("num_class_embeds", None, "a UNet with class embeddings"),
    ("time_cond_proj_dim", None, "a UNet distilled with guidance as an input (a latent consistency "
     "model)"),
)  # fmt: skip


def what_a_class_is(kind: str) -> str | None:
    """Returns what a class of diffusers is that we do not have; None if it is not known here."""
    return next((what for name, what in _MODELS.items() if re.fullmatch(name, kind)), None)


def quantised_by(config: Mapping[str, Any]) -> str | None:
    """Returns what a config.json says of quantised weights, as the end of a line; or None."""
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    method = settings.get("quant_method") or settings.get("quant_type") or "quantization_config"
    return quantised(str(method))


def special_unet(config: Mapping[str, Any]) -> str | None:
    """Returns what a UNet is that is not the one of a text-to-image model, or None.

    Args:
      config: the content of config.json of a UNet2DConditionModel; ours need no look.
    """
    if config.get("_class_name") != "UNet2DConditionModel":
        return None
    for key, value, what in _UNETS:
        got = config.get(key)
        if got == value if value is not None else got:
            return f"{what} ({key}={got!r})"
    inputs, outputs = (config.get(key, 4) for key in ("in_channels", "out_channels"))
    if inputs != outputs:
        return (
            f"a UNet with {inputs} input and {outputs} output channels, which needs more than text"
        )
    return None
