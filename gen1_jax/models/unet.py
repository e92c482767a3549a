"""The video UNet: Stable Diffusion's `UNet2DConditionModel`, inflated with temporal layers.

Tensors stay flat, [(b n g) h w c], through the spatial layers, so that the frames of one clip may
lie on several devices. A temporal layer sees [b n g h w c] and works on the first
`num_video_branches` guidance branches only, a static slice: image branches cost no temporal
arithmetic at all. Every temporal layer adds a zero-initialised projection to its input: before
video training the network equals the image network on each frame. Names containing "temporal" are
ours; all others are diffusers'.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from gen1_jax.errors import UserError
from gen1_jax.models.config import read_config, write_config
from gen1_jax.models.layers import (
    Conv,
    Dense,
    GroupNorm,
    LayerNorm,
    attention,
    geglu,
    matmul,
    timestep_embedding,
    zeros,
)

# diffusers' settings that this network has in one form only; another value is refused by name.
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


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


# What the backward pass keeps of each residual block and transformer, by name: everything; the
# results of products and convolutions (not those inside attention); nothing but their inputs.
REMAT = {
    "none": None,
    "products": _is_product,
    "layer": jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(cls: type[nn.Module], remat: str, static: tuple[int, ...] = ()) -> Any:
    """The module's class, its inner values computed again in the backward pass; see REMAT."""
    if remat == "none":
        return cls
    return nn.remat(cls, policy=REMAT[remat], static_argnums=static)


class Axes(NamedTuple):
    """The sizes folded into the leading axis (b n g), and how many branches are video."""

    batch: int
    frames: int
    branches: int
    video_branches: int

    @property
    def temporal(self) -> bool:
        """A single frame is an image: it skips the temporal layers exactly."""
        return self.video_branches > 0 and self.frames > 1


def on_video_branches(layer, x: jax.Array, axes: Axes) -> jax.Array:
    """`layer` ([b n g h w c] → same) on the video branches of x [(b n g) h w c]; others pass."""
    b, n, g, k = axes
    split = x.reshape(b, n, g, *x.shape[1:])
    if k == g:
        return layer(split).reshape(x.shape)
    return jnp.concatenate([layer(split[:, :, :k]), split[:, :, k:]], axis=2).reshape(x.shape)


