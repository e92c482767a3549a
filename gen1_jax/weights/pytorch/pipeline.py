"""Gen-1's editing pipeline in PyTorch: it keeps a video's depth and takes content from a prompt.

    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video, load_video

    pipe = DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR, trust_remote_code=True)
    edit = pipe(load_video("clip.mp4")[:8], prompt="a blue ball over snow", structure_level=1)
    export_to_video(edit.frames, "out.mp4", fps=8)

The file needs torch, diffusers and transformers only. Letters in shapes: b batch, n frames, h w
space, c channels, l tokens, d embedding width.
"""

import dataclasses
import inspect
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

NUM_LEVELS = 8  # structure levels t_s, 0 … 7
# Mean and standard deviation of CLIP's training images, red green blue in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass
class Gen1PipelineOutput(BaseOutput):
    """The result of an edit.

    Attributes:
      frames: [n H W 3], float in [0, 1] (`output_type` "np") or uint8 ("uint8"), or PIL images
        ("pil").
      structure: [n H W] in [-1, 1], the blurred depth that the model saw.
    """

    frames: Any
    structure: np.ndarray


class Gen1Pipeline(DiffusionPipeline):
    """Edits one clip at a time. `size` and `num_frames` are those of the training clips."""

    model_cpu_offload_seq = "depth_estimator->text_encoder->prior->image_encoder->unet->vae"

    def __init__(
        self,
        unet,
        vae,
        image_encoder,
        text_encoder,
        tokenizer,
        depth_estimator,
        prior,
        scheduler,
        size: list | None = None,
        num_frames: int = 8,
        guidance_scale: float = 7.5,
        prior_num_steps: int = 25,
        prior_guidance_scale: float = 4.0,
        prior_clamp: float = 5.0,
    ):
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            depth_estimator=depth_estimator,
            prior=prior,
            scheduler=scheduler,
        )
        self.register_to_config(
            size=size,
            num_frames=num_frames,
            guidance_scale=guidance_scale,
            prior_num_steps=prior_num_steps,
            prior_guidance_scale=prior_guidance_scale,
            prior_clamp=prior_clamp,
        )

    @torch.no_grad()
    def __call__(
        self,
        frames: Any,
        prompt: str | None = None,
        image: Any = None,
        *,
        depth: Any = None,
        structure_level: int = 0,
        temporal_scale: float = 1.0,
        guidance_scale: float | None = None,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        prior_noise: Tensor | None = None,
        output_type: str = "np",
    ) -> Gen1PipelineOutput:
        """Edits a clip.

        Args:
          frames: n frames, as PIL images or as uint8 [n H W 3].
          prompt: the wanted content in words; either this or `image` is given.
          image: a picture whose look is wanted, PIL or uint8 [H W 3].
          depth: [n H W] inverse depth, or any map that stands in for it, instead of the estimate.
          structure_level: t_s; 0 keeps every detail of the depth, 7 keeps nearly nothing.
          temporal_scale: ω_t; above 1 is smoother over time. At 0 the prediction without content
            sees each frame alone, and the step from it towards the content still sees all frames.
          guidance_scale: ω, how strictly the content is followed; None is the model's own default.
          num_inference_steps: DDIM steps.
          height, width: the size to edit at; None is that of `frames`.
          generator: the source of the noise.
          latents: [n h w c] initial noise, instead of the generator's.
          prior_noise: [1 + prior steps, d] noise of the prior, instead of the generator's.
          output_type: "np", "uint8" or "pil".

        Raises:
          ValueError: an argument is not accepted; the message says what is.
        """
        if (prompt is None) == (image is None):
            raise ValueError("give either a prompt or an image to take the content from")
        if structure_level not in range(NUM_LEVELS):
            raise ValueError(f"structure_level {structure_level}; 0 to {NUM_LEVELS - 1}")
        if output_type not in ("np", "uint8", "pil"):
            raise ValueError(f"output_type {output_type!r}; np, uint8 or pil")
        pixels = to_tensor(frames, "frames", self._execution_device)
        if (height or width) and (height, width) != tuple(pixels.shape[2:]):
            pixels = resize(pixels, height or pixels.shape[2], width or pixels.shape[3])
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if pixels.shape[2] % factor or pixels.shape[3] % factor:
            raise ValueError(
                f"frames of {pixels.shape[2]} x {pixels.shape[3]}: sides must be multiples of "
                f"{factor}; give height and width"
            )
        if depth is None:
            depth = self.estimate_depth(pixels)
        depth = torch.as_tensor(depth, dtype=torch.float32, device=pixels.device)
        if depth.shape != pixels[:, 0].shape:
            raise ValueError(f"depth of {tuple(depth.shape)}; {tuple(pixels[:, 0].shape)}")

        if prompt is not None:
            content = self.text_content(prompt, generator, prior_noise)
        else:
            content = self.image_content(to_tensor(image, "image", pixels.device))
        seen = blur(normalise_clip(depth), structure_level)
        structure = self.encode(seen[:, None].expand(-1, 3, -1, -1))
        if latents is None:
            shape = tuple(structure.shape)
            latents = torch.randn(shape, generator=generator, device=_device_of(generator))
        latents = latents.to(pixels.device, torch.float32)
        if latents.shape != structure.shape:
            raise ValueError(f"latents of {tuple(latents.shape)}; {tuple(structure.shape)}")
        if guidance_scale is None:
            guidance_scale = self.config.guidance_scale

        self.scheduler.set_timesteps(num_inference_steps, device=pixels.device)
        for t in self.progress_bar(self.scheduler.timesteps):
            v = self.guided_prediction(
                latents, t, content, structure, structure_level, temporal_scale, guidance_scale
            )
            latents = self.scheduler.step(v, t, latents).prev_sample
        video = self.decode(latents)
        self.maybe_free_model_hooks()
        if output_type == "np":
            video = video.astype(np.float32) / 255
        if output_type == "pil":
            video = self.numpy_to_pil(video.astype(np.float32) / 255)
        return Gen1PipelineOutput(frames=video, structure=seen.cpu().numpy())

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """Saves as diffusers does, with the two source files, so that the folder loads again."""
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        shutil.copyfile(inspect.getfile(type(self)), folder / "pipeline.py")
        shutil.copyfile(inspect.getfile(type(self.unet)), folder / "unet" / "video_unet.py")
        index = json.loads((folder / self.config_name).read_text())
        index |= {"_class_name": ["pipeline", "Gen1Pipeline"], "unet": ["video_unet", "VideoUNet"]}
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n")

    # ---- guidance

    @torch.no_grad()
    def guided_prediction(
        self,
        latents: Tensor,
        t: Tensor,
        content: Tensor,
        structure: Tensor,
        level: int,
        temporal_scale: float,
        guidance_scale: float,
    ) -> Tensor:
        """Returns v~ = v_img(∅) + ω_t (v_vid(∅) - v_img(∅)) + ω (v_vid(c) - v_vid(∅)) [n h w c].

        The three predictions are one call. Its last branch skips the temporal layers.
        """
        embedding = level_embedding(level).to(latents).expand(*latents.shape[:-1], -1)
        sample = torch.cat([latents, structure, embedding], dim=-1)
        sample = sample[None, None].expand(1, 3, -1, -1, -1, -1).to(self.unet.dtype)
        null = torch.zeros_like(content)
        context = torch.stack([content, null, null], dim=1)[:, :, None]  # [1 3 l=1 d]
        branches = self.unet(sample, t.reshape(1), context, num_video_branches=2)
        video_content, video_null, image_null = branches[0].float()
        towards_video = temporal_scale * (video_null - image_null)
        return image_null + towards_video + guidance_scale * (video_content - video_null)

    # ---- frames and latents

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images [n 3 H W] in [-1, 1] → scaled latents [n h w c], the distribution's mean."""
        mean = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean.float()
        return (mean * self.vae.config.scaling_factor).permute(0, 2, 3, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Scaled latents [n h w c] → frames [n H W 3] uint8."""
        flat = (latents / self.vae.config.scaling_factor).permute(0, 3, 1, 2)
        images = self.vae.decode(flat.to(self.vae.dtype)).sample.float()
        frames = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return frames.permute(0, 2, 3, 1).cpu().numpy()

    # ---- structure

    @torch.no_grad()
    def estimate_depth(self, pixels: Tensor) -> Tensor:
        """Frames [n 3 H W] in 0 … 255 → inverse depth [n H W], up to a scale and a shift."""
        model, (height, width) = self.depth_estimator, pixels.shape[2:]
        patch = model.config.patch_size
        ratio = model.config.image_size / min(height, width)
        rows, columns = (max(1, round(side * ratio / patch)) for side in (height, width))
        x = resize(pixels, rows * patch, columns * patch) / 127.5 - 1
        # The parts are called one by one: transformers' own forward takes square images only.
        states = model.dpt(x.to(model.dtype), output_hidden_states=True).hidden_states
        states = [states[1 + i] for i in sorted(model.config.backbone_out_indices)]
        depth = model.head(model.neck(states, rows, columns)).float()[:, None]
        if depth.shape[2:] != x.shape[2:]:
            depth = F.interpolate(depth, x.shape[2:], mode="bilinear", align_corners=False)
        if depth.shape[2:] != (height, width):
            depth = F.interpolate(depth, (height, width), mode="bilinear", antialias=True)
        return depth[:, 0]

    # ---- content

    @torch.no_grad()
    def image_content(self, image: Tensor) -> Tensor:
        """Picture [1 3 H W] in 0 … 255 → content [1 d]."""
        size = self.image_encoder.config.image_size
        height, width = image.shape[2:]
        shorter = min(height, width)
        x = resize(image, *(size * side // shorter for side in (height, width)))
        top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
        x = x[:, :, top : top + size, left : left + size] / 255
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        x = ((x - mean) / std).to(self.image_encoder.dtype)
        return to_content(self.image_encoder(x).image_embeds.float())

    @torch.no_grad()
    def text_content(
        self, prompt: str, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Prompt → content [1 d]: the prior samples an image embedding (unCLIP, ancestral)."""
        if not prompt.strip():
            raise ValueError("the prompt is empty; say what the video should look like")
        prior, steps = self.prior, self.config.prior_num_steps
        null, text = (self._text_condition(words) for words in ("", prompt))
        embed, hidden, mask = (torch.cat(pair) for pair in zip(null, text, strict=True))
        shape = (1 + steps, prior.config.clip_embed_dim or prior.config.embedding_dim)
        if noise is None:
            noise = torch.randn(shape, generator=generator, device=_device_of(generator))
        noise = noise.to(embed.device, torch.float32)
        if noise.shape != shape:
            raise ValueError(f"prior_noise of {tuple(noise.shape)}; {shape}")

        x = noise[:1]
        for i, (t, x0_scale, x_scale, noise_scale) in enumerate(prior_steps(steps)):
            x0_null, x0_text = prior(
                x.expand(2, -1).to(prior.dtype), t, embed, hidden, mask
            ).predicted_image_embedding.float()
            x0 = x0_null + self.config.prior_guidance_scale * (x0_text - x0_null)
            x0 = x0.clamp(-self.config.prior_clamp, self.config.prior_clamp)
            x = x0_scale * x0 + x_scale * x + noise_scale * noise[1 + i]
        return to_content(prior.post_process_latents(x).float())

    def _text_condition(self, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt → embedding [1 d], states [1 l e], mask [1 l] up to the first end of text."""
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=self.text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids.to(self._execution_device)
        out = self.text_encoder(tokens)
        end = self.text_encoder.config.eos_token_id
        ended = tokens == (tokens.max() if end == 2 else end)
        mask = ended.cumsum(-1) - ended.long() < 1
        embed = out.text_embeds.float()
        # The prior's config.json says in which length it reads the embedding; public files, which
        # read CLIP's own, say nothing.
        own = self.prior.config.get("_gen1") or {}
        if own.get("text_embedding_scale") == "content":
            embed = to_content(embed)
        return embed.to(self.prior.dtype), out.last_hidden_state.to(self.prior.dtype), mask


# ---- pure functions


def to_tensor(images: Any, what: str, device: torch.device) -> Tensor:
    """PIL images or uint8 [(n) H W 3] → [n 3 H W] float32 in 0 … 255."""
    if isinstance(images, (list, tuple)):
        images = [np.asarray(x.convert("RGB") if hasattr(x, "convert") else x) for x in images]
        images = np.stack(images) if images else np.zeros((0, 0, 0, 3), np.uint8)
    elif hasattr(images, "convert"):
        images = np.asarray(images.convert("RGB"))
    images = torch.as_tensor(np.array(images))
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8 or not len(images):
        raise ValueError(
            f"{what} of {images.dtype} {tuple(images.shape)}; PIL images or uint8 [n H W 3]"
        )
    return images.to(device).permute(0, 3, 1, 2).float()


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Resizes [n 3 H W] as Pillow does: bicubic, antialiased, one axis after the other, 8 bits."""
    if x.shape[2:] == (height, width):
        return x
    for size in ((x.shape[2], width), (height, width)):
        x = F.interpolate(x, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return x


def to_content(embedding: Tensor) -> Tensor:
    """CLIP embedding [b d] → content [b d]: its direction, with unit variance (length √d)."""
    norm = embedding.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return embedding / norm * embedding.shape[-1] ** 0.5


def level_embedding(level: int) -> Tensor:
    """Level t_s → sinusoidal embedding [4]."""
    angles = level * torch.tensor([1.0, 0.25])
    return torch.cat([angles.cos(), angles.sin()])


def normalise_clip(depth: Tensor) -> Tensor:
    """Depth [n H W] → [-1, 1] by the extremes of the clip; those of each frame would flicker."""
    low, high = depth.min(), depth.max()
    return 2 * (depth - low) / (high - low) - 1 if high > low else torch.zeros_like(depth)


def blur(depth: Tensor, level: int) -> Tensor:
    """Depth [n H W] → after t_s rounds of blur and x1/2, resampled to its size [n H W]."""
    rows, columns = (blur_matrix(size, level).to(depth) for size in depth.shape[1:])
    return rows @ depth @ columns.T


def blur_matrix(size: int, level: int) -> Tensor:
    """Returns [size size]: `level` times (1 4 6 4 1)/16 and x1/2, then linear resampling."""
    matrix = np.eye(size)
    for _ in range(level):
        length = len(matrix)
        taps = np.array([1, 4, 6, 4, 1]) / 16
        if length % 2 == 0:  # samples lie between pairs
            taps = np.convolve(taps, [0.5, 0.5])
        half = np.zeros((-(-length // 2), length))
        for i in range(len(half)):
            for k, weight in enumerate(taps):
                half[i, np.clip(2 * i - 2 + k, 0, length - 1)] += weight
        matrix = half @ matrix
    if level:
        length = len(matrix)
        places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        distance = np.abs(places[:, None] - np.arange(length))
        matrix = np.maximum(0, 1 - distance) @ matrix
    return torch.from_numpy(matrix.astype(np.float32))


def prior_steps(num_steps: int, num_timesteps: int = 1000) -> list[tuple[int, float, float, float]]:
    """Returns the prior's ancestral steps: (t, scale of x_0, scale of x_t, scale of the noise).

    The schedule is the squared cosine with the small variance, as in diffusers' UnCLIPScheduler.
    """

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    edges = [alpha_bar(i / num_timesteps) for i in range(num_timesteps + 1)]
    betas = [
        min(1 - after / before, 0.999) for before, after in zip(edges, edges[1:], strict=False)
    ]
    betas = np.asarray(betas, np.float32)
    alpha_bars = np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)
    stride = (num_timesteps - 1) / (num_steps - 1)
    timesteps = (np.arange(num_steps) * stride).round()[::-1].astype(int)
    steps = []
    for t, t_next in zip(timesteps, [*timesteps[1:], -1], strict=True):
        a, a_next = alpha_bars[t], alpha_bars[t_next] if t_next >= 0 else np.float32(1)
        beta = betas[t] if t - t_next == 1 else 1 - a / a_next
        variance = (1 - a_next) / (1 - a) * beta if t > 0 else 0.0
        x0_scale = np.sqrt(a_next) * beta / (1 - a)
        x_scale = np.sqrt(1 - beta) * (1 - a_next) / (1 - a)
        steps.append((int(t), float(x0_scale), float(x_scale), float(np.sqrt(variance))))
    return steps


def _device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
