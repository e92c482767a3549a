"""The UNet's temporal layers, and the guidance branches that they run on.

Spatial layers see flat tensors [(b n g) h w c], so that the frames of one clip may lie on several
devices. A temporal layer sees [b n g h w c] and runs on the first guidance branches only, which are
the video branches. They are a static slice, so an image branch costs no temporal arithmetic.

Every temporal layer adds a projection that starts at zero to its input. Before video training the
network therefore equals the image network on each frame. Names with "temporal" are ours, not
diffusers'.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gen1_jax.errors import UserError
from gen1_jax.models.layers import Dense, GroupNorm, matmul, zeros
from gen1_jax.models.transformer import TransformerBlock


class Axes(NamedTuple):
    """Sizes of the axes that are folded into the leading one (b n g).

    Attributes:
      batch: b, clips.
      frames: n, frames of a clip.
      branches: g, guidance branches of a clip.
      video_branches: How many branches, counted from the first, use the temporal layers.
    """

    batch: int
    frames: int
    branches: int
    video_branches: int

    @property
    def temporal(self) -> bool:
        """Whether temporal layers run; a single frame is an image and skips them."""
        return self.video_branches > 0 and self.frames > 1


def on_video_branches(
    layer: Callable[[jax.Array], jax.Array], x: jax.Array, axes: Axes
) -> jax.Array:
    """Applies a layer to the video branches, and leaves the other branches as they are.

    Args:
      layer: [b n g h w c] → same.
      x: [(b n g) h w c].
      axes: Sizes of the leading axis.

    Returns:
      [(b n g) h w c].
    """
    b, n, g, k = axes
    split = x.reshape(b, n, g, *x.shape[1:])
    if k == g:
        return layer(split).reshape(x.shape)
    return jnp.concatenate([layer(split[:, :, :k]), split[:, :, k:]], axis=2).reshape(x.shape)


class TemporalConv(nn.Module):
    """Adds to x [b n g h w c] its convolution over frames, with 3 taps that start at zero.

    Parameters: kernel [3 in out], bias [out].
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", zeros, (3, channels, channels))
        bias = self.param("bias", zeros, (channels,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jax.lax.platform_dependent(
            x, kernel, cpu=_convolve_frames_by_product, default=_convolve_frames
        )
        return x + (y + bias)


def _convolve_frames(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves x [b n g h w c] over frames with a kernel [3 c c].

    Height and width stay two axes, so that a TPU changes no layout.
    """
    y = jax.lax.conv_general_dilated(
        rearrange(x, "b n g h w c -> b n (g h) w c"),
        kernel[:, None, None],
        window_strides=(1, 1, 1),
        padding=((1, 1), (0, 0), (0, 0)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return y.reshape(x.shape)


def _convolve_frames_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `_convolve_frames` as one matrix product over taps and channels.

    On CPU this is 1.5 to 2.5 times faster, forward and backward. A TPU would copy the taps.
    """
    channels = x.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), *((0, 0),) * 4))
    taps = jnp.concatenate([padded[:, :-2], x, padded[:, 2:]], axis=-1)
    return matmul(taps, kernel.reshape(3 * channels, channels))


class TemporalTransformer(nn.Module):
    """The spatial transformer mirrored along time: the frames of one place are the tokens."""

    heads: int
    norm_num_groups: int
    max_frames: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, first_frame: jax.Array | None = None) -> jax.Array:
        """Returns an array of the shape of x [b n g h w c].

        Args:
          x: The clips.
          first_frame: Row of the table of positions that each clip's first frame takes [b]; None
            stands for row 0.

        Raises:
          UserError: The clip has more frames than the table of positions.
        """
        b, n, g, _, _, channels = x.shape
        if n > self.max_frames:
            raise UserError(f"{n} frames in one clip: this model takes at most {self.max_frames}")
        position = self.param(
            "position_embedding", nn.initializers.normal(0.02), (self.max_frames, channels)
        )
        h = rearrange(x, "b n g h w c -> (b n g) h w c")
        h = GroupNorm(self.norm_num_groups, 1e-6, dtype=self.dtype, name="norm")(h)
        h = rearrange(h, "(b n g) h w c -> b n (g h w) c", b=b, g=g)
        h = Dense(channels, dtype=self.dtype, name="proj_in")(h)
        if first_frame is None:
            h = h + position[:n, None].astype(h.dtype)
        else:
            rows = first_frame[:, None] + jnp.arange(n)
            h = h + jnp.take(position, rows, axis=0)[:, :, None].astype(h.dtype)
        block = TransformerBlock(
            self.heads, self.dtype, along_frames=True, name="transformer_blocks_0"
        )
        h = Dense(channels, dtype=self.dtype, kernel_init=zeros, name="proj_out")(block(h))
        return x + h.reshape(x.shape)
