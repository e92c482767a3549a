"""Layers that all models share: products, convolutions, norms, activations, time embedding.

Arrays are channels-last. Parameters are float32; `dtype` is the compute type, and None keeps the
input's. The statistics of norms are float32. Parameter names and shapes follow the naming rule of
`weights/naming.py`.

Norms and some activations stand in `jax.checkpoint`. The backward pass then keeps only their
inputs, which it keeps anyway, and computes the rest again where it needs it. A training step waits
for memory traffic more than for arithmetic, on CPU most of all (docs/performance_cpu.md).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gen1_jax.interpolation import interpolation_matrix

Padding = int | Sequence[tuple[int, int]]
# PyTorch's default: uniform, with a third of the variance of LeCun's. A uniform draw also compiles
# much faster than a normal one.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nn.initializers.zeros


def positive(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws positive weights; between two ReLUs, mixed signs could leave a new network dead."""
    return jnp.abs(nn.initializers.lecun_normal()(key, shape, dtype))


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x [... i] @ kernel [i o], computed as a product of two matrices.

    With more than two axes XLA would transpose the whole output gradient to compute the kernel's,
    which is 4 times slower on CPU.
    """
    y = x.reshape(-1, x.shape[-1]) @ kernel
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """Computes x @ kernel + bias over the last axis.

    Parameters: kernel [in out], bias [out].
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Callable = fan_in_uniform

    @nn.compact
    def __call__(self, x: jax.Array, apart: bool = False) -> Any:
        """Returns [... features]; with `apart`, the pair (x @ kernel, bias) for the caller to add.

        Args:
          x: [... channels].
          apart: Whether the caller adds the bias itself.
        """
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = matmul(x, kernel)
        if apart:
            return y, bias
        return y if bias is None else y + bias


class Conv(nn.Module):
    """Convolves images [b h w c] in two dimensions.

    Parameters: kernel [height width in out], bias [out].

    Attributes:
      features: Channels of the output.
      kernel_size: Side of the kernel, in pixels.
      strides: Step of the kernel, in pixels.
      padding: Pixels of zeros: one number for all sides, or ((top, bottom), (left, right)).
      use_bias: Whether a bias is added.
      dtype: Compute type.
      kernel_init: Initialiser of the kernel.
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
            y = matmul(x, kernel[0, 0])  # a 1x1 convolution: no change of layout is needed
        else:
            y = _convolve(x, kernel, self.strides, tuple(map(tuple, pad)))
        return y if bias is None else y + bias


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """Convolves x [b h w c] with a kernel [height width in out].

    A custom gradient is defined for the kernel: on CPU a matrix product computes it.
    """
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
    if not plain or 9 * dy.size > 2**26:  # copies of a larger array would fill the memory
        return dx, by_convolution(x, dy)
    return dx, jax.lax.platform_dependent(x, dy, cpu=_kernel_gradient, default=by_convolution)


def _kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns the gradient [3 3 i o] of a 3x3 kernel, from x [b h w i] and dy [b h w o].

    It is the product of the transposed x and nine shifted copies of dy. On CPU this is up to 1.7
    times faster than the convolution by which XLA computes it.
    """
    height, width, features = dy.shape[1:]
    dy = jnp.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [dy[:, i : i + height, j : j + width] for i in (2, 1, 0) for j in (2, 1, 0)]
    shifts = jnp.concatenate(shifts, axis=-1).reshape(-1, 9 * features)
    gradient = x.reshape(-1, x.shape[-1]).T @ shifts
    return gradient.reshape(-1, 3, 3, features).transpose(1, 2, 0, 3)


_convolve.defvjp(_convolve_forward, _convolve_backward)


