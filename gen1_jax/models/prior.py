"""unCLIP's prior from text to image embeddings (diffusers' `PriorTransformer`).

Karlo and Kandinsky 2.1 publish one. It is a causal transformer over text tokens, the pooled text,
the time, the noisy image embedding and a learned token. The output at the learned token predicts
the image embedding without noise. `gen1_jax/diffusion/prior.py` holds the diffusion process.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gen1_jax.errors import UserError
from gen1_jax.models.attention import attention
from gen1_jax.models.config import (
    Depth,
    Range,
    Scale,
    Width,
    read_config,
    require,
    write_config,
)
from gen1_jax.models.layers import (
    ACTIVATIONS,
    Activation,
    Dense,
    LayerNorm,
    gelu,
    timestep_embedding,
)

_EPSILON = 1e-5
# Our own settings, and the key of config.json that holds them. diffusers passes over keys that
# begin with "_", and keeps them.
SCALE, CLAMP = OWN_KEYS = ("text_embedding_scale", "clip_sample_range")
OWN = "_gen1"


def read_own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of our own settings that a config.json, or a user's `model`, says."""
    own = config.get(OWN)
    own = own if isinstance(own, Mapping) else {}
    return {key: place[key] for key in OWN_KEYS for place in (own, config) if key in place}


class TimeEmbedding(nn.Module):
    """Two dense layers on the sinusoidal embedding of the timestep, [b d] → [b features]."""

    hidden: int
    features: int
    act_fn: Activation
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Dense(self.hidden, dtype=self.dtype, name="linear_1")(x)
        return Dense(self.features, dtype=self.dtype, name="linear_2")(ACTIVATIONS[self.act_fn](x))


class SelfAttention(nn.Module):
    """Multi-head self-attention, whose projections have biases."""

    num_heads: int
    head_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns [b l d] from x [b l d] and a mask broadcastable to [b heads l l]."""
        width = self.num_heads * self.head_dim
        q, k, v = (Dense(width, dtype=self.dtype, name=f"to_{name}")(x) for name in "qkv")
        q, k, v = (rearrange(y, "b l (k d) -> b l k d", k=self.num_heads) for y in (q, k, v))
        y = rearrange(attention(q, k, v, mask=mask), "b l k d -> b l (k d)")
        return Dense(x.shape[-1], dtype=self.dtype, name="to_out_0")(y)


class GeluProjection(nn.Module):
    """A dense layer and GELU, one name deeper as in diffusers' keys (`ff.net.0.proj`)."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return gelu(Dense(self.features, dtype=self.dtype, name="proj")(x))


class FeedForward(nn.Module):
    """Two dense layers with a GELU between them, where x [b l d] is four times as wide."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = GeluProjection(4 * x.shape[-1], dtype=self.dtype, name="net_0")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="net_2")(y)


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, each behind a norm, on a residual; [b l d] → same.

    diffusers' `norm2` belongs to cross-attention, which the prior lacks.
    """

    num_heads: int
    head_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        attend = SelfAttention(self.num_heads, self.head_dim, dtype=self.dtype, name="attn1")
        x = x + attend(LayerNorm(_EPSILON, dtype=self.dtype, name="norm1")(x), mask)
        y = LayerNorm(_EPSILON, dtype=self.dtype, name="norm3")(x)
        return x + FeedForward(dtype=self.dtype, name="ff")(y)


