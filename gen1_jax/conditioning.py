"""The encoders around the UNet: latents, structure and content of frames and texts.

`Conditioner` holds the modules. Their parameters are passed in as the argument `encoder_params`, a
dictionary by the same names. So every function here is pure and can run inside a jitted step.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gen1_jax.batch import Batch
from gen1_jax.diffusion import prior as prior_diffusion
from gen1_jax.diffusion.structure import clip_depth, degrade, find_edges, structure_image
from gen1_jax.errors import UserError
from gen1_jax.models.clip import find_ends, with_end_token
from gen1_jax.models.preprocess import (
    depth_input_size,
    preprocess_for_clip,
    preprocess_for_depth,
    resize_depth,
)
from gen1_jax.pipeline import ENCODERS
from gen1_jax.structure_settings import UNRECORDED, StructureRecipe
from gen1_jax.weights.folder import load_model

EncoderParams = dict[str, Any]
"""The parameters of each encoder, by its name: vae, clip, depth, prior."""

CLIPS = (None, None, None, None, 3)  # [b n H W 3]
IMAGES = (None, None, None, 3)  # [b H W 3]


def to_content(embedding: jax.Array) -> jax.Array:
    """CLIP embedding [... d] → content [... d]: its direction, with unit variance (length √d)."""
    norm = jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    return embedding / jnp.maximum(norm, 1e-6) * embedding.shape[-1] ** 0.5


def to_images(frames: jax.Array) -> jax.Array:
    """Frames uint8 → images in [−1, 1], float32."""
    return frames.astype(jnp.float32) / 127.5 - 1


@dataclasses.dataclass(frozen=True)
class Conditioner:
    """The encoders. One that a use does not need may be None.

    Attributes:
      vae: the autoencoder E.
      clip: embeds images and texts.
      depth: estimates inverse depth.
      prior: samples an image embedding for a text.
      recipe: how frames become structure.
    """

    vae: nn.Module | None = None
    clip: nn.Module | None = None
    depth: nn.Module | None = None
    prior: nn.Module | None = None
    recipe: StructureRecipe = UNRECORDED

    @classmethod
    def load(
        cls,
        folders: dict[str, str | Path],
        dtype: Any = None,
        recipe: StructureRecipe = UNRECORDED,
    ) -> tuple["Conditioner", EncoderParams]:
        """Loads encoders from their model folders.

        Args:
          folders: the folder of each encoder, by its name.
          dtype: the type that the modules compute in; None keeps the type of their inputs.
          recipe: how frames become structure; that of the training data.

        Raises:
          UserError: a folder is missing or unreadable, or holds another kind of model.
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
        return cls(**modules, recipe=recipe), encoder_params

    def with_end_token(self, end_id: int) -> "Conditioner":
        """Returns the encoders with a CLIP that knows the tokenizer's end token."""
        if self.clip is None:
            return self
        config = with_end_token(self.clip.to_config(), end_id)
        clip = type(self.clip).from_config(config, dtype=self.clip.dtype)
        return dataclasses.replace(self, clip=clip)

    # ---- frames and latents

    def encode_images(self, encoder_params: EncoderParams, images: jax.Array) -> jax.Array:
        """Images [b n H W 3] in [−1, 1] → scaled latents [b n h w c], the mean of E."""
        return self.encode_moments(encoder_params, images)[0]

    def encode_moments(
        self, encoder_params: EncoderParams, images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Images [b n H W 3] in [−1, 1] → mean and log variance of scaled latents [b n h w c]."""
        chex.assert_shape(images, CLIPS)
        b, scale = images.shape[0], self.vae.scaling_factor
        mean, logvar = self.vae.apply(
            {"params": encoder_params["vae"]},
            rearrange(images, "b n h w c -> (b n) h w c"),
            method="encode",
        )
        moments = mean * scale, logvar + 2 * math.log(scale)
        return tuple(rearrange(x, "(b n) h w c -> b n h w c", b=b) for x in moments)

    def encode_frames(self, encoder_params: EncoderParams, frames: jax.Array) -> jax.Array:
        """Frames [b n H W 3] uint8 → scaled latents [b n h w c], the mean of E."""
        return self.encode_images(encoder_params, to_images(frames))

    def decode(self, encoder_params: EncoderParams, latents: jax.Array) -> jax.Array:
        """Scaled latents [b n h w c] → frames [b n H W 3] uint8."""
        chex.assert_shape(latents, (None, None, None, None, self.vae.latent_channels))
        b = latents.shape[0]
        flat = rearrange(latents / self.vae.scaling_factor, "b n h w c -> (b n) h w c")
        images = self.vae.apply({"params": encoder_params["vae"]}, flat, method="decode")
        frames = jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)
        return rearrange(frames, "(b n) h w c -> b n h w c", b=b)

    # ---- structure

    def estimate_depth(self, encoder_params: EncoderParams, frames: jax.Array) -> jax.Array:
        """Frames [b n H W 3] uint8 → inverse depth [b n H W], up to a scale and a shift."""
        chex.assert_shape(frames, CLIPS)
        b, _, height, width, _ = frames.shape
        network, resizing = self.depth, self.recipe.depth.resizing
        size = depth_input_size(height, width, network.image_size, network.patch_size, resizing)
        flat = rearrange(frames, "b n h w c -> (b n) h w c")
        pixels = preprocess_for_depth(flat, size, resizing)
        depth = network.apply({"params": encoder_params["depth"]}, pixels).astype(jnp.float32)
        depth = resize_depth(depth, (height, width), resizing)
        return rearrange(depth, "(b n) h w -> b n h w", b=b)

    def structure_map(self, frames: jax.Array, depth: jax.Array) -> jax.Array:
        """Returns what the structure of clips is made of, where that is made on the devices.

        A user's own map is not clipped: quantiles would wipe out thin edges and small masks.

        Args:
          frames: [b n H W 3] uint8.
          depth: [b n H W], estimated; it is clipped to `recipe.depth.range`.

        Returns:
          [b n H W].
        """
        if self.recipe.extractor == "edges":
            return find_edges(frames)
        return clip_depth(depth, *self.recipe.depth.range)

    def map_of_piece(
        self, encoder_params: EncoderParams, frames: jax.Array, extractor: str
    ) -> jax.Array:
        """Frames [b n H W 3] uint8 → the map [b n H W] of depth or edges, not clipped."""
        if extractor == "edges":
            return find_edges(frames)
        return self.estimate_depth(encoder_params, frames)

    def degrade(
        self, structure_map: jax.Array, level: jax.Array, bounds: jax.Array | None = None
    ) -> jax.Array:
        """Returns a map in [−1, 1] as the model sees it at the level t_s [b].

        The map is grey, [b n H W], or in colours, [b n H W 3]. Of a grey one, `bounds` [b 2] are
        the values that become −1 and 1; None: the clip's own.
        """
        return degrade(structure_map, level, self.recipe.degrading, bounds)

    def encode_structure(
        self,
        encoder_params: EncoderParams,
        depth: jax.Array,
        level: jax.Array,
        bounds: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the structure latents [b n h w c] of maps at the level t_s [b].

        Args:
          encoder_params: the parameters of vae.
          depth: inverse depth or another grey map [b n H W], or one in colours [b n H W 3].
          level: t_s.
          bounds: see `degrade`.
        """
        chex.assert_rank([depth, level], [{4, 5}, 1])
        image = structure_image(depth, level, self.recipe.degrading, bounds)
        return self.encode_images(encoder_params, image)

    # ---- content

    def embed_images(self, encoder_params: EncoderParams, images: jax.Array) -> jax.Array:
        """Images [b H W 3] uint8 → CLIP image embeddings [b d], in CLIP's own scale."""
        chex.assert_shape(images, IMAGES)
        pixels = preprocess_for_clip(images, self.clip.vision_config.image_size)
        return self.clip.apply({"params": encoder_params["clip"]}, pixels, method="encode_image")

    def embed_text(self, encoder_params: EncoderParams, tokens: jax.Array) -> jax.Array:
        """Tokens [b l] → CLIP text embeddings [b d], in CLIP's own scale."""
        chex.assert_rank(tokens, 2)
        return self.clip.apply({"params": encoder_params["clip"]}, tokens, method="encode_text")

    def image_content(self, encoder_params: EncoderParams, images: jax.Array) -> jax.Array:
        """Images [b H W 3] uint8 → content [b d]."""
        return to_content(self.embed_images(encoder_params, images))

    def text_condition(
        self, encoder_params: EncoderParams, tokens: jax.Array
    ) -> prior_diffusion.TextCondition:
        """Tokens [b l] → the input of the prior, with tokens after the end of the text masked."""
        chex.assert_rank(tokens, 2)
        hidden, embed = self.clip.apply(
            {"params": encoder_params["clip"]}, tokens, method="text_hidden_states"
        )
        if self.prior.text_embedding_scale == "content":
            embed = to_content(embed)
        return prior_diffusion.TextCondition(embed, hidden, self.token_mask(tokens))

    def token_mask(self, tokens: jax.Array) -> jax.Array:
        """Tokens [b l] → mask [b l], True up to and including the first end-of-text token."""
        ended = find_ends(self.clip.text_config, tokens)
        return jnp.cumsum(ended, axis=-1) - ended < 1

    def text_content(
        self,
        encoder_params: EncoderParams,
        tokens: jax.Array,
        null_tokens: jax.Array,
        key: jax.Array,
        num_steps: int = 25,
        guidance_scale: float = 4.0,
        clamp: float | None = None,
    ) -> jax.Array:
        """Samples the content of prompts: the prior draws an image embedding for each text.

        The defaults are those of Karlo.

        Args:
          encoder_params: the parameters of CLIP and the prior.
          tokens: [b l] the prompts.
          null_tokens: [1 l] the empty prompt, which guidance leads away from.
          key: the source of the noise.
          num_steps: steps of the prior's diffusion.
          guidance_scale: how strictly the prior follows the text.
          clamp: the largest absolute value of a standardised embedding; None is the prior's own.

        Returns:
          Content [b d].
        """

        def predict(x, t, embed, hidden, mask):
            return self.prior.apply({"params": encoder_params["prior"]}, x, t, embed, hidden, mask)

        standardised = prior_diffusion.sample_prior(
            predict,
            self.text_condition(encoder_params, tokens),
            self.text_condition(encoder_params, null_tokens),
            key,
            embedding_dim=self.prior.embedding_dim,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            clamp=self.prior.clip_sample_range if clamp is None else clamp,
        )
        prior = encoder_params["prior"]
        return to_content(standardised * prior["clip_std"] + prior["clip_mean"])

    # ---- whole batches

    def encode_batch(self, encoder_params: EncoderParams, batch: Batch) -> Batch:
        """Encodes a raw batch.

        The structure is that of `recipe` at the levels of the batch. The content is that of the
        frames that the batch chose.

        Args:
          encoder_params: the parameters of vae, clip and depth.
          batch: has frames, structure_level and content_frame.

        Raises:
          UserError: an encoder or a field of the batch is missing.
        """
        missing = [name for name in ("vae", "clip", "depth") if getattr(self, name) is None]
        if missing:
            raise UserError(
                "raw batches need the frozen models vae, clip and depth in the config; missing: "
                f"{', '.join(missing)}"
            )
        if self.recipe.place != "device":
            raise UserError(
                f"structure of {self.recipe.extractor} is not made in the training step: encode "
                "the clips with `gen1 precompute`, and train on what it writes"
            )
        for name in ("structure_level", "content_frame"):
            if getattr(batch, name) is None:
                raise UserError(f"raw batches need {name} beside the frames: add it to data.fields")
        frames = jnp.asarray(batch.frames)
        mean, logvar = self.encode_moments(encoder_params, to_images(frames))
        depth = self.structure_map(frames, self.estimate_depth(encoder_params, frames))
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
        self,
        encoder_params: EncoderParams,
        frames: jax.Array,
        levels: jax.Array,
        maps: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes clips to what `gen1 precompute` stores.

        Args:
          encoder_params: the parameters of vae, clip and depth.
          frames: [b n H W 3] uint8.
          levels: [b k] the structure levels to store of each clip.
          maps: structure maps that the host made, [b n H W] or in colours [b n H W 3]; None: they
            are made here.

        Returns:
          `latents` and `latents_logvar` [b n h w c], the moments of E; `structure` [b k n h w c];
          `content` [b n d] of every frame.
        """
        mean, logvar = self.encode_moments(encoder_params, to_images(frames))
        if maps is None:
            maps = self.structure_map(frames, self.estimate_depth(encoder_params, frames))
        # Levels are encoded one after another, because all at once would take k times the memory.
        structure = jax.lax.map(partial(self.encode_structure, encoder_params, maps), levels.T)
        content = self.image_content(encoder_params, rearrange(frames, "b n h w c -> (b n) h w c"))
        return {
            "latents": mean,
            "latents_logvar": logvar,
            "structure": rearrange(structure, "k b n h w c -> b k n h w c"),
            "content": rearrange(content, "(b n) d -> b n d", b=frames.shape[0]),
        }
