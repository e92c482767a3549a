"""Gen-1's video UNet in plain PyTorch: Stable Diffusion's UNet with temporal layers.

Where diffusers is installed, the UNet is a model of it, with `from_pretrained`, gradient
checkpointing and `load_lora_adapter`. It loads with PyTorch alone so:

    config = json.loads(Path("unet/config.json").read_text())
    unet = VideoUNet(**{name: value for name, value in config.items() if name[0] != "_"})
    unet.load_state_dict(safetensors.torch.load_file(WEIGHTS))

Keys without "temporal" are those of diffusers' `UNet2DConditionModel`. Tensors are [(b g n) c h w]
inside, channels-last: b batch, g guidance branch, n frames. A temporal layer works on the first
`num_video_branches` branches, not on one frame, and adds a projection that begins at 0.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.loaders import PeftAdapterMixin

    BASES = ModelMixin, ConfigMixin, PeftAdapterMixin
except ImportError:
    BASES = (nn.Module,)

    def register_to_config(init):
        return init


class Axes(NamedTuple):
    """The sizes folded into the leading axis (b g n), and the number of video branches."""

    batch: int
    branches: int
    frames: int
    video_branches: int


def on_video_branches(layer: nn.Module | None, x: Tensor, axes: Axes) -> Tensor:
    """Applies `layer` ([b g n s c] → same), if any, to the video branches of x [(b g n) c h w]."""
    b, g, n, k = axes
    if layer is None or k == 0 or n == 1:
        return x
    flat, channels, height, width = x.shape
    split = x.permute(0, 2, 3, 1).reshape(b, g, n, height * width, channels)
    split = layer(split) if k == g else torch.cat([layer(split[:, :k]), split[:, k:]], dim=1)
    return split.reshape(flat, height, width, channels).permute(0, 3, 1, 2)


class TemporalConv(nn.Module):
    """x [b g n s c] plus a convolution over frames, kernel 3; weight as in `nn.Conv1d`."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, 3))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, 0, 1, 1))
        # A matrix product over (tap, channel), unlike a convolution, needs no transpose of frames.
        taps = torch.cat([padded[:, :, :-2], x, padded[:, :, 2:]], dim=-1)
        return x + F.linear(taps, self.weight.permute(0, 2, 1).flatten(1), self.bias)