class PriorTransformer(nn.Module):
    """Predicts a CLIP image embedding from its noisy version and from the text's CLIP states.

    The fields are the keys of the public config.json, with diffusers' defaults, and two of our own
    that say how the prior is used; config.json holds these under `_gen1`. `dtype` is the compute
    type.

    The parameters `clip_mean` and `clip_std` are statistics of the data and not learned. A new
    model has 0 and 1; the training sets them from the data and applies no weight decay to them.

    Attributes:
      text_embedding_scale: The length of the text embedding that the prior reads: "raw", CLIP's
        own, as Karlo and Kandinsky were trained, or "content", √d, as our training makes it.
      clip_sample_range: The bound of the predicted standardised embedding in sampling, named as in
        diffusers' `UnCLIPScheduler`; 5 for Karlo, 10 for Kandinsky 2.1.
    """

    num_attention_heads: Width = 32
    attention_head_dim: Width = 64
    num_layers: Depth = 20
    embedding_dim: Width = 768
    num_embeddings: Width = 77
    additional_embeddings: int = 4
    dropout: Annotated[float, Range(0, 0)] = 0.0
    time_embed_act_fn: Activation = "silu"
    norm_in_type: Literal["layer"] | None = None
    embedding_proj_norm_type: Literal["layer"] | None = None
    encoder_hid_proj_type: Literal["linear"] = "linear"
    added_emb_type: Literal["prd"] | None = "prd"
    time_embed_dim: Width | None = None
    embedding_proj_dim: Width | None = None
    clip_embed_dim: Width | None = None
    text_embedding_scale: Literal["raw", "content"] = "raw"
    clip_sample_range: Scale = 5.0
    dtype: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "PriorTransformer":
        """Builds the module that a config.json describes.

        Raises:
          UserError: A setting that is not supported.
        """
        module = cls(**read_config(cls, {**config, **read_own(config)}), dtype=dtype)
        module.check()
        return module

    def to_config(self) -> dict[str, Any]:
        """Returns the content of a config.json that `from_config` and diffusers read."""
        config = write_config(self)
        own = {key: config.pop(key) for key in OWN_KEYS}
        return {**config, OWN: own}

    @property
    def width(self) -> int:
        """Channels of the transformer."""
        return self.num_attention_heads * self.attention_head_dim

    def dummy_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns shapes of the arguments of `init`, for a batch of one."""
        tokens = (1, self.num_embeddings)
        text_dim = self.embedding_proj_dim or self.embedding_dim
        return (
            jax.ShapeDtypeStruct((1, self.embedding_dim), jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
            jax.ShapeDtypeStruct((1, text_dim), jnp.float32),
            jax.ShapeDtypeStruct((*tokens, self.embedding_dim), jnp.float32),
            jax.ShapeDtypeStruct(tokens, jnp.bool_),
        )

    def check(self) -> None:
        """Raises a UserError about the first settings that do not fit together."""
        additional = 4 if self.added_emb_type == "prd" else 3
        fits = self.additional_embeddings == additional
        require(self, "additional_embeddings", fits, str(additional))
        fits = self.width <= 2**20
        require(self, "attention_head_dim", fits, "at most 1048576 channels in all heads")

    def setup(self) -> None:
        width = self.width
        clip_dim = self.clip_embed_dim or self.embedding_dim
        length = self.num_embeddings + self.additional_embeddings
        small = nn.initializers.normal(0.02)
        self.positional_embedding = self.param("positional_embedding", small, (1, length, width))
        if self.added_emb_type == "prd":
            self.prd_embedding = self.param("prd_embedding", small, (1, 1, width))
        self.clip_mean = self.param("clip_mean", nn.initializers.zeros, (1, clip_dim))
        self.clip_std = self.param("clip_std", nn.initializers.ones, (1, clip_dim))

        hidden = self.time_embed_dim or width
        self.time_embedding = TimeEmbedding(hidden, width, self.time_embed_act_fn, dtype=self.dtype)
        self.proj_in = Dense(width, dtype=self.dtype)
        if self.embedding_proj_norm_type == "layer":
            self.embedding_proj_norm = LayerNorm(_EPSILON, dtype=self.dtype)
        self.embedding_proj = Dense(width, dtype=self.dtype)
        self.encoder_hidden_states_proj = Dense(width, dtype=self.dtype)
        if self.norm_in_type == "layer":
            self.norm_in = LayerNorm(_EPSILON, dtype=self.dtype)
        self.transformer_blocks = [
            TransformerBlock(self.num_attention_heads, self.attention_head_dim, dtype=self.dtype)
            for _ in range(self.num_layers)
        ]
        self.norm_out = LayerNorm(_EPSILON, dtype=self.dtype)
        self.proj_to_clip_embeddings = Dense(clip_dim, dtype=self.dtype)

    def __call__(
        self,
        hidden_states: jax.Array,
        timestep: jax.Array,
        proj_embedding: jax.Array,
        encoder_hidden_states: jax.Array,
        attention_mask: jax.Array,
    ) -> jax.Array:
        """Predicts the standardised image embedding.

        Args:
          hidden_states: Noisy standardised image embeddings [b d].
          timestep: Steps of the prior's own schedule [b].
          proj_embedding: Text embeddings, pooled and projected [b d].
          encoder_hidden_states: The text tower's last states [b l d], l = `num_embeddings`.
          attention_mask: True (or 1) for tokens that count, False (or 0) for padding [b l].

        Returns:
          [b d] float32, standardised; `post_process_latents` turns it into CLIP's embedding.

        Raises:
          UserError: The text does not have `num_embeddings` tokens.
        """
        chex.assert_rank(encoder_hidden_states, 3)
        batch, length = encoder_hidden_states.shape[:2]
        if length != self.num_embeddings:
            raise UserError(f"the prior reads {self.num_embeddings} text tokens, not {length}")
        text_dim = self.embedding_proj_dim or self.embedding_dim
        chex.assert_shape(hidden_states, (batch, self.embedding_dim))
        chex.assert_shape(timestep, (batch,))
        chex.assert_shape(proj_embedding, (batch, text_dim))
        chex.assert_shape(encoder_hidden_states, (batch, length, self.embedding_dim))
        chex.assert_shape(attention_mask, (batch, length))

        time = timestep_embedding(timestep, self.width)
        if self.embedding_proj_norm_type == "layer":
            proj_embedding = self.embedding_proj_norm(proj_embedding)
        tokens = [
            self.encoder_hidden_states_proj(encoder_hidden_states),
            self.embedding_proj(proj_embedding)[:, None],
            self.time_embedding(time)[:, None],
            self.proj_in(hidden_states)[:, None],
        ]
        if self.added_emb_type == "prd":
            learned = self.prd_embedding.astype(tokens[-1].dtype)
            tokens.append(jnp.broadcast_to(learned, (batch, *learned.shape[1:])))
        x = jnp.concatenate(tokens, axis=1)
        x = x + self.positional_embedding.astype(x.dtype)
        if self.norm_in_type == "layer":
            x = self.norm_in(x)

        mask = self._mask(attention_mask.astype(bool))
        for block in self.transformer_blocks:
            x = block(x, mask)
        # The last token is the learned one; without it, the noisy embedding's.
        x = self.proj_to_clip_embeddings(self.norm_out(x[:, -1]))
        return x.astype(jnp.float32)

    def post_process_latents(self, latents: jax.Array) -> jax.Array:
        """Turns standardised image embeddings [b d] into CLIP's own [b d]."""
        return latents * self.clip_std + self.clip_mean

    def standardise(self, params: Mapping[str, Any], content: jax.Array) -> jax.Array:
        """Turns content [b d], of length √d, into the standardised image embeddings [b d].

        The mean and deviation of a public prior are those of CLIP's own embeddings. Content has
        lost their length, so the typical one takes its place, √(Σ mean² + std²).

        Args:
          params: The prior's parameters, with `clip_mean` and `clip_std`.
          content: As `conditioning.to_content` makes it.
        """
        mean, std = params["clip_mean"], params["clip_std"]
        if self.text_embedding_scale == "raw":
            content = content * jnp.sqrt(jnp.mean(jnp.square(mean) + jnp.square(std)))
        return (content - mean) / std

    def _mask(self, keep: jax.Array) -> jax.Array:
        """Turns a padding mask [b l] into [b 1 q k], True where token q may attend to token k."""
        keep = jnp.pad(keep, ((0, 0), (0, self.additional_embeddings)), constant_values=True)
        length = keep.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        # A padding token may attend to itself, so that no row is empty. Nothing reads its output.
        visible = keep[:, None, :] | jnp.eye(length, dtype=bool)
        return (causal & visible)[:, None]