class ConvTranspose(nn.Module):
    """Turns every pixel into a square of `factor` x `factor` pixels; squares do not overlap.

    Parameters: kernel [factor factor out in], which the naming rule transposes to PyTorch's
    [in out factor factor]; bias [out].
    """

    features: int
    factor: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b (h factor) (w factor) features] from x [b h w c]."""
        shape = (self.factor, self.factor, self.features, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.normal(x.shape[-1] ** -0.5), shape)
        bias = self.param("bias", zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bhwi,yxoi->bhywxo", x, kernel)
        return rearrange(x, "b h y w x o -> b (h y) (w x) o") + bias


class GroupNorm(nn.Module):
    """Normalises x [b ... c] by the float32 statistics of each example's channel groups.

    Sums run over space first and then over the channels of a group. The large array is thus read
    in its own layout, and the normalisation is one multiply-add for each value.

    Parameters: scale [c], bias [c].

    Attributes:
      num_groups: Number of groups; it divides the number of channels.
      epsilon: Number that is added to the variance.
      dtype: Type of the result; None keeps the input's.
      activation: Function that is applied to the result, inside the same checkpoint.
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
    """Normalises the last axis by its float32 statistics. Parameters: scale [c], bias [c]."""

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


@cache
def _interpolation_matrix(size: int, new_size: int, align_corners: bool) -> np.ndarray:
    """Returns PyTorch's bilinear interpolation along one axis as a matrix [new_size size].

    With `align_corners`, the first and the last sample keep their places. Without, samples stand
    for cells of equal width, and places beyond the outermost centres take the outermost value.
    """
    if align_corners:
        places = np.linspace(0, size - 1, new_size)
    else:
        places = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
        places = places.clip(0, size - 1)
    return interpolation_matrix(places, size).astype(np.float32)


def interpolate(x: jax.Array, height: int, width: int, align_corners: bool) -> jax.Array:
    """Resizes x [b h w c] to [b height width c], bilinear, without antialiasing."""
    if x.shape[1:3] == (height, width):
        return x
    rows = _interpolation_matrix(x.shape[1], height, align_corners)
    columns = _interpolation_matrix(x.shape[2], width, align_corners)
    # A TPU multiplies float32 in bfloat16 by default, which would leave bands in a smooth map.
    einsum = partial(jnp.einsum, precision="highest")
    x = einsum("yh,bhwc->bywc", jnp.asarray(rows, x.dtype), x)
    return einsum("xw,bywc->byxc", jnp.asarray(columns, x.dtype), x)


def double_resolution(x: jax.Array) -> jax.Array:
    """Doubles the resolution of x [b h w c], bilinear with aligned corners."""
    return interpolate(x, 2 * x.shape[1], 2 * x.shape[2], align_corners=True)


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x · sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


@jax.checkpoint
def geglu(both: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns hidden · gelu(gate), the gated activation of Shazeer (arXiv 2002.05202).

    The bias is added here, to each half. Its gradient is a sum over all places; XLA then computes
    that sum where it makes the gradients of hidden and gate, and does not read them again.

    Args:
      both: Hidden values and gates side by side, before the bias [... 2c].
      bias: Bias of both halves [2c].

    Returns:
      [... c].
    """
    (hidden, gate), (hidden_bias, gate_bias) = jnp.split(both, 2, axis=-1), jnp.split(bias, 2)
    return (hidden + hidden_bias) * gelu(gate + gate_bias)


def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact GELU, PyTorch's default.

    `jax.nn.gelu` computes it by erfc, which is 3 times slower on CPU.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * jnp.asarray(2**-0.5, x.dtype)))


# The names of activations in the public config.json files.
Activation = Literal["quick_gelu", "gelu", "relu", "silu", "swish"]
ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def timestep_embedding(t: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """Returns the sinusoidal embedding of numbers: cosines, then sines, in float32.

    The order is diffusers' `flip_sin_to_cos`.

    Args:
      t: Timesteps [...].
      dim: Width of the embedding; even.
      max_period: The longest wavelength is 2π times this.

    Returns:
      [... dim].
    """
    half = dim // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
