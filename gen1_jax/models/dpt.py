"""DPT: monocular depth with a plain vision transformer (Ranftl et al., arXiv 2103.13413; MiDaS 3).

Names, shapes and results are those of transformers' `DPTForDepthEstimation` without an external
backbone (`Intel/dpt-large`). Depth is inverse, so near is large, and its scale and shift are free.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from gen1_jax.errors import UserError
from gen1_jax.models.attention import attention
from gen1_jax.models.config import (
    Count,
    Depth,
    Epsilon,
    Factor,
    Index,
    Pixels,
    Width,
    Widths,
    list_fields,
    read_config,
    require,
    require_divisors,
)
from gen1_jax.models.layers import (
    ACTIVATIONS,
    Activation,
    Conv,
    ConvTranspose,
    Dense,
    LayerNorm,
    double_resolution,
    interpolate,
    positive,
)

# transformers' settings that this network has in one form only; the backbone is the plain ViT.
FIXED_SETTINGS = {"model_type": "dpt", "backbone": None, "backbone_config": None}


@dataclasses.dataclass
class DPTConfig:
    """The keys of config.json, with transformers' defaults.

    The head's map has patches · 2^(stages + 1) · (last reassemble factor) pixels a side. With the
    default factors this is the input's size for patches of 16. For patches of 8 use
    `reassemble_factors=(2, 1, 0.5, 0.25)`; otherwise more is computed than is returned.
    `dtype` is the compute type.
    """

    hidden_size: Width = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Count = 12
    intermediate_size: Width = 3072
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    image_size: Pixels = 384
    patch_size: Pixels = 16
    num_channels: Width = 3
    is_hybrid: Literal[False] = False
    qkv_bias: bool = True
    backbone_out_indices: tuple[Index, ...] = (2, 5, 8, 11)
    readout_type: Literal["ignore", "add", "project"] = "project"
    reassemble_factors: tuple[Factor, ...] = (4, 2, 1, 0.5)
    neck_hidden_sizes: Widths = (96, 192, 384, 768)
    fusion_hidden_size: Width = 256
    head_in_index: Index = -1
    use_batch_norm_in_fusion_residual: Literal[False] = False
    use_bias_in_fusion_residual: bool | None = None
    add_projection: bool = False
    dtype: Any = None

    def check(self) -> None:
        """Raises a UserError about the first settings that do not fit together."""
        stages, depth = len(self.neck_hidden_sizes), self.num_hidden_layers
        indices = self.backbone_out_indices
        require_divisors(self, "num_attention_heads", (self.num_attention_heads,), "hidden_size")
        fits = self.patch_size <= self.image_size
        require(self, "patch_size", fits, f"at most image_size {self.image_size}")
        fits = len(set(indices)) == stages == len(indices) and all(0 <= i < depth for i in indices)
        accepted = f"{stages} different numbers from 0 to {depth - 1}"
        require(self, "backbone_out_indices", fits, accepted)
        fits = len(self.reassemble_factors) == stages
        require(self, "reassemble_factors", fits, f"{stages} numbers")
        fits = -stages <= self.head_in_index < stages
        require(self, "head_in_index", fits, f"a number from {-stages} to {stages - 1}")
        fits = not self.add_projection or self.fusion_hidden_size == 256  # fixed in transformers
        require(self, "add_projection", fits, "false, or fusion_hidden_size 256")


class PatchEmbeddings(nn.Module):
    """A linear map of each square patch, [b H W 3] → [b h w c]."""

    features: int
    patch_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        size = self.patch_size
        return Conv(self.features, size, size, 0, dtype=self.dtype, name="projection")(pixels)


class Embeddings(nn.Module):
    """Embeddings [b (1 + h w) c] of a class token, and of patches row by row, with positions."""

    config: DPTConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        width, side = config.hidden_size, config.image_size // config.patch_size
        patches = PatchEmbeddings(width, config.patch_size, config.dtype, name="patch_embeddings")(
            pixels
        )
        init = nn.initializers.normal(0.02)
        token = self.param("cls_token", init, (1, 1, width))
        positions = self.param("position_embeddings", init, (1, 1 + side * side, width))
        grid = positions[:, 1:].reshape(1, side, side, width)
        grid = interpolate(grid, *patches.shape[1:3], align_corners=False)
        token = (token + positions[:, :1]).astype(patches.dtype)
        patches = (patches + grid.astype(patches.dtype)).reshape(patches.shape[0], -1, width)
        token = jnp.broadcast_to(token, (patches.shape[0], 1, width))
        return jnp.concatenate([token, patches], axis=1)


class SelfAttention(nn.Module):
    """Multi-head self-attention before its last projection, [b l c] → same."""

    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, heads = self.config, self.config.num_attention_heads

        def project(name: str) -> jax.Array:
            y = Dense(config.hidden_size, config.qkv_bias, config.dtype, name=name)(x)
            return y.reshape(*y.shape[:-1], heads, -1)

        return attention(project("query"), project("key"), project("value")).reshape(x.shape)


class Projection(nn.Module):
    """A dense layer, one name deeper as in the public keys (`output.dense`)."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Dense(self.features, dtype=self.dtype, name="dense")(x)


