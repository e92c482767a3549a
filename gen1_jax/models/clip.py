"""CLIP: image and text embeddings in one space (Radford et al., arXiv 2103.00020).

Names, shapes and results are those of transformers' `CLIPModel`. Old checkpoints also hold the
constants `position_ids` (0 1 2 …), which are no parameters; the naming rule drops them on import.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from gen1_jax.errors import UserError
from gen1_jax.models.attention import attention
from gen1_jax.models.config import (
    Count,
    Depth,
    Epsilon,
    Logarithm,
    Pixels,
    TokenId,
    Width,
    read_config,
    require,
    require_divisors,
)
from gen1_jax.models.layers import ACTIVATIONS, Activation, Conv, Dense, LayerNorm


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """`text_config` of a CLIP config.json, with transformers' defaults.

    `projection_dim` has no effect here; CLIPModel's own counts.

    Attributes:
      eos_token_id: The token that ends a text. OpenAI's own files say 2, which is wrong;
        `with_end_token` puts the tokenizer's own id there. Without it, the end token is taken to be
        the largest id of a text.
    """

    vocab_size: Width = 49408
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    projection_dim: Count = 512
    num_hidden_layers: Depth = 12
    num_attention_heads: Count = 8
    max_position_embeddings: Width = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    pad_token_id: TokenId = 1
    bos_token_id: TokenId = 49406
    eos_token_id: TokenId = 49407


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """`vision_config` of a CLIP config.json, with transformers' defaults. Images are square."""

    hidden_size: Width = 768
    intermediate_size: Width = 3072
    projection_dim: Count = 512
    num_hidden_layers: Depth = 12
    num_attention_heads: Count = 12
    num_channels: Width = 3
    image_size: Pixels = 224
    patch_size: Pixels = 32
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5


Config = CLIPTextConfig | CLIPVisionConfig

_UNKNOWN_END = 2  # OpenAI's wrong id of the end token


def find_ends(config: CLIPTextConfig, tokens: jax.Array) -> jax.Array:
    """Returns [b l], True at the end tokens of tokens [b l], of which the first ends the text."""
    if config.eos_token_id == _UNKNOWN_END:
        return tokens == tokens.max(-1, keepdims=True)
    return tokens == config.eos_token_id


def with_end_token(config: Mapping[str, Any], end_id: int) -> dict[str, Any]:
    """Returns a config.json with the tokenizer's end token, where it has OpenAI's wrong one.

    So a token that was added behind the end token, as textual inversion does, ends no text.

    Args:
      config: As `CLIPModel.to_config` writes it.
      end_id: The id of the tokenizer's end token.
    """
    text = config["text_config"]
    if text["eos_token_id"] != _UNKNOWN_END:
        return dict(config)
    return {**config, "text_config": {**text, "eos_token_id": end_id}}


def _dense(features: int, std: float, name: str | None = None, **options: Any) -> Dense:
    return Dense(features, kernel_init=nn.initializers.normal(std), name=name, **options)


class Attention(nn.Module):
    """Multi-head self-attention, whose projections have biases."""

    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns [b l c] from x [b l c] and a mask broadcastable to [b heads l l]."""
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        # Initial scales of the CLIP paper's code: what is added to a residual shrinks with depth.
        std = (width * 2 * self.config.num_hidden_layers) ** -0.5

        def project(name: str) -> jax.Array:
            y = _dense(width, std, name, dtype=self.dtype)(x)
            return y.reshape(*y.shape[:-1], heads, width // heads)

        y = attention(project("q_proj"), project("k_proj"), project("v_proj"), mask)
        return _dense(width, width**-0.5, "out_proj", dtype=self.dtype)(y.reshape(x.shape))


class MLP(nn.Module):
    """Two dense layers with an activation between them."""

    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b l c] from x [b l c]."""
        width, depth = self.config.hidden_size, self.config.num_hidden_layers
        std = (2 * width) ** -0.5
        x = _dense(self.config.intermediate_size, std, "fc1", dtype=self.dtype)(x)
        x = ACTIVATIONS[self.config.hidden_act](x)
        return _dense(width, (width * 2 * depth) ** -0.5, "fc2", dtype=self.dtype)(x)


class EncoderLayer(nn.Module):
    """Attention and MLP, each behind a norm, on a residual."""

    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns [b l c] from x [b l c] and a mask broadcastable to [b heads l l]."""
        eps = self.config.layer_norm_eps
        y = LayerNorm(eps, self.dtype, name="layer_norm1")(x)
        x = x + Attention(self.config, self.dtype, name="self_attn")(y, mask)
        y = LayerNorm(eps, self.dtype, name="layer_norm2")(x)
        return x + MLP(self.config, self.dtype, name="mlp")(y)


class Encoder(nn.Module):
    """All layers of a tower."""

    config: Config
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns [b l c] from x [b l c] and a mask broadcastable to [b heads l l]."""
        for i in range(self.config.num_hidden_layers):
            x = EncoderLayer(self.config, self.dtype, name=f"layers_{i}")(x, mask)
        return x


def _embed(count: int, width: int, dtype: Any, name: str) -> nn.Embed:
    init = nn.initializers.normal(0.02)
    return nn.Embed(count, width, dtype=dtype, embedding_init=init, name=name)


