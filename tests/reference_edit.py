"""One guided edit put together from public classes: the reference of `gen1 import` and `gen1 edit`.

Nothing of gen1_jax is used. Parts are classes of diffusers and transformers with random weights,
saved as those libraries save them. The UNet is diffusers' own, inflated by hooks: temporal layers
are added to the outputs of its 3x3 convolutions and of its spatial transformers. In its file they
have these names beside diffusers':

    BLOCK.resnets.I.temporal_conv{1,2}.{weight [c c 3],bias}
    BLOCK.temporal_attentions.I.{norm,proj_in,transformer_blocks.0,proj_out}.…
    BLOCK.temporal_attentions.I.position_embedding [max_frames c]

and config.json says `"_class_name": "VideoUNet"` and `max_frames`.
"""

import json
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import get_resize_output_image_size

HEADS, WIDTH, MAX_FRAMES, CONTEXT = 2, 16, 4, 8
CLIP_SIDE = 16
DEPTH_SIDE = 32
PRIOR = {"num_inference_steps": 3, "guidance_scale": 3.0}


# ---- the models


def make_models(seed: int = 0) -> dict[str, nn.Module]:
    """Returns the parts, by the flags of `gen1 import`; no two of their weights are equal."""
    torch.manual_seed(seed)
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "projection_dim": WIDTH,
        "hidden_act": "quick_gelu",
    }
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    models = {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=16,
            in_channels=12,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=HEADS,  # the number of heads, as in the files of Stable Diffusion
            norm_num_groups=4,
        ),
        "vae": diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            sample_size=16,
        ),
        "text-encoder": transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                **tower, **ends, vocab_size=len(vocabulary()), max_position_embeddings=CONTEXT
            )
        ),
        "image-encoder": transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**tower, image_size=CLIP_SIDE, patch_size=8)
        ),
        "depth": transformers.DPTForDepthEstimation(
            transformers.DPTConfig(
                hidden_size=16,
                num_hidden_layers=4,
                num_attention_heads=HEADS,
                intermediate_size=24,
                image_size=DEPTH_SIDE,
                patch_size=16,
                backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[4, 8, 12, 8],
                fusion_hidden_size=8,
            )
        ),
        "prior": diffusers.PriorTransformer(
            num_attention_heads=HEADS,
            attention_head_dim=8,
            num_layers=1,
            embedding_dim=WIDTH,
            num_embeddings=CONTEXT,
        ),
    }
    inflate(models["unet"])
    with torch.no_grad():
        for model in models.values():
            model.eval().requires_grad_(False)
            for name, x in model.named_parameters():
                if x.ndim > 1:
                    x.normal_(0, (x.numel() / x.shape[0]) ** -0.5)
                else:
                    x.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
        models["prior"].clip_mean.normal_(0, 0.5)
        models["prior"].clip_std.uniform_(0.5, 1.5)
        models["depth"].head.head[4].bias.fill_(2)  # above the ReLU at its end
    return models


def vocabulary() -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters), "re"]
    return {word: i for i, word in enumerate([*words, "red</w>"])}


def save(models: dict[str, nn.Module], folder: Path) -> None:
    """Writes each part to its folder, and the tokenizer."""
    for name, model in models.items():
        model.save_pretrained(folder / name)
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_class_name": "VideoUNet", "max_frames": MAX_FRAMES}))
    words = folder / "tokenizer"
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps(vocabulary()))
    (words / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT}
    (words / "tokenizer_config.json").write_text(json.dumps(settings))


# ---- the inflated UNet


