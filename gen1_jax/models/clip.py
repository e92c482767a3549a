"""CLIP: image and text embeddings in one space (Radford et al., arXiv 2103.00020).

Names, shapes and results are those of transformers' `CLIPModel`. `position_ids`, a constant 0 1 2 …
that old checkpoints hold (`text_model.embeddings.position_ids`, and so for vision), is no
parameter: the naming rule drops it on import.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen1_jax.errors import UserError
from gen1_jax.models.layers import ACTIVATIONS, Conv, Dense, LayerNorm, attention

# Mean and standard deviation of CLIP's training images, red green blue in [0, 1].
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


class _FromDict:
    """Building from the dicts of a config.json, where unknown keys are of no interest here."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        known = {field.name: field for field in dataclasses.fields(cls)}
        chosen = {name: value for name, value in values.items() if name in known}
        for name, value in chosen.items():
            wanted = known[name].type
            if wanted is float and type(value) is int:
                chosen[name] = float(value)
            elif type(value) is not wanted:
                raise UserError(
                    f"{cls.__name__} {name} is {value!r}; accepted: one {wanted.__name__}"
                )
        config = cls(**chosen)
        if config.hidden_act not in ACTIVATIONS:
            accepted = ", ".join(ACTIVATIONS)
            raise UserError(f"CLIP hidden_act is {config.hidden_act!r}; accepted: {accepted}")
        if config.hidden_size % config.num_attention_heads:
            raise UserError(
                f"CLIP hidden_size {config.hidden_size} does not split into num_attention_heads "
                f"{config.num_attention_heads}; accepted: a multiple"
            )
        return config


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(_FromDict):
    """`text_config` of a CLIP config.json, with transformers' defaults.

    `eos_token_id` 2 marks checkpoints whose true end token is the largest id (OpenAI's own).
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    bos_token_id: int = 49406
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig(_FromDict):
    """`vision_config` of a CLIP config.json, with transformers' defaults. Images are square."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


Config = CLIPTextConfig | CLIPVisionConfig


def _dense(features: int, std: float, name: str | None = None, **options: Any) -> Dense:
    return Dense(features, kernel_init=nn.initializers.normal(std), name=name, **options)


class Attention(nn.Module):
    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """x [b l c] -> [b l c]."""
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        # Initial scales of the CLIP paper's code: residual inputs shrink with depth.
        std = (width * 2 * self.config.num_hidden_layers) ** -0.5

        def project(name: str) -> jax.Array:
            y = _dense(width, std, name, dtype=self.dtype)(x)
            return y.reshape(*y.shape[:-1], heads, width // heads)

        y = attention(project("q_proj"), project("k_proj"), project("v_proj"), mask)
        return _dense(width, width**-0.5, "out_proj", dtype=self.dtype)(y.reshape(x.shape))


class MLP(nn.Module):
    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b l c] -> [b l c]."""
        width, depth = self.config.hidden_size, self.config.num_hidden_layers
        std = (2 * width) ** -0.5
        x = _dense(self.config.intermediate_size, std, "fc1", dtype=self.dtype)(x)
        x = ACTIVATIONS[self.config.hidden_act](x)
        return _dense(width, (width * 2 * depth) ** -0.5, "fc2", dtype=self.dtype)(x)


class EncoderLayer(nn.Module):
    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """x [b l c] -> [b l c]: attention and MLP, each behind a norm, each on a residual."""
        eps = self.config.layer_norm_eps
        y = LayerNorm(eps, self.dtype, name="layer_norm1")(x)
        x = x + Attention(self.config, self.dtype, name="self_attn")(y, mask)
        y = LayerNorm(eps, self.dtype, name="layer_norm2")(x)
        return x + MLP(self.config, self.dtype, name="mlp")(y)


class Encoder(nn.Module):
    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """x [b l c] -> [b l c]."""
        for i in range(self.config.num_hidden_layers):
            x = EncoderLayer(self.config, self.dtype, name=f"layers_{i}")(x, mask)
        return x


def _embed(count: int, width: int, dtype: Any, name: str) -> nn.Embed:
    init = nn.initializers.normal(0.02)
    return nn.Embed(count, width, dtype=dtype, embedding_init=init, name=name)


class TextEmbeddings(nn.Module):
    config: CLIPTextConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens [b l] int32 -> [b l c]."""
        config, length = self.config, tokens.shape[1]
        if length > config.max_position_embeddings:
            raise UserError(
                f"CLIP was given {length} tokens; accepted: up to {config.max_position_embeddings}"
            )
        width, positions = config.hidden_size, jnp.arange(length)
        x = _embed(config.vocab_size, width, self.dtype, "token_embedding")(tokens)
        table = _embed(config.max_position_embeddings, width, self.dtype, "position_embedding")
        return x + table(positions)


