"""The models around the UNet, as a pipeline holds them: autoencoder, depth, CLIP and the prior.

The prior's schedule is the squared cosine with the small variance, as in diffusers'
`UnCLIPScheduler`.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from .gen1_checks import check_tensor
from .gen1_frames import fit, resize, to_tensor
from .gen1_structure import NO_STRUCTURE, clip_depth, estimate_depth, see_maps

# Mean and standard deviation of CLIP's training images, red green blue in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PRIOR_TIMESTEPS = 1000
COLOURED = ("segments",)  # kinds of structure whose maps have colours


class EncodersMixin:
    """What a pipeline does with its models other than the UNet."""

    # ---- frames and latents

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images [n 3 H W] in [-1, 1] → scaled latents [c n h w], the distribution's mean."""
        mean = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean.float()
        return (mean * self.vae.config.scaling_factor).movedim(1, 0)

    def encode_maps(self, maps: Tensor, chunk_size: int | None = 16) -> Tensor:
        """Maps [n H W] or [n 3 H W] in [-1, 1] → scaled latents [c n h w], in chunks of frames."""
        images = maps if maps.ndim == 4 else maps[:, None].expand(-1, 3, -1, -1)
        return torch.cat([self.encode(x) for x in images.split(chunk_size or len(maps))], dim=1)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, decode_chunk_size: int | None = 16) -> Tensor:
        """Scaled latents [b c n h w] → frames [b 3 n H W], about -1 to 1."""
        flat = (latents / self.vae.config.scaling_factor).movedim(1, 2).flatten(0, 1)
        images = [
            self.vae.decode(chunk.to(self.vae.dtype)).sample.float()
            for chunk in flat.split(decode_chunk_size or len(flat))
        ]
        return torch.cat(images).unflatten(0, (len(latents), -1)).movedim(2, 1)

    # ---- structure

    @torch.no_grad()
    def estimate_depth(self, pixels: Tensor) -> Tensor:
        """Frames [n 3 H W] in 0 … 255 → inverse depth [n H W], up to a scale and a shift."""
        resizing = (self.config.depth or {}).get("resizing", "shorter_side")
        return estimate_depth(self.depth_estimator, pixels, resizing)

    def prepare_maps(
        self,
        videos: list[np.ndarray],
        maps: Any,
        size: tuple[int, int],
        how: str,
        chunk: int,
        device: torch.device,
    ) -> Tensor:
        """Returns depth, estimated, or maps that a caller gave: [b n H W], or colours [b n 3 H W].

        Raises:
          ValueError: the maps are none, or for another number of videos or frames.
        """
        if maps is not None:
            return self._fit_maps(maps, len(videos), len(videos[0]), size, how, device)
        pixels = [to_tensor(fit(each, size, how), device) for each in videos]
        depth = torch.stack(
            [torch.cat([self.estimate_depth(x) for x in each.split(chunk)]) for each in pixels]
        )
        return clip_depth(depth, *(self.config.depth or {}).get("range", (0, 1)))

    def encode_structure(self, maps: Tensor, level: int, chunk: int) -> tuple[Tensor, Tensor]:
        """Returns maps as the model sees them at level t_s, and their latents [b c n h w]."""
        seen = see_maps(maps, level)
        return seen, torch.stack([self.encode_maps(each, chunk) for each in seen])

    def prepare_no_structure(
        self, shape: tuple[int, ...], device: torch.device
    ) -> tuple[int, Tensor, Tensor]:
        """Returns the level, the map [b n H W] and the latents [b c n h w] of no structure."""
        b, n, *size = shape
        sides = (side // self.vae_scale_factor for side in size)
        latents = torch.zeros(b, self.vae.config.latent_channels, n, *sides, device=device)
        return NO_STRUCTURE, torch.zeros(shape, device=device), latents

    def _fit_maps(
        self, depth: Any, b: int, n: int, size: tuple[int, int], how: str, device: torch.device
    ) -> Tensor:
        channels = 3 * ((self.config.structure or {}).get("extractor") in COLOURED)
        shape = f"finite numbers [{b} {n} H W{' 3' if channels else ''}]"
        try:
            if isinstance(depth, (list, tuple)):
                depth = np.stack([np.asarray(each) for each in depth])
            if not isinstance(depth, Tensor):
                depth = torch.from_numpy(np.asarray(depth).astype(np.float32))
        except (TypeError, ValueError):  # what cannot be one array of numbers
            raise ValueError(f"structure of {type(depth).__name__}; {shape}") from None
        depth = depth.to("cpu", torch.float32)
        axes = 5 if channels else 4
        depth = depth[None] if depth.ndim == axes - 1 else depth
        wrong = depth.ndim != axes or depth.shape[:2] != (b, n) or not depth.numel()
        wrong |= channels > 0 and depth.shape[-1] != channels
        if wrong or not depth.isfinite().all():
            raise ValueError(f"structure of {tuple(depth.shape)}; {shape}")
        planes = depth.movedim(-1, 1).flatten(0, 1) if channels else depth
        fitted = torch.tensor(np.stack([fit(x, size, how) for x in planes.numpy()]), device=device)
        return fitted.unflatten(0, (b, channels)).movedim(1, 2) if channels else fitted

    # ---- content

    @torch.no_grad()
    def image_content(self, image: Tensor) -> Tensor:
        """Pictures [b 3 H W] in 0 … 255 → content [b d]."""
        x = to_clip_input(image, self.image_encoder.config.image_size)
        embeds = self.image_encoder(x.to(self.image_encoder.dtype)).image_embeds
        return to_content(embeds.float())

    @torch.no_grad()
    def text_content(
        self,
        prompt: str | list[str],
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Prompts → content [b d]: the prior samples an image embedding (unCLIP, ancestral).

        Args:
          prompt: one prompt or a list [b].
          generator: the source of the noise, or one for each prompt.
          noise: [b, 1 + prior steps, d], or without b; instead of the generator's.

        Raises:
          ValueError: `noise` has another shape.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        prior, steps = self.prior, prior_steps(self.config.prior_num_steps)
        embed, hidden, mask = self._text_condition([""] * len(prompts) + prompts)
        width = prior.config.clip_embed_dim or prior.config.embedding_dim
        shape = (len(prompts), 1 + len(steps), width)
        if noise is None:
            noise = randn_tensor(shape, generator, embed.device, torch.float32)
        check_tensor("prior_noise", noise)
        noise = noise[None] if noise.ndim == 2 else noise
        noise = noise.to(embed.device, torch.float32)
        if noise.shape != shape:
            raise ValueError(f"prior_noise of {tuple(noise.shape)}; {shape}")

        x = noise[:, 0]
        bar = self.progress_bar(steps)
        for i, (t, x0_scale, x_scale, noise_scale) in enumerate(bar):
            predicted = prior(torch.cat([x, x]).to(prior.dtype), t, embed, hidden, mask)
            x0_null, x0_text = predicted.predicted_image_embedding.float().chunk(2)
            x0 = x0_null + self.config.prior_guidance_scale * (x0_text - x0_null)
            x0 = x0.clamp(-self.config.prior_clamp, self.config.prior_clamp)
            x = x0_scale * x0 + x_scale * x + noise_scale * noise[:, 1 + i]
        return to_content(unstandardise(prior, x))

    def negative_content(
        self,
        prompts: list[str],
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Tensor | None = None,
    ) -> Tensor | None:
        """Negative prompts → what stands in ∅'s place [b d]: zeros for an empty one; None: all are.

        Args: see `text_content`.
        """
        if not any(prompts):
            return None
        content = self.text_content(prompts, generator, noise)
        given = torch.tensor([bool(each) for each in prompts], device=content.device)
        return torch.where(given[:, None], content, 0)

    def _text_condition(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts → embeddings [b d], states [b l e], mask [b l] up to the first end of text."""
        config = self.text_encoder.config
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids.to(self._execution_device)
        out = self.text_encoder(tokens)
        embed = out.text_embeds.float()
        # The prior's config.json says in which length it reads the embedding; public files, which
        # read CLIP's own, say nothing.
        own = self.prior.config.get("_gen1") or {}
        if own.get("text_embedding_scale") == "content":
            embed = to_content(embed)
        mask = token_mask(tokens, config.eos_token_id)
        return embed.to(self.prior.dtype), out.last_hidden_state.to(self.prior.dtype), mask


# ---- pure functions


def to_content(embedding: Tensor) -> Tensor:
    """CLIP embedding [b d] → content [b d]: its direction, with unit variance (length √d)."""
    norm = embedding.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return embedding / norm * embedding.shape[-1] ** 0.5


def to_clip_input(image: Tensor, size: int) -> Tensor:
    """Pictures [n 3 H W] in 0 … 255 → what CLIP sees [n 3 size size]."""
    shorter = min(image.shape[2:])
    x = resize(image, *(size * side // shorter for side in image.shape[2:]))
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    x = x[:, :, top : top + size, left : left + size] / 255
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (x - mean) / std


def token_mask(tokens: Tensor, end: int) -> Tensor:
    """Tokens [b l] → mask [b l], True up to and including the first end of text.

    Args:
      tokens: of CLIP's tokenizer.
      end: `eos_token_id` of the text encoder. In old configs it is 2, and the end is the largest.
    """
    ended = tokens == (tokens.amax(-1, keepdim=True) if end == 2 else end)
    return ended.cumsum(-1) - ended.long() < 1


def unstandardise(prior: nn.Module, x: Tensor) -> Tensor:
    """Standardised image embeddings [b d] → CLIP's own [b d], by the statistics of the prior.

    `enable_sequential_cpu_offload` keeps them elsewhere but while the prior is called. Its hook is
    asked for them, as diffusers' `apply_forward_hook` does for what is no `forward`.
    """
    hook = getattr(prior, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(prior)
    x = x * prior.clip_std.to(x) + prior.clip_mean.to(x)
    return x if hook is None else hook.post_forward(prior, x)


def prior_steps(num_steps: int) -> list[tuple[int, float, float, float]]:
    """Returns the prior's ancestral steps: (t, scale of x_0, scale of x_t, scale of the noise).

    Raises:
      ValueError: the prior cannot take so many steps.
    """
    if num_steps not in range(2, PRIOR_TIMESTEPS + 1):
        raise ValueError(f"prior_num_steps {num_steps}; 2 to {PRIOR_TIMESTEPS}")

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    edges = [alpha_bar(i / PRIOR_TIMESTEPS) for i in range(PRIOR_TIMESTEPS + 1)]
    betas = [
        min(1 - after / before, 0.999) for before, after in zip(edges, edges[1:], strict=False)
    ]
    betas = np.asarray(betas, np.float32)
    alpha_bars = np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)
    stride = (PRIOR_TIMESTEPS - 1) / (num_steps - 1)
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
