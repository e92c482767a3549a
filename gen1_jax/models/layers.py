"""Layers that every model shares. Arrays are channels-last; parameters are float32.

Norms and activations are wrapped in `jax.checkpoint`: the backward pass keeps their inputs alone, which
are kept anyway, and computes the rest again inside the loops that need it. Memory traffic is what a
training step waits for, on CPU most of all.

`dtype` is the compute type (None keeps the input's); norm statistics and softmax are float32.
Parameter names and shapes follow the naming rule of `weights/naming.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = int | Sequence[tuple[int, int]]
# PyTorch's default (uniform, variance 1/3 of LeCun's); it also compiles much faster than a normal one.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nn.initializers.zeros


class Dense(nn.Module):
    """y = x @ kernel + bias, over the last axis. Parameters: kernel [in, out], bias [out]."""

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable = fan_in_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x @ kernel
        return y if bias is None else y + bias


class Conv(nn.Module):
    """2-D convolution of `x` [b h w c]. Parameters: kernel HWIO, bias [out].

    `padding` is a number for all sides or ((top, bottom), (left, right)), in pixels.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: Padding = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable = fan_in_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        pad = self.padding
        if isinstance(pad, int):
            pad = ((pad, pad), (pad, pad))
        if size == 1 and self.strides == 1 and pad == ((0, 0), (0, 0)):
            y = x @ kernel[0, 0]  # a 1x1 convolution is a matrix product: fewer layouts to convert
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.strides, self.strides),
                tuple(map(tuple, pad)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return y if bias is None else y + bias


class GroupNorm(nn.Module):
    """Group normalisation of `x` [b ... c]: float32 statistics per example and channel group.

    The sums run over space first and over a group's channels after, so that the large array is read
    in its own layout and the normalisation itself is one multiply-add a value. `activation` follows.
    """

    num_groups: int
    epsilon: float
    dtype: Any = None
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(f"{channels} channels do not split into {self.num_groups} groups")
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", zeros, (channels,))
        dtype = self.dtype or x.dtype
        batch, size = x.shape[0], channels // self.num_groups

        def group_mean(per_channel: jax.Array) -> jax.Array:
            mean = per_channel.reshape(batch, self.num_groups, size).mean(-1)
            return jnp.repeat(mean, size, axis=-1)

        @jax.checkpoint
        def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            flat = x.reshape(batch, -1, channels).astype(jnp.float32)
            mean = group_mean(flat.mean(1))
            centred = flat - mean[:, None]
            variance = group_mean(jnp.square(centred).mean(1))
            factor = jax.lax.rsqrt(variance + self.epsilon) * scale
            y = (centred * factor[:, None] + bias).reshape(x.shape).astype(dtype)
            return y if self.activation is None else self.activation(y)

        return normalise(x, scale, bias)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, float32 statistics. Parameters: scale, bias."""

    epsilon: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", zeros, (x.shape[-1],))
        dtype = self.dtype or x.dtype

        @jax.checkpoint
        def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            centred = x - x.mean(-1, keepdims=True)
            variance = jnp.square(centred).mean(-1, keepdims=True)
            return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(dtype)

        return normalise(x, scale, bias)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Scaled dot-product attention with a float32 softmax.

    Args:
      q: [b lq heads d]; k, v: [b lk heads d].
      mask: broadcastable to [b heads lq lk]; True keeps a pair.
      scale: d^-1/2 if None.

    Returns:
      [b lq heads d] in q's type.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = jnp.einsum("bqhd,bkhd->bhqk", q * jnp.asarray(scale, q.dtype), k)
    logits = logits.astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    # Softmax, divided by its sum after the product with v: an array of lq x d instead of lq x lk.
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1)[..., None].swapaxes(1, 2)  # [b lq heads 1]
    y = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
    return (y / total).astype(v.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x · sigmoid(1.702 x): the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


@jax.checkpoint
def geglu(hidden: jax.Array, gate: jax.Array) -> jax.Array:
    """hidden · gelu(gate) (Shazeer 2020)."""
    return hidden * gelu(gate)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU (with erf), PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def timestep_embedding(t: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Sinusoidal embedding [cos, sin] of `t` [...] → [... dim], float32 (DDPM; SD's `flip_sin_to_cos`)."""
    half = dim // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