class VisionEmbeddings(nn.Module):
    config: CLIPVisionConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """pixels [b H W 3] -> [b l c]: the class token, then the patches row by row."""
        config = self.config
        wanted = (config.image_size, config.image_size, config.num_channels)
        if pixels.shape[1:] != wanted:
            raise UserError(
                f"CLIP was given images of shape {pixels.shape[1:]}; accepted: {wanted}"
            )
        width, patch = config.hidden_size, config.patch_size
        patches = Conv(
            width,
            patch,
            strides=patch,
            padding=0,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.02),
            name="patch_embedding",
        )(pixels)
        patches = patches.reshape(patches.shape[0], -1, width)
        init = nn.initializers.normal(width**-0.5)
        token = self.param("class_embedding", init, (width,)).astype(patches.dtype)
        token = jnp.broadcast_to(token, (patches.shape[0], 1, width))
        x = jnp.concatenate([token, patches], axis=1)
        positions = jnp.arange(x.shape[1])
        return x + _embed(len(positions), width, self.dtype, "position_embedding")(positions)


class TextModel(nn.Module):
    config: CLIPTextConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """tokens [b l] -> (states after the final norm [b l c], that of the end token [b c])."""
        config, length = self.config, tokens.shape[1]
        x = TextEmbeddings(config, self.dtype, name="embeddings")(tokens)
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        x = Encoder(config, self.dtype, name="encoder")(x, causal)
        x = LayerNorm(config.layer_norm_eps, self.dtype, name="final_layer_norm")(x)
        # eos_token_id 2 was wrong in the published configs; there the end token is the largest id.
        marks = tokens if config.eos_token_id == 2 else tokens == config.eos_token_id
        end = jnp.argmax(marks, axis=1)  # the first, where several are largest
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return x, pooled


class VisionModel(nn.Module):
    config: CLIPVisionConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """pixels [b H W 3] -> normalised class token [b c]."""
        eps = self.config.layer_norm_eps
        x = VisionEmbeddings(self.config, self.dtype, name="embeddings")(pixels)
        x = LayerNorm(eps, self.dtype, name="pre_layrnorm")(x)  # spelt so in the checkpoints
        x = Encoder(self.config, self.dtype, name="encoder")(x)
        return LayerNorm(eps, self.dtype, name="post_layernorm")(x[:, 0])