class TemporalTransformer(nn.Module):
    """The spatial transformer mirrored along the frames of each place."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(4, channels, eps=1e-6)
        self.proj_in, self.proj_out = (nn.Linear(channels, channels) for _ in range(2))
        self.position_embedding = nn.Parameter(torch.zeros(MAX_FRAMES, channels))
        block = BasicTransformerBlock(channels, HEADS, channels // HEADS)
        self.transformer_blocks = nn.ModuleList([block])

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [n c h w]
        n, c, h, w = x.shape
        tokens = self.proj_in(self.norm(x).permute(2, 3, 0, 1).reshape(h * w, n, c))
        tokens = self.transformer_blocks[0](tokens + self.position_embedding[:n])
        return x + self.proj_out(tokens).reshape(h, w, n, c).permute(2, 3, 0, 1)


def along_frames(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """Adds to x [n c h w] its convolution over frames."""
    n, c, h, w = x.shape
    y = conv(x.permute(2, 3, 1, 0).reshape(h * w, c, n))
    return x + y.reshape(h, w, c, n).permute(3, 2, 0, 1)


def inflate(unet: nn.Module) -> None:
    """Adds temporal layers, which run on several frames while `unet.on_video` is true."""
    unet.on_video = True

    def runs(x: torch.Tensor) -> bool:
        return unet.on_video and len(x) > 1

    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for resnet in block.resnets:
            for i in (1, 2):
                conv = nn.Conv1d(resnet.out_channels, resnet.out_channels, 3, padding=1)
                resnet.add_module(f"temporal_conv{i}", conv)
                getattr(resnet, f"conv{i}").register_forward_hook(
                    lambda _, __, x, conv=conv: along_frames(conv, x) if runs(x) else x
                )
        layers = nn.ModuleList()
        for spatial in getattr(block, "attentions", ()):
            layer = TemporalTransformer(spatial.in_channels)
            layers.append(layer)
            spatial.register_forward_hook(
                lambda _, __, out, layer=layer: (layer(out[0]),) if runs(out[0]) else out
            )
        if len(layers):
            block.temporal_attentions = layers


# ---- the edit


class Reference:
    """The parts, ready to edit."""

    def __init__(self, models: dict[str, nn.Module], tokenizer: Path):
        self.models = models
        self.tokenizer = transformers.CLIPTokenizer.from_pretrained(tokenizer)

    @torch.no_grad()
    def edit(
        self,
        frames: np.ndarray,
        *,
        noise: np.ndarray,
        prompt: str | None = None,
        prior_noise: np.ndarray | None = None,
        image: np.ndarray | None = None,
        structure_level: int = 0,
        temporal_scale: float = 1.0,
        guidance_scale: float,
        steps: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Edits frames [n H W 3] uint8 from noise [n h w 4].

        Returns:
          Frames [n H W 3] uint8, and the structure [n H W] that the model saw.
        """
        if prompt is None:
            embedding = self.image_embedding(image)
        else:
            embedding = self.text_to_image_embedding(prompt, prior_noise)
        content = embedding / embedding.norm() * embedding.shape[-1] ** 0.5

        depth = self.depth(frames)
        least, most = torch.quantile(depth, torch.tensor([0.01, 0.99]))
        scaled = 2 * (depth.clamp(least, most) - least) / (most - least) - 1
        seen = blur(scaled, structure_level)
        vae, unet = self.models["vae"], self.models["unet"]
        scale = vae.config.scaling_factor
        structure = vae.encode(seen[:, None].expand(-1, 3, -1, -1)).latent_dist.mean * scale
        s = float(structure_level)
        level = torch.tensor([s, s / 4])
        level = torch.cat([level.cos(), level.sin()])[:, None, None].expand(
            len(frames), -1, *structure.shape[2:]
        )

        def predict(z, t, context, on_video):
            unet.on_video = on_video
            context = context.expand(len(z), 1, -1)
            return unet(torch.cat([z, structure, level], 1), t, context).sample

        scheduler = diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            steps_offset=1,
            clip_sample=False,
        )
        scheduler.set_timesteps(steps)
        z, null = torch.from_numpy(noise).permute(0, 3, 1, 2), torch.zeros_like(content)
        for t in scheduler.timesteps:
            image_null = predict(z, t, null, on_video=False)
            video_null = predict(z, t, null, on_video=True)
            video_content = predict(z, t, content, on_video=True)
            v = image_null + temporal_scale * (video_null - image_null)
            v = v + guidance_scale * (video_content - video_null)
            z = scheduler.step(v, t, z).prev_sample
        pixels = (vae.decode(z / scale).sample + 1) * 127.5
        edited = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return edited.numpy(), seen.numpy()

    def image_embedding(self, image: np.ndarray) -> torch.Tensor:
        """Picture [H W 3] uint8 → embedding [1 d]."""
        side = self.models["image-encoder"].config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)
        pixels = processor(image, return_tensors="pt").pixel_values
        return self.models["image-encoder"](pixels).image_embeds

    def text_to_image_embedding(self, prompt: str, noise: np.ndarray) -> torch.Tensor:
        """Prompt → embedding [1 d], by diffusers' pipeline and noise [1 + steps, d]."""
        first, *later = torch.from_numpy(noise)[:, None]
        pipeline = diffusers.KandinskyPriorPipeline(
            self.models["prior"],
            self.models["image-encoder"],
            self.models["text-encoder"],
            self.tokenizer,
            diffusers.UnCLIPScheduler(
                variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
            ),
            image_processor=None,
        )
        pipeline.set_progress_bar_config(disable=True)
        drawn = iter(later)
        with mock.patch(
            "diffusers.schedulers.scheduling_unclip.randn_tensor", lambda *_, **__: next(drawn)
        ):
            return pipeline(prompt, latents=first, **PRIOR).image_embeds

    def depth(self, frames: np.ndarray) -> torch.Tensor:
        """Frames [n H W 3] uint8 → inverse depth [n H W], as MiDaS runs DPT-Large."""
        model, size = self.models["depth"], frames.shape[1:3]
        x = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0
        side = (model.config.image_size,) * 2
        new = get_resize_output_image_size(np.empty((3, *size)), side, True, 32)
        new = new.height, new.width
        cubic = {"mode": "bicubic", "align_corners": False}  # the kernel of cv2.INTER_CUBIC
        x = (F.interpolate(x, new, **cubic) - 0.5) / 0.5
        patch = model.config.patch_size
        # transformers' own forward takes square pictures alone.
        states = model.dpt(x, output_hidden_states=True).hidden_states
        states = [states[1 + i] for i in model.config.backbone_out_indices]
        depth = model.head(model.neck(states, new[0] // patch, new[1] // patch))
        return F.interpolate(depth[:, None], size, **cubic)[:, 0]


def blur(depth: torch.Tensor, level: int) -> torch.Tensor:
    """Blurs and halves depth [n H W] `level` times, and resamples it to its size."""
    x, taps = depth[:, None], torch.tensor([1.0, 4, 6, 4, 1]) / 16
    for _ in range(level):
        x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), torch.outer(taps, taps)[None, None])
        # An even side keeps the points midway between pairs, an odd one every other point.
        x = F.avg_pool2d(x, (2, 1)) if x.shape[2] % 2 == 0 else x[:, :, ::2]
        x = F.avg_pool2d(x, (1, 2)) if x.shape[3] % 2 == 0 else x[:, :, :, ::2]
    return F.interpolate(x, depth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
