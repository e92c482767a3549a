"""The KL autoencoder of Stable Diffusion (diffusers' `AutoencoderKL`), between images and latents.

Parameter names are diffusers', so that the naming rule reads and writes its checkpoints.
"""

from collections.abc import Mapping
from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from gen1_jax.errors import UserError
from gen1_jax.models.attention import attention
from gen1_jax.models.config import (
    Count,
    Depth,
    ImageSize,
    Scale,
    Width,
    Widths,
    read_config,
    require,
    require_divisors,
    write_config,
)
from gen1_jax.models.layers import Conv, Dense, GroupNorm

# diffusers gives every group norm of the autoencoder this epsilon; the UNet's residual blocks have
# 1e-5. It clamps log variances to this range.
_EPSILON = 1e-6
_LOGVAR_RANGE = (-30.0, 20.0)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions on a residual, [b h w c] → [b h w features]."""

    features: int
    norm_num_groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = GroupNorm(self.norm_num_groups, _EPSILON, dtype=self.dtype, name="norm1")(x)
        y = Conv(self.features, dtype=self.dtype, name="conv1")(nn.silu(y))
        y = GroupNorm(self.norm_num_groups, _EPSILON, dtype=self.dtype, name="norm2")(y)
        y = Conv(self.features, dtype=self.dtype, name="conv2")(nn.silu(y))
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, padding=0, dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class SpatialAttention(nn.Module):
    """One head of attention over the places of an image, on a residual; [b h w c] → same."""

    norm_num_groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        y = GroupNorm(self.norm_num_groups, _EPSILON, dtype=self.dtype, name="group_norm")(x)
        y = rearrange(y, "b h w c -> b (h w) 1 c")
        q, k, v = (Dense(features, dtype=self.dtype, name=f"to_{name}")(y) for name in "qkv")
        y = rearrange(attention(q, k, v), "b l 1 c -> b l c")
        y = Dense(features, dtype=self.dtype, name="to_out_0")(y)
        return x + y.reshape(x.shape)


class MidBlock(nn.Module):
    """A residual block, attention and a residual block, at the lowest resolution."""

    norm_num_groups: int
    add_attention: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features, groups = x.shape[-1], self.norm_num_groups
        x = ResnetBlock(features, groups, dtype=self.dtype, name="resnets_0")(x)
        if self.add_attention:
            x = SpatialAttention(groups, dtype=self.dtype, name="attentions_0")(x)
        return ResnetBlock(features, groups, dtype=self.dtype, name="resnets_1")(x)


class Downsample(nn.Module):
    """Halves height and width.

    The padding is at the bottom and the right only, as in Stable Diffusion's training.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((0, 1), (0, 1))
        return Conv(x.shape[-1], strides=2, padding=padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, and applies a convolution."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = repeat(x, "b h w c -> b (h i) (w j) c", i=2, j=2)
        return Conv(x.shape[-1], dtype=self.dtype, name="conv")(x)


class Stage(nn.Module):
    """The residual blocks of one resolution, followed by a change of resolution or by nothing."""

    features: int
    num_layers: int
    norm_num_groups: int
    resample: Literal["down", "up"] | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_layers):
            block = ResnetBlock(
                self.features, self.norm_num_groups, dtype=self.dtype, name=f"resnets_{i}"
            )
            x = block(x)
        if self.resample == "down":
            x = Downsample(dtype=self.dtype, name="downsamplers_0")(x)
        elif self.resample == "up":
            x = Upsample(dtype=self.dtype, name="upsamplers_0")(x)
        return x