class Attention(nn.Module):
    """Multi-head self-attention with its last projection, [b l c] → same."""

    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = SelfAttention(self.config, name="attention")(x)
        return Projection(self.config.hidden_size, self.config.dtype, name="output")(y)


class Layer(nn.Module):
    """Attention and MLP, each behind a norm, on a residual; [b l c] → same."""

    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, dtype = self.config, self.config.dtype
        y = LayerNorm(config.layer_norm_eps, dtype, name="layernorm_before")(x)
        x = x + Attention(config, name="attention")(y)
        y = LayerNorm(config.layer_norm_eps, dtype, name="layernorm_after")(x)
        y = Projection(config.intermediate_size, dtype, name="intermediate")(y)
        y = ACTIVATIONS[config.hidden_act](y)
        return x + Projection(config.hidden_size, dtype, name="output")(y)


class Encoder(nn.Module):
    """All layers of the vision transformer; returns the outputs [b l c] of each."""

    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        states = []
        for i in range(self.config.num_hidden_layers):
            x = Layer(self.config, name=f"layer_{i}")(x)
            states.append(x)
        return states


class DPT(nn.Module):
    """The vision transformer; returns the chosen layers' outputs [b (1 + h w) c], first to last."""

    config: DPTConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> list[jax.Array]:
        config = self.config
        states = Encoder(config, name="encoder")(Embeddings(config, name="embeddings")(pixels))
        if self.is_initializing():  # checkpoints hold a last norm; depth does not use it
            LayerNorm(config.layer_norm_eps, config.dtype, name="layernorm")(states[-1])
        return [states[i] for i in sorted(config.backbone_out_indices)]


class ReassembleLayer(nn.Module):
    """A projection and a change of resolution, [b h w c] → [b (h factor) (w factor) features]."""

    features: int
    factor: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.features, 1, padding=0, dtype=self.dtype, name="projection")(x)
        if self.factor > 1:
            return ConvTranspose(self.features, int(self.factor), self.dtype, name="resize")(x)
        if self.factor < 1:
            strides = int(1 / self.factor)
            return Conv(self.features, 3, strides, padding=1, dtype=self.dtype, name="resize")(x)
        return x


class ReassembleStage(nn.Module):
    """Turns states [b (1 + height width) c] into maps [b h w c], finest first."""

    config: DPTConfig

    @nn.compact
    def __call__(self, states: list[jax.Array], height: int, width: int) -> list[jax.Array]:
        config, maps = self.config, []
        stages = zip(states, config.neck_hidden_sizes, config.reassemble_factors, strict=True)
        for i, (state, features, factor) in enumerate(stages):
            readout, x = state[:, :1], state[:, 1:]
            if config.readout_type == "add":
                x = x + readout
            elif config.readout_type == "project":
                x = jnp.concatenate([x, jnp.broadcast_to(readout, x.shape)], axis=-1)
                name = f"readout_projects_{i}_0"
                x = Dense(config.hidden_size, dtype=config.dtype, name=name)(x)
                x = ACTIVATIONS[config.hidden_act](x)
            x = x.reshape(x.shape[0], height, width, config.hidden_size)
            maps.append(ReassembleLayer(features, factor, config.dtype, name=f"layers_{i}")(x))
        return maps


class ResidualLayer(nn.Module):
    """Two convolutions, each behind a ReLU, on a residual; [b h w c] → same."""

    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        options = {"use_bias": self.use_bias, "dtype": self.dtype}
        y = Conv(self.features, name="convolution1", **options)(nn.relu(x))
        y = Conv(self.features, name="convolution2", **options)(nn.relu(y))
        return x + y


