"""The frozen networks around the UNet: latents, structure and content of frames and texts.

`Conditioner` holds the modules. Their parameters come in as the argument `encoder_params`, a
dictionary by the same names, so every function here is pure and can run inside a jitted step.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gen1_jax.batch import Batch
from gen1_jax.diffusion import prior as prior_diffusion
from gen1_jax.diffusion.structure import structure_image
from gen1_jax.errors import UserError
from gen1_jax.models import clip, dpt
from gen1_jax.pipeline import ENCODERS
from gen1_jax.weights.folder import load_model

EncoderParams = dict[str, Any]


def to_content(embedding: jax.Array) -> jax.Array:
    """CLIP embedding [... d] → content: its direction, with unit variance (length √d)."""
    norm = jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    return embedding / jnp.maximum(norm, 1e-6) * embedding.shape[-1] ** 0.5


def to_images(frames: jax.Array) -> jax.Array:
    """Frames uint8 → images in [−1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1


@dataclasses.dataclass(frozen=True)
class Conditioner:
    """The frozen modules; those that a use does not need may be None."""

    vae: nn.Module | None = None
    clip: nn.Module | None = None
    depth: nn.Module | None = None
    prior: nn.Module | None = None

    @classmethod
    def load(
        cls, folders: dict[str, str | Path], dtype: Any = None
    ) -> tuple["Conditioner", EncoderParams]:
        """Modules and parameters from model folders by name (vae, clip, depth, prior).

        Raises:
          UserError: a missing or unreadable folder, or one that holds another kind of model.
        """
        modules, encoder_params = {}, {}
        for name, folder in folders.items():
            if name not in ENCODERS:
                raise UserError(f"unknown frozen model {name!r}; accepted: {', '.join(ENCODERS)}")
            module, params = load_model(folder, dtype=dtype)
            kind = ENCODERS[name].kind
            if type(module).__name__ != kind:
                raise UserError(f"{folder} holds {type(module).__name__}; {name} must be {kind}")
            modules[name], encoder_params[name] = module, params
        return cls(**modules), encoder_params

    # ---------------------------------------------------------------- frames <-> latents

    def encode_images(self, encoder_params: EncoderParams, images: jax.Array) -> jax.Array:
        """Images [b n H W 3] in [−1, 1] → scaled latents [b n h w c] (the mean of E)."""
        return self.encode_moments(encoder_params, images)[0]

    def encode_moments(
        self, encoder_params: EncoderParams, images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Images [b n H W 3] in [−1, 1] → mean and log variance of scaled latents [b n h w c]."""
        b, scale = images.shape[0], self.vae.scaling_factor
        mean, logvar = self.vae.apply(
            {"params": encoder_params["vae"]},
            rearrange(images, "b n h w c -> (b n) h w c"),
            method="encode",
        )
        moments = mean * scale, logvar + 2 * math.log(scale)
        return tuple(rearrange(x, "(b n) h w c -> b n h w c", b=b) for x in moments)

    def encode_frames(self, encoder_params: EncoderParams, frames: jax.Array) -> jax.Array:
        """Frames [b n H W 3] uint8 → scaled latents [b n h w c]."""
        return self.encode_images(encoder_params, to_images(frames))

    def decode(self, encoder_params: EncoderParams, latents: jax.Array) -> jax.Array:
        """Scaled latents [b n h w c] → frames [b n H W 3] uint8."""
        b = latents.shape[0]
        flat = rearrange(latents / self.vae.scaling_factor, "b n h w c -> (b n) h w c")
        images = self.vae.apply({"params": encoder_params["vae"]}, flat, method="decode")
        frames = jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)
        return rearrange(frames, "(b n) h w c -> b n h w c", b=b)

    # ---------------------------------------------------------------- structure

    def estimate_depth(self, encoder_params: EncoderParams, frames: jax.Array) -> jax.Array:
        """Frames [b n H W 3] uint8 → inverse depth [b n H W], up to a scale and shift."""
        b, _, height, width, _ = frames.shape
        patch, shorter = self.depth.patch_size, self.depth.image_size
        factor = shorter / min(height, width)
        size = tuple(max(1, round(side * factor / patch)) * patch for side in (height, width))
        pixels = dpt.preprocess(rearrange(frames, "b n h w c -> (b n) h w c"), size)
        depth = self.depth.apply({"params": encoder_params["depth"]}, pixels).astype(jnp.float32)
        if size != (height, width):
            depth = jax.image.resize(depth, (depth.shape[0], height, width), "linear")
        return rearrange(depth, "(b n) h w -> b n h w", b=b)

    def encode_structure(
        self, encoder_params: EncoderParams, depth: jax.Array, level: jax.Array
    ) -> jax.Array:
        """Inverse depth [b n H W] at level t_s [b] → structure latents [b n h w c]."""
        return self.encode_images(encoder_params, structure_image(depth, level))

    # ---------------------------------------------------------------- content

    def embed_images(self, encoder_params: EncoderParams, images: jax.Array) -> jax.Array:
        """Images [b H W 3] uint8 → CLIP image embeddings [b d], CLIP's own scale."""
        pixels = clip.preprocess(images, self.clip.vision_config.image_size)
        return self.clip.apply({"params": encoder_params["clip"]}, pixels, method="encode_image")

    def embed_text(self, encoder_params: EncoderParams, tokens: jax.Array) -> jax.Array:
        """Tokens [b l] → CLIP text embeddings [b d], CLIP's own scale."""
        return self.clip.apply({"params": encoder_params["clip"]}, tokens, method="encode_text")

    def image_content(self, encoder_params: EncoderParams, images: jax.Array) -> jax.Array:
        """Images [b H W 3] uint8 → content [b d]."""
        return to_content(self.embed_images(encoder_params, images))

    def text_condition(
        self, encoder_params: EncoderParams, tokens: jax.Array
    ) -> prior_diffusion.TextCondition:
        """Tokens [b l] → what the prior reads. Tokens after the first end-of-text are masked."""
        hidden, embed = self.clip.apply(
            {"params": encoder_params["clip"]}, tokens, method="text_hidden_states"
        )
        return prior_diffusion.TextCondition(to_content(embed), hidden, self.token_mask(tokens))

    def token_mask(self, tokens: jax.Array) -> jax.Array:
        """True up to and including the first end-of-text token; [b l]."""
        end = self.clip.text_config.eos_token_id
        ended = tokens == (tokens.max(-1, keepdims=True) if end == 2 else end)
        return jnp.cumsum(ended, axis=-1) - ended < 1

    def text_content(
        self,
        encoder_params: EncoderParams,
        tokens: jax.Array,
        null_tokens: jax.Array,
        key: jax.Array,
        num_steps: int = 25,
        guidance_scale: float = 4.0,
        clamp: float = 5.0,
    ) -> jax.Array:
        """Content [b d] of prompts: the prior samples an image embedding for each text.

        `null_tokens` [1 l] is the empty prompt, which guidance leads away from.
        """

        def predict(x, t, embed, hidden, mask):
            return self.prior.apply({"params": encoder_params["prior"]}, x, t, embed, hidden, mask)

        standardised = prior_diffusion.sample_prior(
            predict,
            self.text_condition(encoder_params, tokens),
            self.text_condition(encoder_params, null_tokens),
            key,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            clamp=clamp,
        )
        prior = encoder_params["prior"]
        return to_content(standardised * prior["clip_std"] + prior["clip_mean"])

    # ---------------------------------------------------------------- whole batches

    def encode_batch(self, encoder_params: EncoderParams, batch: Batch) -> Batch:
        """Raw → encoded: estimated depth at the batch's t_s, the content of its chosen frames.

        Raises:
          UserError: encoders are missing, or the batch does not say what was chosen.
        """
        missing = [name for name in ("vae", "clip", "depth") if getattr(self, name) is None]
        if missing:
            raise UserError(
                "raw batches need the frozen models vae, clip and depth in the config; missing: "
                f"{', '.join(missing)}"
            )
        for name in ("structure_level", "content_frame"):
            if getattr(batch, name) is None:
                raise UserError(f"raw batches need {name} beside the frames: add it to data.fields")
        frames = jnp.asarray(batch.frames)
        mean, logvar = self.encode_moments(encoder_params, to_images(frames))
        depth = self.estimate_depth(encoder_params, frames)
        chosen = frames[jnp.arange(len(frames)), batch.content_frame]
        return Batch(
            latents=mean,
            latents_logvar=logvar,
            structure=self.encode_structure(encoder_params, depth, batch.structure_level),
            structure_level=batch.structure_level,
            content=self.image_content(encoder_params, chosen),
            tokens=batch.tokens,
        )

    def encode_record(
        self, encoder_params: EncoderParams, frames: jax.Array, levels: jax.Array
    ) -> dict[str, jax.Array]:
        """What `precompute` stores of clips [b n H W 3].

        Moments of the latents, the structure at each of levels [b k], the content of every frame.
        """
        mean, logvar = self.encode_moments(encoder_params, to_images(frames))
        depth = self.estimate_depth(encoder_params, frames)
        # One level after another: all at once would take k times the memory.
        structure = jax.lax.map(partial(self.encode_structure, encoder_params, depth), levels.T)
        content = self.image_content(encoder_params, rearrange(frames, "b n h w c -> (b n) h w c"))
        return {
            "latents": mean,
            "latents_logvar": logvar,
            "structure": rearrange(structure, "k b n h w c -> b k n h w c"),
            "content": rearrange(content, "(b n) d -> b n d", b=frames.shape[0]),
        }