class Encoder(nn.Module):
    """Encodes images [b H W 3] to moments [b h w out_channels], before `quant_conv`."""

    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    mid_block_add_attention: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        groups, last = self.norm_num_groups, len(self.block_out_channels) - 1
        x = Conv(self.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, features in enumerate(self.block_out_channels):
            resample = "down" if i < last else None
            num_layers, name = self.layers_per_block, f"down_blocks_{i}"
            x = Stage(features, num_layers, groups, resample, self.dtype, name=name)(x)
        x = MidBlock(groups, self.mid_block_add_attention, dtype=self.dtype, name="mid_block")(x)
        x = GroupNorm(groups, _EPSILON, dtype=self.dtype, name="conv_norm_out")(x)
        return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(nn.silu(x))


class Decoder(nn.Module):
    """Decodes latents [b h w c] to images [b H W out_channels]."""

    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    mid_block_add_attention: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        groups, last = self.norm_num_groups, len(self.block_out_channels) - 1
        x = Conv(self.block_out_channels[-1], dtype=self.dtype, name="conv_in")(x)
        x = MidBlock(groups, self.mid_block_add_attention, dtype=self.dtype, name="mid_block")(x)
        for i, features in enumerate(reversed(self.block_out_channels)):
            resample = "up" if i < last else None
            num_layers, name = self.layers_per_block + 1, f"up_blocks_{i}"
            x = Stage(features, num_layers, groups, resample, self.dtype, name=name)(x)
        x = GroupNorm(groups, _EPSILON, dtype=self.dtype, name="conv_norm_out")(x)
        return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(nn.silu(x))


class AutoencoderKL(nn.Module):
    """Encodes images into a diagonal normal distribution of latents, and decodes latents.

    Latents are unscaled here; the diffusion model works on `scaling_factor` times the latents. The
    fields are the keys of the public config.json, with diffusers' defaults. `dtype` is the compute
    type.
    """

    in_channels: Width = 3
    out_channels: Width = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: Widths = (64,)
    layers_per_block: Depth = 1
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: Width = 4
    norm_num_groups: Count = 32
    sample_size: ImageSize = 32
    scaling_factor: Scale = 0.18215
    shift_factor: None = None
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    dtype: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "AutoencoderKL":
        """Builds the module that a config.json describes.

        Raises:
          UserError: A setting that is not supported.
        """
        module = cls(**read_config(cls, config), dtype=dtype)
        module.check()
        return module

    def to_config(self) -> dict[str, Any]:
        """Returns the content of a config.json that `from_config` and diffusers read."""
        return write_config(self)

    @property
    def spatial_factor(self) -> int:
        """Pixels for each latent, along height as along width; 8 in Stable Diffusion."""
        return 2 ** (len(self.block_out_channels) - 1)

    def dummy_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns shapes of the arguments of `init`: the smallest image that passes every layer."""
        size = 2 * self.spatial_factor
        return (jax.ShapeDtypeStruct((1, size, size, self.in_channels), jnp.float32),)

    def check(self) -> None:
        """Raises a UserError about the first settings that do not fit together."""
        levels = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            require(self, name, len(getattr(self, name)) == levels, f"{levels}, one for each width")
        groups = [self.norm_num_groups] * levels
        require_divisors(self, "norm_num_groups", groups, "block_out_channels")

    def setup(self) -> None:
        common = (
            self.block_out_channels,
            self.layers_per_block,
            self.norm_num_groups,
            self.mid_block_add_attention,
            self.dtype,
        )
        moments = 2 * self.latent_channels
        self.encoder = Encoder(moments, *common)
        self.decoder = Decoder(self.out_channels, *common)
        if self.use_quant_conv:
            self.quant_conv = Conv(moments, 1, padding=0, dtype=self.dtype)
        if self.use_post_quant_conv:
            self.post_quant_conv = Conv(self.latent_channels, 1, padding=0, dtype=self.dtype)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the distribution of the latents of images.

        Args:
          images: [b H W 3] in [-1, 1]; H and W are multiples of `spatial_factor`.

        Returns:
          Mean and log variance, each [b h w c] float32, unscaled.

        Raises:
          UserError: The images' height or width is no multiple of `spatial_factor`.
        """
        chex.assert_shape(images, (None, None, None, self.in_channels))
        height, width = images.shape[1:3]
        if height % self.spatial_factor or width % self.spatial_factor:
            raise UserError(
                f"images of {height} x {width} do not fit the autoencoder; "
                f"height and width must be multiples of {self.spatial_factor}"
            )
        moments = self.encoder(images)
        if self.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, *_LOGVAR_RANGE)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns images [b H W 3] float32, about in [-1, 1], of unscaled latents [b h w c]."""
        chex.assert_shape(latents, (None, None, None, self.latent_channels))
        if self.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstructs images [b H W 3] from the mode of their latents."""
        return self.decode(self.encode(images)[0])
