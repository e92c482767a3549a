"""unCLIP's prior from text to image embeddings (diffusers' `PriorTransformer`).

Karlo and Kandinsky 2.1 publish one. A causal transformer over `[text tokens, pooled text, time,
noisy image embedding, learned token]` reads off the learned token which image embedding was there
before the noise. Its diffusion process is in `gen1_jax/diffusion/prior.py`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gen1_jax.errors import UserError
from gen1_jax.models.config import read_config, require, write_config
from gen1_jax.models.layers import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    attention,
    gelu,
    timestep_embedding,
)

_EPSILON = 1e-5


class TimeEmbedding(nn.Module):
    """Two dense layers on the sinusoidal embedding of the timestep."""

    hidden: int
    features: int
    act_fn: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Dense(self.hidden, dtype=self.dtype, name="linear_1")(x)
        return Dense(self.features, dtype=self.dtype, name="linear_2")(ACTIVATIONS[self.act_fn](x))


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; x [b l d], mask broadcastable to [b heads l l]."""

    num_heads: int
    head_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        width = self.num_heads * self.head_dim
        q, k, v = (Dense(width, dtype=self.dtype, name=f"to_{name}")(x) for name in "qkv")
        q, k, v = (rearrange(y, "b l (k d) -> b l k d", k=self.num_heads) for y in (q, k, v))
        y = rearrange(attention(q, k, v, mask=mask), "b l k d -> b l (k d)")
        return Dense(x.shape[-1], dtype=self.dtype, name="to_out_0")(y)


class GeluProjection(nn.Module):
    """A dense layer and GELU; a module of its own as in diffusers' names (`ff.net.0.proj`)."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return gelu(Dense(self.features, dtype=self.dtype, name="proj")(x))


class FeedForward(nn.Module):
    """Dense, GELU, dense, four times as wide in between."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = GeluProjection(4 * x.shape[-1], dtype=self.dtype, name="net_0")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="net_2")(y)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward; diffusers' `norm2` is cross-attention's, unused."""

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
    """Predicts a CLIP image embedding from its noisy version and the text's CLIP states.

    Fields are the keys of the public config.json, with diffusers' defaults; `dtype` is the compute
    type. `clip_mean` and `clip_std` are parameters by name only: the data's statistics, outside
    the loss. A new model begins at 0 and 1; set them from the data, and keep weight decay off
    them.
    """

    num_attention_heads: int = 32
    attention_head_dim: int = 64
    num_layers: int = 20
    embedding_dim: int = 768
    num_embeddings: int = 77
    additional_embeddings: int = 4
    dropout: float = 0.0
    time_embed_act_fn: str = "silu"
    norm_in_type: str | None = None
    embedding_proj_norm_type: str | None = None
    encoder_hid_proj_type: str | None = "linear"
    added_emb_type: str | None = "prd"
    time_embed_dim: int | None = None
    embedding_proj_dim: int | None = None
    clip_embed_dim: int | None = None
    dtype: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "PriorTransformer":
        """Builds the module of a config.json; a UserError names a setting that is not supported."""
        module = cls(**read_config(cls, config), dtype=dtype)
        module._check()
        return module

    def to_config(self) -> dict[str, Any]:
        """The content of a config.json that `from_config` and diffusers read."""
        return write_config(self)

    def dummy_inputs(self) -> tuple:
        """Arguments of `init`, for a batch of one."""
        tokens = (1, self.num_embeddings)
        return (
            jnp.zeros((1, self.embedding_dim), jnp.float32),
            jnp.zeros((1,), jnp.int32),
            jnp.zeros((1, self.embedding_proj_dim or self.embedding_dim), jnp.float32),
            jnp.zeros((*tokens, self.embedding_dim), jnp.float32),
            jnp.ones(tokens, bool),
        )

    def _check(self) -> None:
        require(
            self,
            dropout=(0, 0.0),
            time_embed_act_fn=tuple(ACTIVATIONS),
            norm_in_type=(None, "layer"),
            embedding_proj_norm_type=(None, "layer"),
            encoder_hid_proj_type=("linear",),
            added_emb_type=("prd", None),
            additional_embeddings=(4 if self.added_emb_type == "prd" else 3,),
        )

    def setup(self):
        self._check()
        width = self.num_attention_heads * self.attention_head_dim
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
            hidden_states: [b d] noisy standardised image embedding.
            timestep: [b] steps of the prior's own schedule.
            proj_embedding: [b d] pooled and projected text embedding.
            encoder_hidden_states: [b l d] the text tower's last states, l = `num_embeddings`.
            attention_mask: [b l] True (or 1) for the tokens that count, False for padding.

        Returns:
            [b d] float32, standardised; see `post_process_latents`.

        Raises:
            UserError: the text has not `num_embeddings` tokens.
        """
        batch, length = encoder_hidden_states.shape[:2]
        if length != self.num_embeddings:
            raise UserError(f"the prior reads {self.num_embeddings} text tokens, not {length}")

        time = timestep_embedding(timestep, self.num_attention_heads * self.attention_head_dim)
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
        # The last token: the learned one, or else the noisy embedding's.
        x = self.proj_to_clip_embeddings(self.norm_out(x[:, -1]))
        return x.astype(jnp.float32)

    def post_process_latents(self, latents: jax.Array) -> jax.Array:
        """Standardised [b d] -> CLIP's own embedding [b d]."""
        return latents * self.clip_std + self.clip_mean

    def standardise(self, embeddings: jax.Array) -> jax.Array:
        """CLIP's own embedding [b d] -> standardised [b d]; undoes `post_process_latents`."""
        return (embeddings - self.clip_mean) / self.clip_std

    def _mask(self, keep: jax.Array) -> jax.Array:
        """Padding mask [b l] -> [b 1 q k], True where token q may look at token k."""
        keep = jnp.pad(keep, ((0, 0), (0, self.additional_embeddings)), constant_values=True)
        length = keep.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        # A padding token may see itself: no row is empty, and nobody reads what it makes of it.
        visible = keep[:, None, :] | jnp.eye(length, dtype=bool)
        return (causal & visible)[:, None]