class FusionLayer(nn.Module):
    """Adds the next finer map to x [b h w c], if there is one, and doubles the resolution."""

    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array, finer: jax.Array | None) -> jax.Array:
        config = self.config
        use_bias = config.use_bias_in_fusion_residual is not False
        options = (config.fusion_hidden_size, use_bias, config.dtype)
        if finer is not None:
            finer = interpolate(finer, *x.shape[1:3], align_corners=False)
            x = x + ResidualLayer(*options, name="residual_layer1")(finer)
        elif self.is_initializing():  # checkpoints hold it; the first layer does not use it
            ResidualLayer(*options, name="residual_layer1")(x)
        x = ResidualLayer(*options, name="residual_layer2")(x)
        # A 1x1 convolution commutes with interpolation, whose weights sum to 1. Before it, the
        # convolution costs a quarter.
        features = config.fusion_hidden_size
        x = Conv(features, 1, padding=0, dtype=config.dtype, name="projection")(x)
        return double_resolution(x)


class FusionStage(nn.Module):
    """Fuses maps [b h w c], finest first, into fused maps, coarsest first."""

    config: DPTConfig

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        coarsest, *finer = reversed(maps)
        fused = [FusionLayer(self.config, name="layers_0")(coarsest, None)]
        for i, x in enumerate(finer, start=1):
            fused.append(FusionLayer(self.config, name=f"layers_{i}")(fused[-1], x))
        return fused


class Neck(nn.Module):
    """Turns states [b (1 + height width) c] into fused maps [b h w c], coarsest first."""

    config: DPTConfig

    @nn.compact
    def __call__(self, states: list[jax.Array], height: int, width: int) -> list[jax.Array]:
        config = self.config
        maps = ReassembleStage(config, name="reassemble_stage")(states, height, width)
        options = {"use_bias": False, "dtype": config.dtype}
        features = config.fusion_hidden_size
        maps = [Conv(features, name=f"convs_{i}", **options)(x) for i, x in enumerate(maps)]
        return FusionStage(config, name="fusion_stage")(maps)


class Head(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns inverse depth [b 2h 2w] from x [b h w c]."""
        config, dtype = self.config, self.config.dtype
        if config.add_projection:
            x = nn.relu(Conv(config.fusion_hidden_size, dtype=dtype, name="projection")(x))
        x = double_resolution(Conv(config.fusion_hidden_size // 2, dtype=dtype, name="head_0")(x))
        x = nn.relu(Conv(32, dtype=dtype, name="head_2")(x))
        x = Conv(1, 1, padding=0, dtype=dtype, kernel_init=positive, name="head_4")(x)
        return nn.relu(x)[..., 0]


class DPTForDepthEstimation(nn.Module, DPTConfig):
    """Estimates relative inverse depth of images; the fields are those of `DPTConfig`."""

    # Parameters that no result depends on. Intel/dpt-large is published without the first.
    UNUSED_PARAMETERS = ("^neck/fusion_stage/layers_0/residual_layer1/", "^dpt/layernorm/")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "DPTForDepthEstimation":
        """Builds the module that a config.json describes; unknown keys have no effect.

        Raises:
          UserError: A setting that is not supported.
        """
        fields = read_config(cls, config, fixed=FIXED_SETTINGS, ignore_unknown=True)
        module = cls(**fields, dtype=dtype)
        module.check()
        return module

    def to_config(self) -> dict[str, Any]:
        """Returns the content of a config.json that `from_config` and transformers read."""
        header = {"architectures": ["DPTForDepthEstimation"], "model_type": "dpt"}
        return header | list_fields(self)

    @property
    def config(self) -> DPTConfig:
        """The settings alone, for the module's parts."""
        return DPTConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(DPTConfig)})

    def dummy_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape of the argument of `init`: an image of one patch."""
        shape = (1, self.patch_size, self.patch_size, self.num_channels)
        return (jax.ShapeDtypeStruct(shape, jnp.float32),)

    def setup(self) -> None:
        self.dpt = DPT(self.config)
        self.neck = Neck(self.config)
        self.head = Head(self.config)

    def predicted_depth(self, pixels: jax.Array) -> jax.Array:
        """Returns inverse depth [b h' w'] at transformers' resolution, of pixels [b H W 3].

        Raises:
          UserError: A side is no multiple of `patch_size`, or the number of channels is wrong.
        """
        chex.assert_rank(pixels, 4)
        _, height, width, channels = pixels.shape
        patch = self.patch_size
        if height % patch or width % patch or channels != self.num_channels:
            raise UserError(
                f"DPT was given images of shape {pixels.shape[1:]}; accepted: sides that are "
                f"multiples of {patch}, {self.num_channels} channels"
            )
        maps = self.neck(self.dpt(pixels), height // patch, width // patch)
        return self.head(maps[self.head_in_index]).astype(jnp.float32)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns inverse depth [b H W] float32, ≥ 0 and large for near, of pixels [b H W 3]."""
        depth = self.predicted_depth(pixels)[..., None]
        return interpolate(depth, *pixels.shape[1:3], align_corners=False)[..., 0]
