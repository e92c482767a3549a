"""DPT: monocular depth with a plain vision transformer (Ranftl et al., arXiv 2103.13413; MiDaS 3).

Names, shapes and results are those of transformers' `DPTForDepthEstimation` without an external
backbone (`Intel/dpt-large`). Depth is inverse and relative: near is large; scale, shift are free.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gen1_jax.errors import UserError
from gen1_jax.interpolation import interpolation_matrix
from gen1_jax.models.layers import ACTIVATIONS, Conv, Dense, LayerNorm, attention

READOUTS = ("ignore", "add", "project")


@functools.cache
def _interpolation_matrix(size: int, new_size: int, align_corners: bool) -> np.ndarray:
    """[new_size size]: bilinear interpolation along one axis as a linear map, as in PyTorch.

    With `align_corners` the first and last samples keep their places; without, samples stand for
    cells of equal width, and places beyond the outermost centres take the outermost value.
    """
    if align_corners:
        places = np.linspace(0, size - 1, new_size)
    else:
        places = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
        places = places.clip(0, size - 1)
    return interpolation_matrix(places, size).astype(np.float32)


def _interpolate(x: jax.Array, height: int, width: int, align_corners: bool) -> jax.Array:
    """x [b h w c] -> [b height width c], bilinear, without antialiasing."""
    if x.shape[1:3] == (height, width):
        return x
    rows = _interpolation_matrix(x.shape[1], height, align_corners)
    columns = _interpolation_matrix(x.shape[2], width, align_corners)
    # TPUs multiply float32 in bfloat16 unless told otherwise, which would band a smooth map.
    einsum = functools.partial(jnp.einsum, precision="highest")
    x = einsum("yh,bhwc->bywc", jnp.asarray(rows, x.dtype), x)
    return einsum("xw,bywc->byxc", jnp.asarray(columns, x.dtype), x)


def _double(x: jax.Array) -> jax.Array:
    return _interpolate(x, 2 * x.shape[1], 2 * x.shape[2], align_corners=True)


@dataclasses.dataclass
class DPTConfig:
    """config.json's keys with transformers' defaults; `dtype`: compute type (None: the input's).

    The head's map has patches · 2^(stages + 1) · (last reassemble factor) pixels a side: the
    input's size with patches of 16 and the default factors. For patches of 8 take
    `reassemble_factors=(2, 1, 0.5, 0.25)`, or more is computed than is returned.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: int = 384
    patch_size: int = 16
    num_channels: int = 3
    is_hybrid: bool = False
    qkv_bias: bool = True
    backbone_out_indices: tuple[int, ...] = (2, 5, 8, 11)
    readout_type: str = "project"
    reassemble_factors: tuple[float, ...] = (4, 2, 1, 0.5)
    neck_hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    fusion_hidden_size: int = 256
    head_in_index: int = -1
    use_batch_norm_in_fusion_residual: bool = False
    use_bias_in_fusion_residual: bool | None = None
    add_projection: bool = False
    dtype: Any = None

    def check(self) -> None:
        """UserError for the first setting that this implementation does not take."""
        stages = len(self.neck_hidden_sizes)
        indices, depth = self.backbone_out_indices, self.num_hidden_layers

        def accept(name: str, valid: bool, accepted: str) -> None:
            if not valid:
                raise UserError(f"DPT {name} is {getattr(self, name)!r}; accepted: {accepted}")

        accept("is_hybrid", not self.is_hybrid, "false (the plain ViT)")
        batch_norm = "use_batch_norm_in_fusion_residual"
        accept(batch_norm, not getattr(self, batch_norm), "false")
        accept("hidden_act", self.hidden_act in ACTIVATIONS, ", ".join(ACTIVATIONS))
        accept("readout_type", self.readout_type in READOUTS, ", ".join(READOUTS))
        for name in ("image_size", "patch_size"):
            accept(name, type(getattr(self, name)) is int, "one number")
        divides = self.hidden_size % self.num_attention_heads == 0
        accept("num_attention_heads", divides, f"a divisor of hidden_size {self.hidden_size}")
        chosen = len(set(indices)) == stages and all(0 <= i < depth for i in indices)
        accept("backbone_out_indices", chosen, f"{stages} different numbers from 0 to {depth - 1}")
        factors = self.reassemble_factors
        accept("reassemble_factors", len(factors) == stages, f"{stages} numbers")
        fits = not self.add_projection or self.fusion_hidden_size == 256  # fixed in transformers
        accept("add_projection", fits, "false, or fusion_hidden_size 256")


class ConvTranspose(nn.Module):
    """Upsampling by `factor`: every pixel becomes factor x factor pixels, which do not overlap.

    Parameters: kernel [factor factor out in] (so the naming rule's transposition gives PyTorch's
    [in out factor factor]), bias [out].
    """

    features: int
    factor: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b h w c] -> [b (h factor) (w factor) features]."""
        shape = (self.factor, self.factor, self.features, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.normal(x.shape[-1] ** -0.5), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bhwi,yxoi->bhywxo", x, kernel)
        return rearrange(x, "b h y w x o -> b (h y) (w x) o") + bias


class PatchEmbeddings(nn.Module):
    features: int
    patch_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """pixels [b H W 3] -> [b h w c], a patch each."""
        size = self.patch_size
        projection = Conv(self.features, size, size, padding=0, dtype=self.dtype, name="projection")
        return projection(pixels)


class Embeddings(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """pixels [b H W 3] -> [b (1 + h w) c]: the class token, then the patches row by row."""
        config = self.config
        width, side = config.hidden_size, config.image_size // config.patch_size
        patches = PatchEmbeddings(width, config.patch_size, config.dtype, name="patch_embeddings")(
            pixels
        )
        init = nn.initializers.normal(0.02)
        token = self.param("cls_token", init, (1, 1, width))
        positions = self.param("position_embeddings", init, (1, 1 + side * side, width))
        grid = positions[:, 1:].reshape(1, side, side, width)
        grid = _interpolate(grid, *patches.shape[1:3], align_corners=False)
        token = (token + positions[:, :1]).astype(patches.dtype)
        patches = (patches + grid.astype(patches.dtype)).reshape(patches.shape[0], -1, width)
        token = jnp.broadcast_to(token, (patches.shape[0], 1, width))
        return jnp.concatenate([token, patches], axis=1)


class SelfAttention(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b l c] -> [b l c]."""
        config, heads = self.config, self.config.num_attention_heads

        def project(name: str) -> jax.Array:
            y = Dense(config.hidden_size, config.qkv_bias, config.dtype, name=name)(x)
            return y.reshape(*y.shape[:-1], heads, -1)

        return attention(project("query"), project("key"), project("value")).reshape(x.shape)