class CLIPModel(nn.Module):
    """Both towers and their projections into one embedding space.

    Attributes:
      text_config, vision_config: sizes of the towers (a dict is converted).
      projection_dim: width d of the shared space.
      logit_scale_init_value: logarithm of the initial inverse temperature.
      dtype: compute type; None computes in the input's. Embeddings are returned as float32.
    """

    text_config: CLIPTextConfig = CLIPTextConfig()
    vision_config: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    dtype: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.text_config, Mapping):
            self.text_config = CLIPTextConfig.from_dict(self.text_config)
        if isinstance(self.vision_config, Mapping):
            self.vision_config = CLIPVisionConfig.from_dict(self.vision_config)
        super().__post_init__()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "CLIPModel":
        """The module that a config.json (a dict) describes; UserError where it is not supported."""
        if (kind := config.get("model_type", "clip")) != "clip":
            raise UserError(f"config.json has model_type {kind!r}; accepted: 'clip'")
        # Old configs repeat a tower's settings under "…_config_dict", which then count, with the
        # defaults for what is not named there (so transformers reads them).
        towers = {
            name: config.get(f"{name}_dict") or config.get(name) or {}
            for name in ("text_config", "vision_config")
        }
        return cls(
            text_config=CLIPTextConfig.from_dict(towers["text_config"]),
            vision_config=CLIPVisionConfig.from_dict(towers["vision_config"]),
            projection_dim=int(config.get("projection_dim", 512)),
            logit_scale_init_value=float(config.get("logit_scale_init_value", 2.6592)),
            dtype=dtype,
        )

    def to_config(self) -> dict[str, Any]:
        """The content of config.json, as transformers reads it."""
        text = {"model_type": "clip_text_model", **dataclasses.asdict(self.text_config)}
        vision = {"model_type": "clip_vision_model", **dataclasses.asdict(self.vision_config)}
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "text_config": text,
            "vision_config": vision,
        }

    def dummy_inputs(self) -> tuple[jax.Array, jax.Array]:
        """Arguments of `__call__` to initialise with."""
        size, channels = self.vision_config.image_size, self.vision_config.num_channels
        return jnp.zeros((1, size, size, channels)), jnp.zeros((1, 2), jnp.int32)

    def setup(self) -> None:
        self.text_model = TextModel(self.text_config, self.dtype)
        self.vision_model = VisionModel(self.vision_config, self.dtype)
        options = {"use_bias": False, "dtype": self.dtype}
        text_std = self.text_config.hidden_size**-0.5
        vision_std = self.vision_config.hidden_size**-0.5
        self.text_projection = _dense(self.projection_dim, text_std, **options)
        self.visual_projection = _dense(self.projection_dim, vision_std, **options)
        init = nn.initializers.constant(self.logit_scale_init_value)
        self.logit_scale = self.param("logit_scale", init, ())

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """pixels [b H W 3], preprocessed -> image embeddings [b d], not normalised."""
        return self.visual_projection(self.vision_model(pixels)).astype(jnp.float32)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """tokens [b l] int32, padded -> text embeddings [b d], not normalised."""
        return self.text_hidden_states(tokens)[1]

    def text_hidden_states(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """tokens [b l] -> (states after the final norm [b l c], text embeddings [b d])."""
        states, pooled = self.text_model(tokens)
        embeddings = self.text_projection(pooled)
        return states.astype(jnp.float32), embeddings.astype(jnp.float32)

    def __call__(
        self, pixels: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Embeddings on the unit sphere, as the contrastive loss takes them.

        Args:
          pixels: [b H W 3] float, preprocessed.
          tokens: [b l] int32.

        Returns:
          image embeddings [b d], text embeddings [b d], and the factor of their products (a scalar,
          exp(logit_scale)).
        """
        images, texts = self.encode_image(pixels), self.encode_text(tokens)
        images = images / jnp.linalg.norm(images, axis=-1, keepdims=True)
        texts = texts / jnp.linalg.norm(texts, axis=-1, keepdims=True)
        return images, texts, jnp.exp(self.logit_scale)


def preprocess(frames: jax.Array, size: int) -> jax.Array:
    """CLIP's input from 8-bit frames: shorter side to `size` (bicubic), centre crop, normalisation.

    Args:
      frames: [... H W 3] uint8.
      size: side of the square that the model takes, `vision_config.image_size`.

    Returns:
      [... size size 3] float32.
    """
    *batch, height, width, channels = frames.shape
    x = jnp.asarray(frames).astype(jnp.float32)
    if (height, width) != (size, size):
        shorter = min(height, width)
        height, width = (size * side // shorter for side in (height, width))
        for shape in ((x.shape[-3], width), (height, width)):
            x = jax.image.resize(x, (*batch, *shape, channels), "cubic", antialias=True)
            x = jnp.clip(
                jnp.round(x), 0, 255
            )  # as Pillow does, in 8 bits, one axis after the other
        top, left = (height - size) // 2, (width - size) // 2
        x = x[..., top : top + size, left : left + size, :]
    return (x / 255 - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
