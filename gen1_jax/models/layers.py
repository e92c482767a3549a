"""Layers that every model shares. Arrays are channels-last; parameters are float32.

Norms and activations are wrapped in `jax.checkpoint`: the backward pass keeps their inputs alone,
which are kept anyway, and computes the rest again inside the loops that need it. Memory traffic is
what a training step waits for, on CPU most of all (docs/performance_cpu.md).

`dtype` is the compute type (None keeps the input's); norm statistics and softmax are float32.
Parameter names and shapes follow the naming rule of `weights/naming.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = int | Sequence[tuple[int, int]]
# PyTorch's default (uniform, variance 1/3 of LeCun's); it compiles much faster than a normal one.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nn.initializers.zeros


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [... i] @ kernel [i o], as a product of two matrices.

    With more axes XLA transposes the whole output gradient to get the kernel's (CPU: 4x slower).
    """
    y = x.reshape(-1, x.shape[-1]) @ kernel
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """y = x @ kernel + bias, over the last axis. Parameters: kernel [in, out], bias [out].

    `apart` returns (x @ kernel, bias), for what comes next to add them.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable = fan_in_uniform

    @nn.compact
    def __call__(self, x: jax.Array, apart: bool = False) -> Any:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = matmul(x, kernel)
        if apart:
            return y, bias
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
            y = matmul(x, kernel[0, 0])  # a 1x1 convolution: fewer layouts to convert
        else:
            y = _convolve(x, kernel, self.strides, tuple(map(tuple, pad)))
        return y if bias is None else y + bias


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """Convolves x [b h w c] with a kernel HWIO; on CPU the kernel's gradient is by products."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_forward(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(stride, padding, kept, dy):
    x, kernel = kept
    (dx,) = jax.linear_transpose(lambda x: _convolve.fun(x, kernel, stride, padding), x)(dy)

    def by_convolution(x, dy):
        (dk,) = jax.linear_transpose(lambda k: _convolve.fun(x, k, stride, padding), kernel)(dy)
        return dk

    plain = stride == 1 and kernel.shape[:2] == (3, 3) and padding == ((1, 1), (1, 1))
    if not plain or 9 * dy.size > 2**26:  # the shifts of larger arrays would fill the memory
        return dx, by_convolution(x, dy)
    return dx, jax.lax.platform_dependent(x, dy, cpu=_kernel_gradient, default=by_convolution)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """A 3x3 kernel's gradient, x [b h w i], dy [b h w o] -> [3 3 i o]: xᵀ (nine shifts of dy).

    On CPU up to 1.7 times faster than the convolution by which XLA would do it.
    """
    height, width, features = dy.shape[1:]
    dy = jnp.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [dy[:, i : i + height, j : j + width] for i in (2, 1, 0) for j in (2, 1, 0)]
    shifts = jnp.concatenate(shifts, axis=-1).reshape(-1, 9 * features)
    gradient = x.reshape(-1, x.shape[-1]).T @ shifts
    return gradient.reshape(-1, 3, 3, features).transpose(1, 2, 0, 3)


_convolve.defvjp(_convolve_forward, _convolve_backward)


class GroupNorm(nn.Module):
    """Group normalisation of `x` [b ... c]: float32 statistics per example and channel group.

    The sums run over space first and over a group's channels after, so that the large array is
    read in its own layout and the normalisation itself is one multiply-add a value. `activation`
    follows.
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
    return _attend(q * jnp.asarray(scale, q.dtype), k, v, mask)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Attention of [b l heads d], q scaled. The backward pass keeps no array of lq x lk."""
    return _attend_forward(q, k, v, mask)[0]


def _attend_forward(q, k, v, mask):
    y, lse = _of_platform(_attend_by_kernel, _attend_by_products, q, k, v, mask)
    return y, (q, k, v, mask, y, lse)


def _attend_backward(kept, dy):
    *kept, lse = kept
    gradients = _of_platform(_gradients_by_kernel, _gradients_by_products, *kept, lse, dy)
    return *gradients, None


_attend.defvjp(_attend_forward, _attend_backward)

# Tokens from which on a kernel pays: the scores of fewer are no larger than other arrays.
KERNEL_MIN_LENGTH = 256