class TextEmbeddings(nn.Module):
    """Embeddings of tokens and of their positions."""

    config: CLIPTextConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns [b l c] from tokens [b l] int32."""
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
    """Embeddings of an image's patches, and of a class token before them."""

    config: CLIPVisionConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns [b l c] from pixels [b H W 3]: the class token, then the patches row by row."""
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
    """The text tower."""

    config: CLIPTextConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the states after the final norm, and the one at the end token.

        Args:
          tokens: [b l] int32.

        Returns:
          States [b l c]; the end token's state [b c].
        """
        config, length = self.config, tokens.shape[1]
        x = TextEmbeddings(config, self.dtype, name="embeddings")(tokens)
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        x = Encoder(config, self.dtype, name="encoder")(x, causal)
        x = LayerNorm(config.layer_norm_eps, self.dtype, name="final_layer_norm")(x)
        end = jnp.argmax(find_ends(config, tokens), axis=1)  # the first of several end tokens
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return x, pooled

    def dummy_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns shapes of the arguments of `init`."""
        return (jax.ShapeDtypeStruct((1, 2), jnp.int32),)


class VisionModel(nn.Module):
    """The image tower."""

    config: CLIPVisionConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns the class token after the final norm [b c], from pixels [b H W 3]."""
        eps = self.config.layer_norm_eps
        x = VisionEmbeddings(self.config, self.dtype, name="embeddings")(pixels)
        x = LayerNorm(eps, self.dtype, name="pre_layrnorm")(x)  # the checkpoints' spelling
        x = Encoder(self.config, self.dtype, name="encoder")(x)
        return LayerNorm(eps, self.dtype, name="post_layernorm")(x[:, 0])


class CLIPModel(nn.Module):
    """Both towers, and their projections into one embedding space.

    Attributes:
      text_config: Sizes of the text tower.
      vision_config: Sizes of the image tower.
      projection_dim: Width d of the shared space.
      logit_scale_init_value: Logarithm of the initial inverse temperature.
      dtype: Compute type; None computes in the input's. Embeddings are float32 in any case.
    """

    text_config: CLIPTextConfig = CLIPTextConfig()
    vision_config: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: Width = 512
    logit_scale_init_value: Logarithm = 2.6592
    dtype: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "CLIPModel":
        """Builds the module that a config.json describes; unknown keys have no effect.

        Raises:
          UserError: A setting that is not supported.
        """
        settings = {**config}
        for name in ("text_config", "vision_config"):
            # Old files repeat a tower's settings under "…_config_dict". Those count, with the
            # defaults for what they do not name; transformers reads them so.
            tower = config.get(f"{name}_dict") or config.get(name)
            settings[name] = {} if tower is None else tower
        fixed = {"model_type": "clip"}
        fields = read_config(cls, settings, fixed=fixed, ignore_unknown=True)
        module = cls(**fields, dtype=dtype)
        module.check()
        return module

    def check(self) -> None:
        """Raises a UserError about the first settings that do not fit together."""
        for tower in (self.text_config, self.vision_config):
            heads = (tower.num_attention_heads,)
            require_divisors(tower, "num_attention_heads", heads, "hidden_size")
        vision = self.vision_config
        fits = vision.patch_size <= vision.image_size
        require(vision, "patch_size", fits, f"at most image_size {vision.image_size}")

    def to_config(self) -> dict[str, Any]:
        """Returns the content of a config.json that `from_config` and transformers read."""
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

    def dummy_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns shapes of the arguments of `init`."""
        size, channels = self.vision_config.image_size, self.vision_config.num_channels
        return (
            jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32),
            jax.ShapeDtypeStruct((1, 2), jnp.int32),
        )

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
        """Returns image embeddings [b d], not normalised, from preprocessed pixels [b H W 3]."""
        chex.assert_rank(pixels, 4)
        return self.visual_projection(self.vision_model(pixels)).astype(jnp.float32)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Returns text embeddings [b d], not normalised, from padded tokens [b l]."""
        return self.text_hidden_states(tokens)[1]

    def text_hidden_states(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the text tower's states, and the text embeddings.

        Args:
          tokens: [b l] int32, padded.

        Returns:
          States after the final norm [b l c]; text embeddings [b d], not normalised.
        """
        chex.assert_rank(tokens, 2)
        chex.assert_type(tokens, int)
        states, pooled = self.text_model(tokens)
        embeddings = self.text_projection(pooled)
        return states.astype(jnp.float32), embeddings.astype(jnp.float32)

    def __call__(
        self, pixels: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns embeddings on the unit sphere, as the contrastive loss takes them.

        Args:
          pixels: [b H W 3] float, preprocessed.
          tokens: [b l] int32, padded.

        Returns:
          Image embeddings [b d]; text embeddings [b d]; the factor of their products, which is the
          scalar exp(logit_scale).
        """
        images, texts = self.encode_image(pixels), self.encode_text(tokens)
        images = images / jnp.linalg.norm(images, axis=-1, keepdims=True)
        texts = texts / jnp.linalg.norm(texts, axis=-1, keepdims=True)
        return images, texts, jnp.exp(self.logit_scale)