class Attention(nn.Module):
    """Multi-head attention, q/k/v without bias. x [b l c], context [b m d] (x itself if None)."""

    def __init__(self, channels: int, heads: int, context_channels: int, upcast: bool = False):
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            projection(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        if self.upcast:
            q, k, v = q.float(), k.float(), v.float()
        y = F.scaled_dot_product_attention(q, k, v).to(x.dtype)
        return self.to_out[0](y.transpose(1, 2).flatten(2))


def named(**layers: nn.Module) -> nn.Module:
    """Returns layers that are applied one after another, under the names of diffusers' tensors."""
    return nn.Sequential(OrderedDict(layers))


class GEGLU(nn.Module):
    """x → hidden * gelu(gate), both projected from x."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * features)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


def feed_forward(channels: int) -> nn.Module:
    """Returns a GEGLU that is four times as wide inside, and a projection back."""
    # diffusers has a dropout where the identity stands.
    layers = [GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)]
    return named(net=nn.Sequential(*layers))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention (if `context_width`), feed-forward; pre-norm residuals."""

    def __init__(self, channels: int, heads: int, context_width: int | None, upcast: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, channels, upcast)
        if context_width is not None:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = Attention(channels, heads, context_width, upcast)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = feed_forward(channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        if context is not None:
            x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, as the matrix product that it is, of tokens [b l c]."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class SpatialTransformer(nn.Module):
    """diffusers' `Transformer2DModel`: x [(b g n) c h w], context [(b g n) l d]."""

    def __init__(self, channels: int, heads: int, config: "VideoUNet"):
        super().__init__()

        def projection() -> nn.Module:
            linear = config.use_linear_projection
            return nn.Linear(channels, channels) if linear else PointwiseConv(channels)

        self.norm = nn.GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.proj_in = projection()
        block = TransformerBlock(
            channels, heads, config.cross_attention_dim, config.upcast_attention
        )
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = projection()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        h = self.transformer_blocks[0](self.proj_in(h), context)
        h = self.proj_out(h).unflatten(1, x.shape[2:])
        return x + h.permute(0, 3, 1, 2)


class TemporalTransformer(nn.Module):
    """The spatial transformer along frames: x [b g n s c]; the frames of one place are tokens."""

    def __init__(self, channels: int, heads: int, config: "VideoUNet"):
        super().__init__()
        self.max_frames = config.max_frames
        self.position_embedding = nn.Parameter(0.02 * torch.randn(config.max_frames, channels))
        self.norm = nn.GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        block = TransformerBlock(channels, heads, context_width=None)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, g, n, places, channels = x.shape
        if n > self.max_frames:
            raise ValueError(f"{n} frames in one clip: this model takes at most {self.max_frames}")
        h = self.norm(x.flatten(0, 2).transpose(1, 2)).transpose(1, 2)  # statistics per frame
        h = h.unflatten(0, (b * g, n)).transpose(1, 2).flatten(0, 1)  # [(b g s) n c]
        h = self.proj_in(h) + self.position_embedding[:n]
        h = self.proj_out(self.transformer_blocks[0](h))
        return x + h.view(b, g, places, n, channels).transpose(2, 3)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with the timestep added between them; a temporal one follows each."""

    def __init__(self, channels: int, features: int, config: "VideoUNet"):
        super().__init__()
        groups, eps, temporal = config.norm_num_groups, config.norm_eps, config.temporal
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, features, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config.block_out_channels[0], features)
        self.norm2 = nn.GroupNorm(groups, features, eps)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.temporal_conv1 = TemporalConv(features) if temporal else None
        self.temporal_conv2 = TemporalConv(features) if temporal else None
        self.conv_shortcut = nn.Conv2d(channels, features, 1) if channels != features else None

    def forward(self, x: Tensor, temb: Tensor, axes: Axes) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = on_video_branches(self.temporal_conv1, h, axes)
        h = h + self.time_emb_proj(temb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        h = on_video_branches(self.temporal_conv2, h, axes)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Block(nn.Module):
    """The layers of one resolution: a resnet for each of `inputs`, with attention after the first.

    `inputs` are the input widths of the resnets. `num_attentions` says how many of them attention
    follows: all, none, or in the middle block the first only.
    """

    def __init__(
        self, inputs: list[int], features: int, heads: int, num_attentions: int,
        downsample: bool, upsample: bool, config: "VideoUNet",
    ):  # fmt: skip
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(width, features, config) for width in inputs)
        self.attentions = nn.ModuleList(
            SpatialTransformer(features, heads, config) for _ in range(num_attentions)
        )
        self.temporal_attentions = nn.ModuleList(
            TemporalTransformer(features, heads, config)
            for _ in range(num_attentions if config.temporal else 0)
        )
        self.gradient_checkpointing = False  # set by `enable_gradient_checkpointing()`

        def resample(stride: int) -> nn.Module:
            return named(conv=nn.Conv2d(features, features, 3, stride, padding=1))

        self.downsamplers = nn.ModuleList([resample(stride=2)] if downsample else [])
        self.upsamplers = nn.ModuleList([resample(stride=1)] if upsample else [])

    def forward(
        self, x: Tensor, temb: Tensor, context: Tensor, axes: Axes,
        skips: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Returns the result and the output of every layer. `skips`, if given, are used up."""
        outputs = []
        for i in range(len(self.resnets)):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(self.layer, i, x, temb, context, axes)
            else:
                x = self.layer(i, x, temb, context, axes)
            outputs.append(x)
        for layer in self.downsamplers:
            x = layer(x)
            outputs.append(x)
        for layer in self.upsamplers:
            height, width = skips[-1].shape[2:]  # may be odd
            x = layer(F.interpolate(x, scale_factor=2.0)[..., :height, :width])
        return x, outputs

    def layer(self, i: int, x: Tensor, temb: Tensor, context: Tensor, axes: Axes) -> Tensor:
        """Applies the i-th resnet and, where there is one, the i-th attention."""
        x = self.resnets[i](x, temb, axes)
        if i < len(self.attentions):
            x = self.attentions[i](x, context)
            if len(self.temporal_attentions):
                x = on_video_branches(self.temporal_attentions[i], x, axes)
        return x


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Timesteps [b] → sinusoidal embedding, cosines and then sines, [b dim] float32."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class VideoUNet(*BASES):
    """Gen-1's network. Its arguments are those of diffusers, and then ours.

    `attention_head_dim` is the NUMBER of heads, or one for each resolution, as in SD's files.
    `temporal=False` gives the image network. `max_frames` is the longest clip.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        cross_attention_dim: int = 768,
        attention_head_dim: int | tuple[int, ...] = 8,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        use_linear_projection: bool = False,
        upcast_attention: bool = False,
        temporal: bool = True,
        max_frames: int = 32,
    ):
        super().__init__()
        self.sample_size = sample_size
        self.block_out_channels = widths = tuple(block_out_channels)
        self.cross_attention_dim = cross_attention_dim
        self.norm_num_groups = norm_num_groups
        self.norm_eps = norm_eps
        self.use_linear_projection = use_linear_projection
        self.upcast_attention = upcast_attention
        self.temporal = temporal
        self.max_frames = max_frames
        heads = attention_head_dim
        heads = (heads,) * len(widths) if isinstance(heads, int) else tuple(heads)
        last = len(widths) - 1

        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        width = 4 * widths[0]
        self.time_embedding = named(
            linear_1=nn.Linear(widths[0], width), act=nn.SiLU(), linear_2=nn.Linear(width, width)
        )

        self.down_blocks, skips, channels = nn.ModuleList(), [widths[0]], widths[0]
        for i, kind in enumerate(down_block_types):
            inputs = [channels] + [widths[i]] * (layers_per_block - 1)
            attentions = layers_per_block if kind.startswith("CrossAttn") else 0
            block = Block(inputs, widths[i], heads[i], attentions, i < last, False, self)
            self.down_blocks.append(block)
            channels = widths[i]
            skips += [channels] * (layers_per_block + (i < last))

        self.mid_block = Block([channels] * 2, channels, heads[-1], 1, False, False, self)

        self.up_blocks = nn.ModuleList()
        for i, kind in enumerate(up_block_types):
            width, count = widths[last - i], layers_per_block + 1
            inputs = [(channels if j == 0 else width) + skips.pop() for j in range(count)]
            attentions = count if kind.startswith("CrossAttn") else 0
            block = Block(inputs, width, heads[last - i], attentions, False, i < last, self)
            self.up_blocks.append(block)
            channels = width

        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels, norm_eps)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        context: Tensor,
        num_video_branches: int | None = None,
    ) -> Tensor:
        """Predicts v.

        Args:
          sample: [b g n h w c], with `in_channels` channels.
          timesteps: [b].
          context: [b g l d], the content tokens of each branch.
          num_video_branches: the number of branches, from the first, that use the temporal layers;
            None is all.

        Returns:
          [b g n h w out_channels], float32.
        """
        b, g, n, height, width, _ = sample.shape
        axes = Axes(b, g, n, g if num_video_branches is None else num_video_branches)

        temb = timestep_embedding(timesteps, self.block_out_channels[0]).to(sample.dtype)
        temb = F.silu(self.time_embedding(temb)).repeat_interleave(g * n, dim=0)
        context = context.flatten(0, 1).to(sample.dtype).repeat_interleave(n, dim=0)

        # A permuted view keeps memory channels-last, and so is the output of every layer.
        x = self.conv_in(sample.flatten(0, 2).permute(0, 3, 1, 2))
        skips = [x]
        for block in self.down_blocks:
            x, outputs = block(x, temb, context, axes)
            skips += outputs
        x, _ = self.mid_block(x, temb, context, axes)
        for block in self.up_blocks:
            x, _ = block(x, temb, context, axes, skips)

        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x.permute(0, 2, 3, 1).reshape(b, g, n, height, width, -1).float()