def _of_platform(by_kernel, by_products, q, k, v, mask, *others):
    """Long self-attention of images goes to the kernels of a TPU; all else is two products."""
    _, length, heads, d = q.shape
    plain = partial(by_products, mask)
    if mask is not None or k.shape[1] != length or length < KERNEL_MIN_LENGTH or length % 8:
        return plain(q, k, v, *others)
    from gen1_jax.models import attention_tpu as attention_kernel  # Pallas takes a while to import

    if attention_kernel.choose_tiles(length, heads, d, q.dtype, v.dtype) is None:
        return plain(q, k, v, *others)
    return jax.lax.platform_dependent(q, k, v, *others, tpu=by_kernel, default=plain)


def _heads_first(x: jax.Array) -> jax.Array:
    return x.transpose(0, 2, 1, 3)


def _logits(q: jax.Array, k: jax.Array, mask: jax.Array | None) -> jax.Array:
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    return logits if mask is None else jnp.where(mask, logits, jnp.finfo(jnp.float32).min)


def _attend_by_products(mask, q, k, v):
    q, k, v = map(_heads_first, (q, k, v))
    logits = _logits(q, k, mask)
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1, keepdims=True)
    # Divided by the sum after the product with v: lq x d values instead of lq x lk.
    y = ((weights.astype(v.dtype) @ v) / total).astype(v.dtype)
    return _heads_first(y), (largest + jnp.log(total))[..., 0]


def _gradients_by_products(mask, q, k, v, y, lse, dy):
    q, k, v, y, dy = map(_heads_first, (q, k, v, y, dy))
    weights = jnp.exp(_logits(q, k, mask) - lse[..., None])
    # The gradients of v and k are computed transposed, so that the large array is the plain right
    # side of a product; as its transposed left side XLA is up to seven times slower on CPU.
    dv = dy.swapaxes(-1, -2) @ weights.astype(dy.dtype)
    dlogits = weights * (dy @ v.swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True))
    if mask is not None:  # a row that is masked whole has weights, but no gradient
        dlogits = jnp.where(mask, dlogits, 0)
    dlogits = dlogits.astype(q.dtype)
    dk = q.swapaxes(-1, -2) @ dlogits
    return tuple(map(_heads_first, (dlogits @ k, dk.swapaxes(-1, -2), dv.swapaxes(-1, -2))))


def _channels_first(x: jax.Array) -> jax.Array:
    """[b l heads d] → [b heads d l], as the kernels want it."""
    return x.transpose(0, 2, 3, 1)


def _attend_by_kernel(q, k, v):
    from gen1_jax.models.attention_tpu import attend

    y, lse = attend(*map(_channels_first, (q, k, v)))
    return y.transpose(0, 3, 1, 2), lse


def _gradients_by_kernel(q, k, v, y, lse, dy):
    from gen1_jax.models.attention_tpu import attend_backward

    q, k, v, y, dy = map(_channels_first, (q, k, v, y, dy))
    return tuple(x.transpose(0, 3, 1, 2) for x in attend_backward(q, k, v, y, lse, dy))


def quick_gelu(x: jax.Array) -> jax.Array:
    """x · sigmoid(1.702 x): the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


@jax.checkpoint
def geglu(both: jax.Array, bias: jax.Array) -> jax.Array:
    """hidden · gelu(gate), side by side in `both` + `bias` [... 2c] → [... c] (Shazeer 2020).

    The bias is added here, half by half: so its gradient, a sum over all places, is taken where
    those of hidden and gate are made, and they are not read again for it.
    """
    (hidden, gate), (hidden_bias, gate_bias) = jnp.split(both, 2, axis=-1), jnp.split(bias, 2)
    return (hidden + hidden_bias) * gelu(gate + gate_bias)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, PyTorch's default. jax.nn's is by erfc, on CPU three times slower."""
    return 0.5 * x * (1 + jax.lax.erf(x * jnp.asarray(2**-0.5, x.dtype)))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def timestep_embedding(t: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Sinusoidal embedding [cos, sin] of `t` [...] → [... dim], float32 (`flip_sin_to_cos`)."""
    half = dim // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