class Projection(nn.Module):
    """A dense layer one name deeper, as the public keys have it (`output.dense`)."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Dense(self.features, dtype=self.dtype, name="dense")(x)


class Attention(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b l c] -> [b l c]."""
        y = SelfAttention(self.config, name="attention")(x)
        return Projection(self.config.hidden_size, self.config.dtype, name="output")(y)


class Layer(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b l c] -> [b l c]: attention and MLP, each behind a norm, each on a residual."""
        config, dtype = self.config, self.config.dtype
        y = LayerNorm(config.layer_norm_eps, dtype, name="layernorm_before")(x)
        x = x + Attention(config, name="attention")(y)
        y = LayerNorm(config.layer_norm_eps, dtype, name="layernorm_after")(x)
        y = Projection(config.intermediate_size, dtype, name="intermediate")(y)
        y = ACTIVATIONS[config.hidden_act](y)
        return x + Projection(config.hidden_size, dtype, name="output")(y)


class Encoder(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """x [b l c] -> the outputs [b l c] of every layer."""
        states = []
        for i in range(self.config.num_hidden_layers):
            x = Layer(self.config, name=f"layer_{i}")(x)
            states.append(x)
        return states


class DPT(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> list[jax.Array]:
        """pixels [b H W 3] -> outputs [b (1 + h w) c] of the chosen layers, earliest first."""
        config = self.config
        states = Encoder(config, name="encoder")(Embeddings(config, name="embeddings")(pixels))
        if self.is_initializing():  # the checkpoints hold a last norm, which depth does not use
            LayerNorm(config.layer_norm_eps, config.dtype, name="layernorm")(states[-1])
        return [states[i] for i in sorted(config.backbone_out_indices)]


class ReassembleLayer(nn.Module):
    features: int
    factor: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b h w c] -> [b (h factor) (w factor) features]."""
        x = Conv(self.features, 1, padding=0, dtype=self.dtype, name="projection")(x)
        if self.factor > 1:
            return ConvTranspose(self.features, int(self.factor), self.dtype, name="resize")(x)
        if self.factor < 1:
            strides = int(1 / self.factor)
            return Conv(self.features, 3, strides, padding=1, dtype=self.dtype, name="resize")(x)
        return x


