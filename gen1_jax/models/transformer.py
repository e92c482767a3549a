"""The transformer blocks of the UNet: attention, gated feed-forward, and diffusers' spatial block.

Parameter names are diffusers'.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gen1_jax.models.attention import attention
from gen1_jax.models.layers import Conv, Dense, GroupNorm, LayerNorm, geglu


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values have no bias.

    Attributes:
      heads: Number of heads.
      dtype: Compute type.
      upcast: Whether queries and keys are cast to float32.
      along_frames: Whether each place attends to its own frames.
    """

    heads: int
    dtype: Any = None
    upcast: bool = False
    along_frames: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Returns an array of the shape of `x`.

        Args:
          x: [b l c]; along frames [b n s c], where each of the s places attends to its n frames.
          context: Where keys and values come from [b m d]; `x` itself if None.
        """
        channels = x.shape[-1]
        context = x if context is None else context
        folded, unfolded = "b l (heads d)", "b l heads d"
        if self.along_frames:
            folded, unfolded = "b n s (heads d)", "(b s) n heads d"

        def project(name: str, y: jax.Array) -> jax.Array:
            y = Dense(channels, use_bias=False, dtype=self.dtype, name=name)(y)
            return rearrange(y, f"{folded} -> {unfolded}", heads=self.heads)

        # The softmax over a single key is 1, so every query reads that one value and the products
        # with q and k are left out. Initialisation still makes their parameters.
        one_key = context.shape[1] == 1
        if not one_key or self.is_initializing():
            q, k = project("to_q", x), project("to_k", context)
            if self.upcast:
                q, k = q.astype(jnp.float32), k.astype(jnp.float32)
        v = project("to_v", context)
        y = v if one_key else attention(q, k, v)
        y = rearrange(y, f"{unfolded} -> {folded}", b=x.shape[0])
        y = Dense(channels, dtype=self.dtype, name="to_out_0")(y)
        return jnp.broadcast_to(y, x.shape)


class GEGLU(nn.Module):
    """Projects x to hidden values and gates, and returns hidden · gelu(gate) [... features]."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return geglu(*Dense(2 * self.features, dtype=self.dtype, name="proj")(x, apart=True))


class FeedForward(nn.Module):
    """A GEGLU four times as wide as x [... c], and a dense layer back to c channels."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        hidden = GEGLU(4 * channels, self.dtype, name="net_0")(x)
        return Dense(channels, dtype=self.dtype, name="net_2")(hidden)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention if there is a context, and feed-forward.

    Each stands behind a layer norm, on a residual. Attributes and shapes are those of `Attention`.
    """

    heads: int
    dtype: Any = None
    upcast: bool = False
    along_frames: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        def attend(name: str) -> Attention:
            return Attention(self.heads, self.dtype, self.upcast, self.along_frames, name=name)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(1e-5, dtype=self.dtype, name=name)

        x = x + attend("attn1")(norm("norm1")(x))
        if context is not None:
            x = x + attend("attn2")(norm("norm2")(x), context)
        return x + FeedForward(self.dtype, name="ff")(norm("norm3")(x))


class SpatialTransformer(nn.Module):
    """diffusers' `Transformer2DModel` with one block: the places of one frame are the tokens."""

    heads: int
    norm_num_groups: int
    use_linear_projection: bool
    upcast_attention: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`.

        Args:
          x: [(b n g) h w c].
          context: [(b n g) l d].
        """
        frames, height, width, channels = x.shape

        def projection(name: str):
            if self.use_linear_projection:
                return Dense(channels, dtype=self.dtype, name=name)
            return Conv(channels, kernel_size=1, padding=0, dtype=self.dtype, name=name)

        h = GroupNorm(self.norm_num_groups, 1e-6, dtype=self.dtype, name="norm")(x)
        h = projection("proj_in")(h).reshape(frames, height * width, channels)
        block = TransformerBlock(
            self.heads, self.dtype, self.upcast_attention, name="transformer_blocks_0"
        )
        h = block(h, context)
        return x + projection("proj_out")(h.reshape(x.shape))
