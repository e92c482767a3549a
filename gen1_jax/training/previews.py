"""Pictures and numbers of one fixed batch, which show how far a model is.

A preview is `preview(params, encoder_params, batch) → {name: picture [H W 3] uint8, or a number}`.
Each function here makes the preview of one objective.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner, EncoderParams, to_content
from gen1_jax.diffusion.process import Schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.errors import WritingFailed
from gen1_jax.training.telemetry import EventLog
from gen1_jax.video import pictures

Preview = Callable[[Any, EncoderParams, Batch], dict[str, Any]]


def no_preview(params: Any, encoder_params: EncoderParams, batch: Batch) -> dict[str, Any]:
    """Returns no picture and no number."""
    return {}


class PreviewWriter:
    """Writes the preview of the fixed batch to `samples/` and TensorBoard, on process 0.

    Args:
      folder: the folder of the pictures.
      preview: the objective's preview.
      make_batch: makes the fixed batch when it is first needed; None: no previews.
    """

    def __init__(self, folder: Path, preview: Preview, make_batch: Callable[[], Batch] | None):
        self._folder, self._preview, self._make_batch = folder, preview, make_batch
        self._batch: Batch | None = None

    def write(self, params: Any, encoder_params: EncoderParams, step: int, log: EventLog) -> None:
        """Writes the preview of these parameters (host arrays)."""
        if self._make_batch is None or jax.process_index() > 0:
            return
        if self._batch is None:
            self._batch = self._make_batch().widened()
        for name, value in self._preview(params, encoder_params, self._batch).items():
            if isinstance(value, float):
                log.add_scalar(f"preview/{name}", value, step)
                continue
            log.add_image(name, value, step)
            try:
                pictures.save_image(self._folder / f"{name}_{step:07d}.png", value)
            except WritingFailed as error:
                warnings.warn(f"{error}; training goes on", stacklevel=2)


def reconstruction(module: nn.Module) -> Preview:
    """Previews an autoencoder: frames above their reconstructions."""

    @jax.jit
    def reconstruct(params, frames):
        return module.apply({"params": params}, frames.astype(jnp.float32) / 127.5 - 1)

    def preview(params, encoder_params, batch):
        frames = np.asarray(batch.frames[:8, 0])
        images = np.clip((np.asarray(reconstruct(params, frames)) + 1) * 127.5, 0, 255)
        return {"reconstruction": _grid(frames, images.astype(np.uint8))}

    return preview


def depth_maps(estimate: Callable[[Any, jax.Array], jax.Array]) -> Preview:
    """Previews a depth model: frames, their true depth and the estimate.

    Args:
      estimate: (params, frames [b n H W 3]) → inverse depth [b n H W].
    """
    estimate = jax.jit(estimate)

    def preview(params, encoder_params, batch):
        frames, truth = np.asarray(batch.frames[:8, :1]), np.asarray(batch.depth[:8, :1])
        estimated = np.asarray(estimate(params, frames))
        maps = [
            np.concatenate([pictures.colour_depth(d) for d in each]) for each in (truth, estimated)
        ]
        return {"depth": _grid(frames[:, 0], *maps)}

    return preview


def content_cosine(module: nn.Module, conditioner: Conditioner, null_tokens: jax.Array) -> Preview:
    """Previews a prior: the mean cosine of sampled and true image embeddings.

    Args:
      module: the prior.
      conditioner: holds CLIP.
      null_tokens: tokens of the empty prompt [1 l].
    """

    @jax.jit
    def sample(params, encoder_params, tokens):
        sampler = dataclasses.replace(conditioner, prior=module)
        return sampler.text_content(
            {**encoder_params, "prior": params}, tokens, null_tokens, jax.random.key(0)
        )

    def preview(params, encoder_params, batch):
        sampled, true = (
            to_content(x) for x in (sample(params, encoder_params, batch.tokens), batch.content)
        )
        return {"cosine": float((sampled * true).mean(-1).mean())}

    return preview


def guided_samples(
    module: nn.Module,
    conditioner: Conditioner,
    schedule: Schedule,
    condition: Callable[[Batch], tuple[jax.Array | None, jax.Array | None]],
    *,
    num_steps: int,
    guidance_scale: float,
    spacing: str,
) -> Preview:
    """Previews a UNet: four frames of each clip beside clips sampled with its conditions.

    Args:
      module: the UNet.
      conditioner: holds the autoencoder, and the encoders that raw batches need.
      schedule: the diffusion process.
      condition: a batch → its structure [b n h w c] and level [b], or None for each.
      num_steps: DDIM steps.
      guidance_scale: ω.
      spacing: of DDIM's timesteps.
    """

    @jax.jit
    def sample(params, encoder_params, batch, key):
        if not batch.encoded:
            batch = conditioner.encode_batch(encoder_params, batch)
        noise = jax.random.normal(key, batch.latents.shape)
        sampled = sample_latents(
            module,
            params,
            schedule,
            noise,
            batch.content,
            *condition(batch),
            guidance_scale=guidance_scale,
            num_steps=num_steps,
            spacing=spacing,
        )
        return conditioner.decode(encoder_params, batch.latents), conditioner.decode(
            encoder_params, sampled
        )

    def preview(params, encoder_params, batch):
        batch = jax.tree.map(lambda x: x[:4], batch)
        real, sampled = map(np.asarray, sample(params, encoder_params, batch, jax.random.key(0)))
        frames = np.linspace(0, real.shape[1] - 1, min(4, real.shape[1])).astype(int)
        columns = [rearrange(x[:, frames], "b n h w c -> (b h) (n w) c") for x in (real, sampled)]
        return {"samples": np.concatenate(columns, axis=1)}

    return preview


def _grid(*rows: np.ndarray) -> np.ndarray:
    """Rows of images, each [b H W 3] → one picture."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