class ReassembleStage(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, states: list[jax.Array], height: int, width: int) -> list[jax.Array]:
        """states [b (1 + height width) c] -> feature maps, finest first."""
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
    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b h w c] -> [b h w c]: two convolutions, each behind a ReLU, on a residual."""
        options = {"use_bias": self.use_bias, "dtype": self.dtype}
        y = Conv(self.features, name="convolution1", **options)(nn.relu(x))
        y = Conv(self.features, name="convolution2", **options)(nn.relu(y))
        return x + y


class FusionLayer(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array, finer: jax.Array | None) -> jax.Array:
        """x [b h w c], the next finer map or None -> [b 2h 2w c]."""
        config = self.config
        use_bias = config.use_bias_in_fusion_residual is not False
        options = (config.fusion_hidden_size, use_bias, config.dtype)
        if finer is not None:
            finer = _interpolate(finer, *x.shape[1:3], align_corners=False)
            x = x + ResidualLayer(*options, name="residual_layer1")(finer)
        elif self.is_initializing():  # the checkpoints hold it, though the first layer has no use
            ResidualLayer(*options, name="residual_layer1")(x)
        x = ResidualLayer(*options, name="residual_layer2")(x)
        # A 1x1 convolution commutes with interpolation, whose weights sum to 1: done before it, it
        # costs a quarter.
        features = config.fusion_hidden_size
        x = Conv(features, 1, padding=0, dtype=config.dtype, name="projection")(x)
        return _double(x)


class FusionStage(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        """maps [b h w c], finest first -> fused maps, coarsest first."""
        coarsest, *finer = reversed(maps)
        fused = [FusionLayer(self.config, name="layers_0")(coarsest, None)]
        for i, x in enumerate(finer, start=1):
            fused.append(FusionLayer(self.config, name=f"layers_{i}")(fused[-1], x))
        return fused


class Neck(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, states: list[jax.Array], height: int, width: int) -> list[jax.Array]:
        """states [b (1 + height width) c] -> fused maps [b h w c], coarsest first."""
        config = self.config
        maps = ReassembleStage(config, name="reassemble_stage")(states, height, width)
        options = {"use_bias": False, "dtype": config.dtype}
        features = config.fusion_hidden_size
        maps = [Conv(features, name=f"convs_{i}", **options)(x) for i, x in enumerate(maps)]
        return FusionStage(config, name="fusion_stage")(maps)


def _positive(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Between two ReLUs, weights of both signs could leave a new network dead from the start."""
    return jnp.abs(nn.initializers.lecun_normal()(key, shape, dtype))


