"""Stable Diffusion 2's depth model, as diffusers publishes it: it edits each frame alone.

Text, latents, guidance and the trajectory are those of diffusers'
`StableDiffusionDepth2ImgPipeline` with DDIM (η = 0). Two things differ. The pipeline under
evaluation estimates the depth, so that all methods see the same. The latents of the source are the
mean of the autoencoder, not a sample.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gen1_jax.conditioning import Conditioner
from gen1_jax.diffusion.guidance import combine
from gen1_jax.diffusion.process import make_schedule
from gen1_jax.diffusion.sampler import integrate
from gen1_jax.distributed import batch_sharding, clip_sharding, replicated
from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.sd_depth_folder import PIPELINE_CLASS, read_depth_model
from gen1_jax.models.preprocess import resize_cubic
from gen1_jax.runtime import naming_what_to_lower


class SDDepth:
    """A depth-conditioned image model of diffusers, with its own text encoder and autoencoder."""

    name = "depth-per-frame"
    controls = ("guidance_scale", "strength")

    def __init__(self, editor: VideoEditor, folder: Path):
        """Loads the parts.

        Args:
          editor: the pipeline, which estimates depth, and whose devices it shares.
          folder: the whole folder: unet, vae, text_encoder, tokenizer, scheduler. Its own
            depth_estimator is not read.

        Raises:
          UserError: a part is missing, of another kind, or does not fit the others.
        """
        model = read_depth_model(folder, editor.unet.dtype)
        self._unet, self._text, self._tokenizer = model.unet, model.text, model.tokenizer
        self._encoders, self._schedule = Conditioner(vae=model.vae), make_schedule(**model.schedule)
        # As stages have it; see `sampling_timesteps`.
        self._spacing = "trailing" if model.schedule["zero_terminal_snr"] else "leading"
        self.digest, mesh = model.digest, editor.mesh
        self._params = jax.device_put(model.params, replicated(mesh))
        whole, clips, batch = (make(mesh) for make in (replicated, clip_sharding, batch_sharding))
        self._prepare = jax.jit(
            self._prepare_fn,
            in_shardings=(whole, clips, clips, batch),
            out_shardings=(clips, clips, batch),
        )
        self._sample = jax.jit(
            self._sample_fn,
            static_argnums=(6, 7),
            in_shardings=(whole, clips, clips, batch, batch, batch),
            out_shardings=clips,
        )

    def identity(self, item: Item) -> dict[str, str]:
        if item.image is not None:
            raise UserError(
                f"clip {item.clip} takes its content from a picture; {self.name} by a "
                f"{PIPELINE_CLASS} accepts prompts only"
            )
        return {"rival": self.digest, "autoencoder": "the rival's own"}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        b, n, height, width = clips.frames.shape[:4]
        factor, mesh = self._encoders.vae.spatial_factor, clips.editor.mesh
        if height % factor or width % factor:
            raise UserError(
                f"frames of {height} x {width}: {self.name} takes sides that are "
                f"multiples of {factor}"
            )
        texts = [text for item in clips.items for text in (item.prompt, "")]
        tokens = rearrange(self._tokenizer.encode(texts), "(b g) l -> b g l", g=2)
        keys = jax.vmap(jax.random.key)(np.asarray(clips.seeds, np.uint32))
        guidance = np.full(b, setting["guidance_scale"], np.float32)
        depth = jax.device_put(clips.depth, clip_sharding(mesh))
        frames = jax.device_put(clips.frames, clip_sharding(mesh))
        on_batch = partial(jax.device_put, device=batch_sharding(mesh))
        task = f"editing {b} clips of {n} frames"
        with naming_what_to_lower(task, "the clips edited together (--batch-size)"):
            with jax.set_mesh(mesh):
                if self.digest not in clips.kept:
                    prepared = self._prepare(self._params, frames, depth, on_batch(tokens))
                    clips.kept[self.digest] = prepared
                edited = self._sample(
                    self._params,
                    *clips.kept[self.digest],
                    on_batch(keys),
                    on_batch(guidance),
                    num_steps,
                    setting["strength"],
                )
            return np.asarray(edited)

    def _prepare_fn(self, params, frames, depth, tokens):
        """Returns latents [b n h w 4], scaled depth [b n h w 1], context of texts [b 2 l d]."""
        source = self._encoders.encode_frames(params, frames)
        b, _, height, width, _ = source.shape
        depth = resize_cubic(rearrange(depth, "b n h w -> (b n) h w 1"), height, width)
        low, high = (f(depth, axis=(1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
        depth = 2 * (depth - low) / jnp.maximum(high - low, 1e-6) - 1  # a flat frame is −1
        flat = rearrange(tokens, "b g l -> (b g) l")
        context = self._text.apply({"params": params["text"]}, flat)[0].astype(jnp.float32)
        return (
            source,
            rearrange(depth, "(b n) h w c -> b n h w c", b=b),
            rearrange(context, "(b g) l d -> b g l d", b=b),
        )

    def _sample_fn(
        self, params, source, depth, context, keys, guidance_scale, num_steps: int, strength: float
    ):
        def denoise(z, t):
            inputs = jnp.concatenate([z, depth], axis=-1)
            branches = self._unet.apply(
                {"params": params["unet"]}, jnp.stack([inputs] * 2, axis=1), t, context
            )
            text, null = jnp.moveaxis(branches, 1, 0)
            return combine(text, null, null, 1.0, guidance_scale)

        latents = integrate(
            denoise,
            self._schedule,
            jax.vmap(partial(jax.random.normal, shape=source.shape[1:]))(keys),
            num_steps,
            spacing=self._spacing,
            source=source,
            strength=strength,
        )
        return self._encoders.decode(params, latents)
