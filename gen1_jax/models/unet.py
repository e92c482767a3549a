"""The video UNet: Stable Diffusion's `UNet2DConditionModel`, inflated with temporal layers.

Tensors stay flat, [(b n g) h w c], through the spatial layers; `temporal.py` says what the temporal
layers see. Parameter names are diffusers', except for those that contain "temporal".
"""

from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from gen1_jax.models.config import (
    Count,
    Epsilon,
    ImageSize,
    Layers,
    Width,
    Widths,
    read_config,
    require,
    require_divisors,
    write_config,
)
from gen1_jax.models.layers import Conv, Dense, GroupNorm, timestep_embedding
from gen1_jax.models.remat import rematerialised
from gen1_jax.models.temporal import Axes, TemporalConv, TemporalTransformer, on_video_branches
from gen1_jax.models.transformer import SpatialTransformer

DownBlockType = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
UpBlockType = Literal["CrossAttnUpBlock2D", "UpBlock2D"]
# diffusers' settings that this network has in one form only; any other value is refused.
FIXED_SETTINGS = {
    "act_fn": "silu",
    "addition_embed_type_num_heads": 64,  # of no effect without addition_embed_type
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions on a residual, with the timestep's embedding added between them.

    A temporal convolution follows each of the two.
    """

    features: int
    norm_num_groups: int
    norm_eps: float
    temporal: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, axes: Axes) -> jax.Array:
        """Returns [(b n g) h w features] from x [(b n g) h w c] and temb [(b n g) d]."""

        def norm(name: str) -> GroupNorm:
            return GroupNorm(
                self.norm_num_groups, self.norm_eps, self.dtype, jax.nn.silu, name=name
            )

        def conv(name: str, h: jax.Array) -> jax.Array:
            return Conv(self.features, dtype=self.dtype, name=name)(h)

        def temporal_conv(name: str, h: jax.Array) -> jax.Array:
            if self.temporal and (axes.temporal or self.is_initializing()):
                h = on_video_branches(TemporalConv(self.dtype, name=name), h, axes)
            return h

        h = conv("conv1", norm("norm1")(x))
        h = temporal_conv("temporal_conv1", h)
        h = h + Dense(self.features, dtype=self.dtype, name="time_emb_proj")(temb)[:, None, None]
        h = conv("conv2", norm("norm2")(h))
        h = temporal_conv("temporal_conv2", h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, padding=0, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class Resample(nn.Module):
    """A 3x3 convolution that halves the resolution by its stride, or follows its doubling.

    These are diffusers' `Downsample2D` and `Upsample2D`.
    """

    features: int
    up: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """Returns x [(b n g) h w c] at another resolution; upsampling crops it to `size`."""
        if self.up:
            height, width = size
            x = x.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        return Conv(self.features, strides=1 if self.up else 2, dtype=self.dtype, name="conv")(x)


class Block(nn.Module):
    """All layers at one resolution of the UNet.

    Attributes:
      features: Width.
      num_layers: Number of residual blocks; 0 makes the middle block of resnet, attention, resnet.
      heads: Attention heads; 0 stands for no attention at this resolution.
      resample: "up", "down" or None.
    """

    features: int
    num_layers: int
    heads: int
    resample: Literal["up", "down"] | None
    norm_num_groups: int
    norm_eps: float
    use_linear_projection: bool
    upcast_attention: bool
    temporal: bool
    max_frames: int
    remat: str
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x, temb, context, axes: Axes, first_frame=None, skips: list[jax.Array] | None = None
    ):
        """Returns the block's output, and the outputs of all its layers for later blocks.

        Args:
          x: [(b n g) h w c].
          temb: Embedding of the timestep [(b n g) d].
          context: Tokens for cross-attention [(b n g) l d].
          axes: Sizes of the leading axis.
          first_frame: Position of each clip's first frame [b], or None.
          skips: Outputs of earlier layers, which an upward block takes from the end; else None.
        """
        outputs = []
        middle = self.num_layers == 0
        for i in range(2 if middle else self.num_layers):
            if skips is not None:
                x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = rematerialised(ResnetBlock, self.remat, static=(3,))(
                self.features,
                self.norm_num_groups,
                self.norm_eps,
                self.temporal,
                self.dtype,
                name=f"resnets_{i}",
            )(x, temb, axes)
            if self.heads and not (middle and i == 1):
                x = self.attend(i, x, context, axes, first_frame)
            outputs.append(x)
        if self.resample == "down":
            x = Resample(self.features, False, self.dtype, name="downsamplers_0")(x)
            outputs.append(x)
        if self.resample == "up":  # to the size of the next skip, whose sides may be odd
            x = Resample(self.features, True, self.dtype, name="upsamplers_0")(
                x, skips[-1].shape[1:3]
            )
        return x, outputs

    def attend(
        self,
        i: int,
        x: jax.Array,
        context: jax.Array,
        axes: Axes,
        first_frame: jax.Array | None,
    ) -> jax.Array:
        """Applies the i-th spatial transformer, and then the temporal one for clips."""
        x = rematerialised(SpatialTransformer, self.remat)(
            self.heads,
            self.norm_num_groups,
            self.use_linear_projection,
            self.upcast_attention,
            self.dtype,
            name=f"attentions_{i}",
        )(x, context)
        if self.temporal and (axes.temporal or self.is_initializing()):
            layer = rematerialised(TemporalTransformer, self.remat)(
                self.heads,
                self.norm_num_groups,
                self.max_frames,
                self.dtype,
                name=f"temporal_attentions_{i}",
            )
            x = on_video_branches(lambda split: layer(split, first_frame), x, axes)
        return x


class TimestepMLP(nn.Module):
    """Two dense layers on the timestep's embedding (diffusers' `TimestepEmbedding`)."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Dense(self.features, dtype=self.dtype, name="linear_1")(x)
        return Dense(self.features, dtype=self.dtype, name="linear_2")(jax.nn.silu(x))