class Head(nn.Module):
    config: DPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b h w c] -> inverse depth [b 2h 2w]."""
        config, dtype = self.config, self.config.dtype
        if config.add_projection:
            x = nn.relu(Conv(config.fusion_hidden_size, dtype=dtype, name="projection")(x))
        x = _double(Conv(config.fusion_hidden_size // 2, dtype=dtype, name="head_0")(x))
        x = nn.relu(Conv(32, dtype=dtype, name="head_2")(x))
        x = Conv(1, 1, padding=0, dtype=dtype, kernel_init=_positive, name="head_4")(x)
        return nn.relu(x)[..., 0]


class DPTForDepthEstimation(nn.Module, DPTConfig):
    """Images to relative inverse depth; the fields are those of `DPTConfig`."""

    # Nothing is computed with these; Intel/dpt-large is published without the first.
    UNUSED_PARAMETERS = ("^neck/fusion_stage/layers_0/residual_layer1/", "^dpt/layernorm/")

    def __post_init__(self) -> None:
        for name in ("backbone_out_indices", "reassemble_factors", "neck_hidden_sizes"):
            setattr(self, name, tuple(getattr(self, name)))  # lists, where they come from JSON
        self.check()
        super().__post_init__()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: Any = None) -> "DPTForDepthEstimation":
        """The module that a config.json (a dict) describes; UserError where it is not supported."""
        if (kind := config.get("model_type", "dpt")) != "dpt":
            raise UserError(f"config.json has model_type {kind!r}; accepted: 'dpt'")
        for name in ("backbone_config", "backbone"):
            if config.get(name) is not None:
                raise UserError(
                    f"DPT {name} is {config[name]!r:.60}; accepted: null (the plain ViT)"
                )
        names = {field.name for field in dataclasses.fields(DPTConfig)} - {"dtype"}
        return cls(**{name: config[name] for name in names & config.keys()}, dtype=dtype)

    def to_config(self) -> dict[str, Any]:
        """The content of config.json, as transformers reads it."""
        values = dataclasses.asdict(self.config)
        del values["dtype"]
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {"architectures": ["DPTForDepthEstimation"], "model_type": "dpt", **values}

    @property
    def config(self) -> DPTConfig:
        names = [field.name for field in dataclasses.fields(DPTConfig)]
        return DPTConfig(**{name: getattr(self, name) for name in names})

    def dummy_inputs(self) -> tuple[jax.Array]:
        """Arguments of `__call__` to initialise with."""
        return (jnp.zeros((1, self.image_size, self.image_size, self.num_channels)),)

    def setup(self) -> None:
        self.dpt = DPT(self.config)
        self.neck = Neck(self.config)
        self.head = Head(self.config)

    def predicted_depth(self, pixels: jax.Array) -> jax.Array:
        """pixels [b H W 3] -> inverse depth [b h' w'] as transformers' module gives it."""
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
        """pixels [b H W 3], preprocessed -> inverse depth [b H W] float32, ≥ 0, near is large."""
        depth = self.predicted_depth(pixels)[..., None]
        return _interpolate(depth, *pixels.shape[1:3], align_corners=False)[..., 0]


def preprocess(frames: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """DPT's input from 8-bit frames: resized (bicubic), scaled to [-1, 1].

    Args:
      frames: [... H W 3] uint8.
      size: side of the square, or (height, width), each a multiple of `patch_size`. The published
        model was trained at 384.

    Returns:
      [... height width 3] float32.
    """
    *batch, height, width, channels = frames.shape
    new_height, new_width = (size, size) if isinstance(size, int) else size
    x = jnp.asarray(frames).astype(jnp.float32)
    if (height, width) != (new_height, new_width):
        for shape in ((height, new_width), (new_height, new_width)):
            x = jax.image.resize(x, (*batch, *shape, channels), "cubic", antialias=True)
            x = jnp.clip(
                jnp.round(x), 0, 255
            )  # as Pillow does, in 8 bits, one axis after the other
    return x / 127.5 - 1
