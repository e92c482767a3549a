"""The KL autoencoder of Stable Diffusion (diffusers' `AutoencoderKL`): images <-> latents.

Parameter names are diffusers', so that the naming rule reads and writes its checkpoints.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from gen1_jax.errors import UserError
from gen1_jax.models.config import read_config, require, write_config
from gen1_jax.models.layers import Conv, Dense, GroupNorm, attention

_EPSILON = 1e-6  # of every group norm here (the UNet's residual blocks have 1e-5)
_LOGVAR_RANGE = (-30.0, 20.0)


class ResnetBlock(nn.Module):
    """Two convolutions on a residual, [b h w c] -> [b h w features]."""

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
    """Attention with one head over the places of an image, on a residual; [b h w c]."""

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
    """Residual block, attention, residual block at the lowest resolution."""

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
    """Halves height and width; pads at the bottom and the right only, as SD was trained."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((0, 1), (0, 1))
        return Conv(x.shape[-1], strides=2, padding=padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width (nearest), then a convolution."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = repeat(x, "b h w c -> b (h i) (w j) c", i=2, j=2)
        return Conv(x.shape[-1], dtype=self.dtype, name="conv")(x)


class Stage(nn.Module):
    """The residual blocks of one resolution, then down- or upsampling, or neither."""

    features: int
    num_layers: int
    norm_num_groups: int
    resample: str | None = None  # "down", "up" or None
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
    """Images [b H W 3] -> moments [b h w out_channels], before the quantisation convolution."""

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
    """Latents [b h w c] -> images [b H W out_channels]."""

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

    Latents are unscaled here; the diffusion model works on `scaling_factor * latents`. Fields are
    the keys of the public config.json, with diffusers' defaults; `dtype` is the compute type.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    dtype: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "AutoencoderKL":
        """Builds the module of a config.json; a UserError names a setting that is not supported."""
        module = cls(**read_config(cls, config), dtype=dtype)
        module._check()
        return module

    def to_config(self) -> dict[str, Any]:
        """The content of a config.json that `from_config` and diffusers read."""
        return write_config(self)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent, along each of height and width (8 for Stable Diffusion)."""
        return 2 ** (len(self.block_out_channels) - 1)

    def dummy_inputs(self) -> tuple:
        """Arguments of `init`: the smallest image that passes every layer."""
        size = 2 * self.spatial_factor
        return (jnp.zeros((1, size, size, self.in_channels), jnp.float32),)

    def _check(self) -> None:
        levels = len(self.block_out_channels)
        require(
            self,
            act_fn=("silu", "swish"),
            down_block_types=(("DownEncoderBlock2D",) * levels,),
            up_block_types=(("UpDecoderBlock2D",) * levels,),
            shift_factor=(None,),
            latents_mean=(None,),
            latents_std=(None,),
        )
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise UserError(
                f"AutoencoderKL's block_out_channels={list(self.block_out_channels)} must be "
                f"multiples of norm_num_groups={self.norm_num_groups}"
            )

    def setup(self):
        self._check()
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
        """The distribution of the latents of images in [-1, 1].

        Args:
            images: [b H W 3]; H and W multiples of `spatial_factor`.

        Returns:
            mean and log variance, each [b h w c] float32, unscaled.

        Raises:
            UserError: the images' size is no multiple of `spatial_factor`.
        """
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
        """Images [b H W 3] float32, about [-1, 1], of unscaled latents [b h w c]."""
        if self.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstructs images [b H W 3] through the mode of their latents."""
        return self.decode(self.encode(images)[0])