class VideoUNet(nn.Module):
    """Predicts v of Gen-1's diffusion (or the noise, as it was trained).

    The fields down to `upcast_attention` are the keys of diffusers' config.json. Defaults are those
    of Stable Diffusion 1.5.

    Attributes:
      attention_head_dim: The NUMBER of heads, as in the files of Stable Diffusion 1.x and 2.x.
      upcast_attention: Whether queries and keys are float32, as Stable Diffusion 2.1 needs them.
      temporal: Whether there are temporal layers; the image model has none.
      max_frames: Rows of each learned table of frame positions.
      remat: A name in `remat.REMAT`.
      dtype: Compute type; None computes in the sample's.
    """

    sample_size: ImageSize = None
    in_channels: Width = 4
    out_channels: Width = 4
    down_block_types: tuple[DownBlockType, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[UpBlockType, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    block_out_channels: Widths = (320, 640, 1280, 1280)
    layers_per_block: Layers = 2
    cross_attention_dim: Width = 768
    attention_head_dim: Count | tuple[Count, ...] = 8
    norm_num_groups: Count = 32
    norm_eps: Epsilon = 1e-5
    use_linear_projection: bool = False
    upcast_attention: bool = False
    temporal: bool = True
    max_frames: Count = 32
    remat: str = "none"
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        num_video_branches: int | None = None,
        first_frame: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts v of clips, or of several guidance branches of each clip.

        Args:
          sample: Noisy clips [b n h w c], or branches of each clip [b g n h w c].
          timesteps: Diffusion steps [b].
          context: Tokens for cross-attention [b l d], or those of each branch [b g l d].
          num_video_branches: How many branches, counted from the first, use the temporal layers;
            None stands for all. A clip without branches is one branch.
          first_frame: Row of the tables of frame positions that each clip begins at [b]; None
            stands for row 0. Training draws it, so that every row is trained.

        Returns:
          v, float32, in the sample's shape with `out_channels` channels.
        """
        chex.assert_rank(sample, {5, 6})
        if is_plain := sample.ndim == 5:
            sample, context = sample[:, None], context[:, None]
        b, g, n, *_ = sample.shape
        chex.assert_shape(sample, (b, g, n, None, None, self.in_channels))
        chex.assert_shape(timesteps, (b,))
        chex.assert_shape(context, (b, g, None, self.cross_attention_dim))
        axes = Axes(b, n, g, g if num_video_branches is None else num_video_branches)
        widths = self.block_out_channels
        heads = self.heads_of_levels()
        dtype = self.dtype or sample.dtype

        temb = timestep_embedding(timesteps, widths[0]).astype(dtype)
        temb = TimestepMLP(4 * widths[0], self.dtype, name="time_embedding")(temb)
        temb = repeat(jax.nn.silu(temb), "b c -> (b n g) c", n=n, g=g)
        context = repeat(context.astype(dtype), "b g l d -> (b n g) l d", n=n)

        def block(name: str, level: int, num_layers: int, has_attention: bool, resample) -> Block:
            return Block(
                widths[level],
                num_layers,
                heads[level] if has_attention else 0,
                resample,
                self.norm_num_groups,
                self.norm_eps,
                self.use_linear_projection,
                self.upcast_attention,
                self.temporal,
                self.max_frames,
                self.remat,
                self.dtype,
                name=name,
            )

        last, depth = len(widths) - 1, self.layers_per_block
        x = rearrange(sample, "b g n h w c -> (b n g) h w c").astype(dtype)
        x = Conv(widths[0], dtype=self.dtype, name="conv_in")(x)
        skips = [x]
        for i, kind in enumerate(self.down_block_types):
            has_attention, down = kind.startswith("CrossAttn"), "down" if i < last else None
            layers = block(f"down_blocks_{i}", i, depth, has_attention, down)
            x, outputs = layers(x, temb, context, axes, first_frame)
            skips += outputs
        x, _ = block("mid_block", last, 0, True, None)(x, temb, context, axes, first_frame)
        for i, kind in enumerate(self.up_block_types):
            has_attention, up = kind.startswith("CrossAttn"), "up" if i < last else None
            layers = block(f"up_blocks_{i}", last - i, depth + 1, has_attention, up)
            x, _ = layers(x, temb, context, axes, first_frame, skips)

        norm = GroupNorm(
            self.norm_num_groups, self.norm_eps, self.dtype, jax.nn.silu, name="conv_norm_out"
        )
        x = Conv(self.out_channels, dtype=self.dtype, name="conv_out")(norm(x))
        v = rearrange(x, "(b n g) h w c -> b g n h w c", b=b, n=n).astype(jnp.float32)
        return v[:, 0] if is_plain else v

    def dummy_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns shapes of the smallest arguments that touch every parameter: two frames."""
        size = 2 ** (len(self.block_out_channels) - 1)
        return (
            jax.ShapeDtypeStruct((1, 2, size, size, self.in_channels), jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
            jax.ShapeDtypeStruct((1, 1, self.cross_attention_dim), jnp.float32),
        )

    @classmethod
    def from_config(cls, config: dict, dtype: Any = None) -> "VideoUNet":
        """Builds the network that a config.json of ours or of `UNet2DConditionModel` describes.

        A `UNet2DConditionModel` has no temporal layers.

        Raises:
          UserError: A setting that this network does not have.
        """
        config = {**config}
        # Newer files say for every block what older ones say once.
        for name in ("only_cross_attention", "transformer_layers_per_block"):
            value = config.get(name)
            if isinstance(value, (list, tuple)) and value and all(x == value[0] for x in value):
                config[name] = value[0]
        if config.get("transformer_layers_per_block") == 1:
            del config["transformer_layers_per_block"]
        is_image_network = config.get("_class_name") == "UNet2DConditionModel"
        fields = read_config(cls, config, fixed=FIXED_SETTINGS)
        module = cls(**{"temporal": not is_image_network} | fields, dtype=dtype)
        module.check()
        return module

    def to_config(self) -> dict[str, Any]:
        """Returns the config.json; without temporal layers it is a diffusers UNet's."""
        config = write_config(self)
        if not self.temporal:
            config["_class_name"] = "UNet2DConditionModel"
            del config["temporal"], config["max_frames"]
        return config

    def check(self) -> None:
        """Raises a UserError about the first settings that do not fit together."""
        levels = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            require(self, name, len(getattr(self, name)) == levels, f"{levels}, one for each width")
        heads = self.heads_of_levels()
        require(self, "attention_head_dim", len(heads) == levels, f"the number of heads, {levels}")
        require_divisors(self, "attention_head_dim", heads, "block_out_channels")
        groups = [self.norm_num_groups] * levels
        require_divisors(self, "norm_num_groups", groups, "block_out_channels")

    def heads_of_levels(self) -> tuple[int, ...]:
        """Returns the number of attention heads at each resolution."""
        heads = self.attention_head_dim
        return (heads,) * len(self.block_out_channels) if isinstance(heads, int) else tuple(heads)
