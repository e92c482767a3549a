"""The five public models that parity.py compares: their configs, inputs and both sides' calls."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.configs.paper import get_config

# ---- configs of tiny models of the same kinds; the published ones stand in configs/paper.py

SMALL_UNET = {
    "block_out_channels": [16, 16, 32, 32],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
}
SMALL_AUTOENCODER = {
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
SMALL_CLIP = {
    "projection_dim": 24,
    "text_config": {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "bos_token_id": 98,
        "eos_token_id": 99,
    },
    "vision_config": {
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "image_size": 32,
        "patch_size": 8,
    },
}
SMALL_DPT = {
    "hidden_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
    "backbone_out_indices": [0, 2, 3, 4],
    "neck_hidden_sizes": [12, 24, 48, 40],
    "fusion_hidden_size": 16,
}
SMALL_PRIOR = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "num_layers": 2,
    "embedding_dim": 24,
    "num_embeddings": 12,
}

# ---- what is compared


class Case(NamedTuple):
    """One comparison. All arrays are in our layout, channels last.

    Attributes:
      inputs: the inputs of both sides.
      theirs: (PyTorch model, *inputs as tensors) → outputs.
      ours: (our module's `apply`, *inputs) → the same outputs.
    """

    inputs: tuple[np.ndarray, ...]
    theirs: Callable[..., tuple]
    ours: Callable[..., tuple]


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def pixels(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def unet_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def theirs(model, sample, timesteps, context):
        return (channels_last(model(channels_first(sample), timesteps, context).sample),)

    def ours(apply, sample, timesteps, context):
        return (apply(sample[:, None], timesteps, context)[:, 0],)

    def case(batch: int, height: int, width: int, tokens: int) -> Case:
        sample = normal(rng, batch, height, width, config["in_channels"])
        timesteps = rng.integers(0, 1000, batch).astype(np.int32)
        context = normal(rng, batch, tokens, config["cross_attention_dim"])
        return Case((sample, timesteps, context), theirs, ours)

    # Stable Diffusion's context is 77 tokens of a text; Gen-1's is one token, a CLIP embedding.
    return {"unet_32x32": case(2, 32, 32, tokens=77), "unet_56x32": case(1, 56, 32, tokens=1)}


def autoencoder_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def encode(model, images):
        latents = model.encode(channels_first(images)).latent_dist
        return channels_last(latents.mean), channels_last(latents.logvar)

    def decode(model, latents):
        return (channels_last(model.decode(channels_first(latents)).sample),)

    images, latents = pixels(rng, 1, 128, 128, 3), normal(rng, 1, 16, 16, config["latent_channels"])
    return {
        "autoencoder_encode": Case((images,), encode, lambda apply, x: apply(x, method="encode")),
        "autoencoder_decode": Case(
            (latents,), decode, lambda apply, x: (apply(x, method="decode"),)
        ),
    }


def clip_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def image(model, images):
        return (model.get_image_features(channels_first(images)).pooler_output,)

    def text(model, tokens):
        output = model.get_text_features(tokens)
        return output.last_hidden_state, output.pooler_output

    side, text_config = config["vision_config"]["image_size"], config["text_config"]
    length = text_config["max_position_embeddings"]
    begin, end = text_config["vocab_size"] - 2, text_config["vocab_size"] - 1
    tokens = rng.integers(0, begin, (2, length))
    tokens[:, 0] = begin
    for row, text_end in enumerate((length // 4, length - 1)):
        tokens[row, text_end:] = end
    return {
        "clip_image": Case(
            (normal(rng, 2, side, side, 3),),
            image,
            lambda apply, x: (apply(x, method="encode_image"),),
        ),
        "clip_text": Case(
            (tokens.astype(np.int32),),
            text,
            lambda apply, x: apply(x, method="text_hidden_states"),
        ),
    }


def dpt_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def theirs(model, images):
        return (model(channels_first(images)).predicted_depth,)

    def ours(apply, images):
        return (apply(images, method="predicted_depth"),)

    return {"dpt": Case((pixels(rng, 1, *[config["image_size"]] * 2, 3),), theirs, ours)}


def prior_cases(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Case]:
    def theirs(model, *inputs):
        standardised = model(*inputs).predicted_image_embedding
        return standardised, model.post_process_latents(standardised)

    def ours(apply, *inputs):
        standardised = apply(*inputs)
        return standardised, apply(standardised, method="post_process_latents")

    width, length = config["embedding_dim"], config["num_embeddings"]
    inputs = (
        normal(rng, 2, width),
        rng.integers(0, 1000, 2).astype(np.int32),
        normal(rng, 2, width),
        normal(rng, 2, length, width),
        np.arange(length) < np.array([[length], [length // 4]]),  # a long text, a short one
    )
    return {"prior": Case(inputs, theirs, ours)}


_KINDS = ("_class_name", "model_type")  # keys of a config that name its class


class Model(NamedTuple):
    """A public model.

    Attributes:
      part: its name in `gen1 import`, and of its folder.
      reference: library and class of the PyTorch model.
      published: the name of its part in configs/paper.py.
      small: what a tiny model's config changes.
      cases: (config, generator) → the comparisons by name.
      tensors: number of tensors at the published size.
      parameters: number of parameters at the published size.
    """

    part: str
    reference: str
    published: str
    small: Mapping[str, Any]
    cases: Callable[[Mapping[str, Any], np.random.Generator], dict[str, Case]]
    tensors: int
    parameters: int

    def config(self, small: bool) -> dict[str, Any]:
        """Returns the published config, or that of a tiny model, as the reference takes it."""
        config = get_config(self.published).model.to_dict() | (self.small if small else {})
        return {key: value for key, value in config.items() if key not in _KINDS}


MODELS = {
    "unet": Model(
        part="unet",
        reference="diffusers.UNet2DConditionModel",
        published="unet",
        small=SMALL_UNET,
        cases=unet_cases,
        tensors=686,
        parameters=859_520_964,
    ),
    "autoencoder": Model(
        part="vae",
        reference="diffusers.AutoencoderKL",
        published="autoencoder",
        small=SMALL_AUTOENCODER,
        cases=autoencoder_cases,
        tensors=248,
        parameters=83_653_863,
    ),
    "clip": Model(
        part="clip",
        reference="transformers.CLIPModel",
        published="clip",
        small=SMALL_CLIP,
        cases=clip_cases,
        tensors=590,
        parameters=427_616_513,
    ),
    "dpt": Model(
        part="depth",
        reference="transformers.DPTForDepthEstimation",
        published="depth",
        small=SMALL_DPT,
        cases=dpt_cases,
        tensors=462,
        parameters=343_030_465,
    ),
    "prior": Model(
        part="prior",
        reference="diffusers.PriorTransformer",
        published="prior",
        small=SMALL_PRIOR,
        cases=prior_cases,
        tensors=338,
        parameters=1_022_030_080,
    ),
}