class TemporalConv(nn.Module):
    """x + conv over frames (3 taps, zero-initialised); x [b n g h w c]. Parameters: kernel WIO."""

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
    """x [b n g h w c], kernel [3 c c]. Height and width stay apart: on TPU nothing is moved."""
    y = jax.lax.conv_general_dilated(
        rearrange(x, "b n g h w c -> b n (g h) w c"),
        kernel[:, None, None],
        window_strides=(1, 1, 1),
        padding=((1, 1), (0, 0), (0, 0)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return y.reshape(x.shape)


def _convolve_frames_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as one matrix product over (tap, channel).

    On CPU 1.5 to 2.5 times faster, forward and backward; on TPU the taps would be copied.
    """
    channels = x.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), *((0, 0),) * 4))
    taps = jnp.concatenate([padded[:, :-2], x, padded[:, 2:]], axis=-1)
    return matmul(taps, kernel.reshape(3 * channels, channels))


class Attention(nn.Module):
    """Multi-head attention, q/k/v without bias. x [b l c], context [b m d] (x itself if None).

    Along frames x is [b n s c], and each of the s places attends to its own n frames.
    """

    heads: int
    dtype: Any = None
    upcast: bool = False  # queries and keys to float32
    along_frames: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        context = x if context is None else context
        folded, unfolded = "b l (heads d)", "b l heads d"
        if self.along_frames:
            folded, unfolded = "b n s (heads d)", "(b s) n heads d"

        def project(name: str, y: jax.Array) -> jax.Array:
            y = Dense(channels, use_bias=False, dtype=self.dtype, name=name)(y)
            return rearrange(y, f"{folded} -> {unfolded}", heads=self.heads)

        # The softmax over one key is 1: every query reads the one value, whatever q and k are.
        one_key = context.shape[1] == 1
        if not one_key or self.is_initializing():  # the parameters are there all the same
            q, k = project("to_q", x), project("to_k", context)
            if self.upcast:
                q, k = q.astype(jnp.float32), k.astype(jnp.float32)
        v = project("to_v", context)
        y = v if one_key else attention(q, k, v)
        y = rearrange(y, f"{unfolded} -> {folded}", b=x.shape[0])
        y = Dense(channels, dtype=self.dtype, name="to_out_0")(y)
        return jnp.broadcast_to(y, x.shape)


class FeedForward(nn.Module):
    """GEGLU, four times as wide inside."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        hidden = GEGLU(4 * channels, self.dtype, name="net_0")(x)
        return Dense(channels, dtype=self.dtype, name="net_2")(hidden)


class GEGLU(nn.Module):
    """hidden · gelu(gate), both projected from x by diffusers' `ff.net.0.proj`."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return geglu(*Dense(2 * self.features, dtype=self.dtype, name="proj")(x, apart=True))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to `context` (if given), feed-forward; pre-norm residuals."""

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
    """diffusers' `Transformer2DModel`: x [(b n g) h w c], context [(b n g) l d]."""

    heads: int
    norm_num_groups: int
    use_linear_projection: bool
    upcast_attention: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
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


class TemporalTransformer(nn.Module):
    """The spatial transformer mirrored: x [b n g h w c], the frames of one place are the tokens."""

    heads: int
    norm_num_groups: int
    max_frames: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
        h = h + position[:n, None].astype(h.dtype)
        block = TransformerBlock(
            self.heads, self.dtype, along_frames=True, name="transformer_blocks_0"
        )
        h = Dense(channels, dtype=self.dtype, kernel_init=zeros, name="proj_out")(block(h))
        return x + h.reshape(x.shape)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with the timestep added between; a temporal convolution follows each."""

    features: int
    norm_num_groups: int
    norm_eps: float
    temporal: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, axes: Axes) -> jax.Array:
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
    """diffusers' `Downsample2D` (stride 2) and `Upsample2D` (nearest, ×2): one 3x3 convolution."""

    features: int
    up: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        if self.up:
            height, width = size
            x = x.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        return Conv(self.features, strides=1 if self.up else 2, dtype=self.dtype, name="conv")(x)


class Block(nn.Module):
    """One resolution of the UNet: `skips` are read (up), or outputs returned (down and middle)."""

    features: int
    num_layers: int
    heads: int  # 0: no attention at this resolution
    resample: str | None  # "up", "down" or None
    norm_num_groups: int
    norm_eps: float
    use_linear_projection: bool
    upcast_attention: bool
    temporal: bool
    max_frames: int
    remat: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x, temb, context, axes: Axes, skips: list[jax.Array] | None = None):
        outputs = []
        middle = self.num_layers == 0  # resnet, attention, resnet
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
                x = self.attend(i, x, context, axes)
            outputs.append(x)
        if self.resample == "down":
            x = Resample(self.features, False, self.dtype, name="downsamplers_0")(x)
            outputs.append(x)
        if self.resample == "up":  # to the size of the next skip, which may be odd
            x = Resample(self.features, True, self.dtype, name="upsamplers_0")(
                x, skips[-1].shape[1:3]
            )
        return x, outputs

    def attend(self, i: int, x: jax.Array, context: jax.Array, axes: Axes) -> jax.Array:
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
            x = on_video_branches(layer, x, axes)
        return x


class VideoUNet(nn.Module):
    """v-prediction of Gen-1. Fields are those of diffusers' config.json, then ours.

    `attention_head_dim` is, as in SD 1.x's and 2.x's files, the NUMBER of heads.
    """

    sample_size: int | None = None
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False
    upcast_attention: bool = False  # queries and keys in float32, as SD 2.1 wants it
    temporal: bool = True  # False: the image model alone
    max_frames: int = 32  # rows of each learned frame-position table
    remat: str = "none"  # a name in REMAT
    dtype: Any = None  # compute type

    @nn.compact
    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        num_video_branches: int | None = None,
    ) -> jax.Array:
        """Predicts v of clips, or of several guidance branches of each clip.

        Args:
          sample: Noisy clips [b n h w c], or branches of each clip [b g n h w c].
          timesteps: Diffusion steps [b].
          context: Tokens for cross-attention [b l d], or those of each branch [b g l d].
          num_video_branches: How many branches, counted from the first, use the temporal layers;
            None stands for all. A clip without branches is one branch.

        Returns:
          v, float32, in the sample's shape with `out_channels` channels.
        """
        if is_plain := sample.ndim == 5:
            sample, context = sample[:, None], context[:, None]
        b, g, n, height, width, _ = sample.shape
        axes = Axes(b, n, g, g if num_video_branches is None else num_video_branches)
        widths = self.block_out_channels
        heads = self.attention_head_dim
        heads = (heads,) * len(widths) if isinstance(heads, int) else tuple(heads)
        dtype = self.dtype or sample.dtype

        temb = timestep_embedding(timesteps, widths[0]).astype(dtype)
        temb = TimestepMLP(4 * widths[0], self.dtype, name="time_embedding")(temb)
        temb = repeat(jax.nn.silu(temb), "b c -> (b n g) c", n=n, g=g)
        context = repeat(context.astype(dtype), "b g l d -> (b n g) l d", n=n)

        shared = dict(
            norm_num_groups=self.norm_num_groups,
            norm_eps=self.norm_eps,
            use_linear_projection=self.use_linear_projection,
            upcast_attention=self.upcast_attention,
            temporal=self.temporal,
            max_frames=self.max_frames,
            remat=self.remat,
            dtype=self.dtype,
        )
        last = len(widths) - 1
        x = rearrange(sample, "b g n h w c -> (b n g) h w c").astype(dtype)
        x = Conv(widths[0], dtype=self.dtype, name="conv_in")(x)
        skips = [x]
        for i, kind in enumerate(self.down_block_types):
            block_heads = heads[i] if kind.startswith("CrossAttn") else 0
            down = "down" if i < last else None
            block = Block(
                widths[i],
                self.layers_per_block,
                block_heads,
                down,
                name=f"down_blocks_{i}",
                **shared,
            )
            x, outputs = block(x, temb, context, axes)
            skips += outputs
        x, _ = Block(widths[-1], 0, heads[-1], None, name="mid_block", **shared)(
            x, temb, context, axes
        )
        for i, kind in enumerate(self.up_block_types):
            block_heads = heads[last - i] if kind.startswith("CrossAttn") else 0
            up = "up" if i < last else None
            block = Block(
                widths[last - i],
                self.layers_per_block + 1,
                block_heads,
                up,
                name=f"up_blocks_{i}",
                **shared,
            )
            x, _ = block(x, temb, context, axes, skips)

        norm = GroupNorm(
            self.norm_num_groups, self.norm_eps, self.dtype, jax.nn.silu, name="conv_norm_out"
        )
        x = Conv(self.out_channels, dtype=self.dtype, name="conv_out")(norm(x))
        v = rearrange(x, "(b n g) h w c -> b g n h w c", b=b, n=n).astype(jnp.float32)
        return v[:, 0] if is_plain else v

    def dummy_inputs(self) -> tuple:
        """The smallest input that touches every parameter: a clip of two frames."""
        size = 2 ** (len(self.block_out_channels) - 1)
        sample = jnp.zeros((1, 2, size, size, self.in_channels))
        return sample, jnp.zeros((1,), jnp.int32), jnp.zeros((1, 1, self.cross_attention_dim))

    @classmethod
    def from_config(cls, config: dict, dtype: Any = None) -> "VideoUNet":
        """From a config.json of ours, or of `UNet2DConditionModel` (no temporal layers).

        Raises:
          UserError: a setting that this network does not have.
        """
        config = {**config}
        # Newer files repeat for every block what is said once in others.
        for name in ("only_cross_attention", "transformer_layers_per_block"):
            if isinstance(value := config.get(name), (list, tuple)) and len(set(value)) == 1:
                config[name] = value[0]
        if config.get("transformer_layers_per_block") == 1:
            del config["transformer_layers_per_block"]
        image_network = config.get("_class_name") == "UNet2DConditionModel"
        fields = {"temporal": not image_network} | read_config(cls, config, FIXED_SETTINGS)
        module = cls(**fields, dtype=dtype)
        module._check()
        return module

    def to_config(self) -> dict[str, Any]:
        """config.json of this network; a stock diffusers UNet's if it has no temporal layers."""
        config = write_config(self)
        if not self.temporal:
            config["_class_name"] = "UNet2DConditionModel"
            del config["temporal"], config["max_frames"]
        return config

    def _check(self) -> None:
        """UserError for the first setting that does not make a network of this kind."""
        levels = len(self.block_out_channels)

        def accept(name: str, valid: bool, accepted: str) -> None:
            if not valid:
                raise UserError(
                    f"VideoUNet does not support {name}={getattr(self, name)!r}; "
                    f"accepted: {accepted}"
                )

        for name, kind in (("down_block_types", "Down"), ("up_block_types", "Up")):
            kinds = (f"CrossAttn{kind}Block2D", f"{kind}Block2D")
            types = getattr(self, name)
            valid = len(types) == levels and all(t in kinds for t in types)
            accept(name, valid, f"{levels} of {' and '.join(kinds)}, one a width")
        per_level = isinstance(self.attention_head_dim, tuple)
        heads = self.attention_head_dim if per_level else (self.attention_head_dim,) * levels
        pairs = zip(self.block_out_channels, heads, strict=False)
        divides = len(heads) == levels and all(
            type(count) is int and count > 0 and width % count == 0 for width, count in pairs
        )
        accept(
            "attention_head_dim",
            divides,
            f"the number of heads, one or {levels}, each a divisor of "
            f"block_out_channels {list(self.block_out_channels)}",
        )
        groups = self.norm_num_groups
        divides = type(groups) is int and groups > 0
        divides = divides and not any(width % groups for width in self.block_out_channels)
        accept(
            "norm_num_groups",
            divides,
            f"a divisor of block_out_channels {list(self.block_out_channels)}",
        )
        for name in ("layers_per_block", "cross_attention_dim", "in_channels", "out_channels"):
            value = getattr(self, name)
            accept(name, type(value) is int and value > 0, "one number above 0")


class TimestepMLP(nn.Module):
    """diffusers' `TimestepEmbedding`."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Dense(self.features, dtype=self.dtype, name="linear_1")(x)
        return Dense(self.features, dtype=self.dtype, name="linear_2")(jax.nn.silu(x))
