"""Pictures and numbers of one fixed batch, which show how far a model is.

Each function here makes the preview of one objective. Process 0 computes it on one of its devices,
with the arrays that lie there already.
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
from jax.sharding import SingleDeviceSharding

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner, EncoderParams, to_content
from gen1_jax.diffusion.process import Schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.distributed import is_lead, to_host
from gen1_jax.errors import WritingFailed
from gen1_jax.training.ahead import Program
from gen1_jax.training.telemetry import EventLog
from gen1_jax.video import pictures

Shown = dict[str, Any]  # by name: a picture [H W 3] uint8, or a number


@dataclasses.dataclass(frozen=True)
class Preview:
    """The preview of an objective.

    Attributes:
      compute: (params, encoder_params, batch) → arrays.
      show: (batch, those arrays on the host) → pictures and numbers.
      examples: the first examples of the batch that are previewed; None: all.
    """

    compute: Callable[[Any, EncoderParams, Batch], Any]
    show: Callable[[Batch, Any], Shown]
    examples: int | None = None

    def of(self, batch: Batch) -> Batch:
        """Returns the examples of a batch that are previewed."""
        return jax.tree.map(lambda x: x[: self.examples], batch.widened())

    def __call__(self, params: Any, encoder_params: EncoderParams, batch: Batch) -> Shown:
        """Returns the preview of a batch."""
        batch = self.of(batch)
        return self.show(
            batch, jax.device_get(jax.jit(self.compute)(params, encoder_params, batch))
        )


class PreviewWriter:
    """Writes the preview of the fixed batch to `samples/` and TensorBoard, on process 0.

    Args:
      folder: the folder of the pictures.
      preview: the objective's preview, or None.
      make_batch: makes the fixed batch when it is first needed; None: no previews.
    """

    def __init__(
        self, folder: Path, preview: Preview | None, make_batch: Callable[[], Batch] | None
    ):
        self._folder, self._preview, self._make_batch = folder, preview, make_batch
        self._program = Program(jax.jit(preview.compute)) if preview else None
        self._batch: Batch | None = None

    def __bool__(self) -> bool:
        return self._preview is not None and self._make_batch is not None

    def _read(self) -> Batch:
        if self._batch is None:
            self._batch = self._preview.of(self._make_batch())
        return self._batch

    def lower(self, params: Any, encoder_params: EncoderParams) -> list[Callable[[], None]]:
        """Returns what compiles the preview's program.

        Args:
          params: the parameters on the mesh.
          encoder_params: those of the frozen encoders, on the mesh.
        """
        if not self or not is_lead():
            return []
        device = SingleDeviceSharding(_first_device(params))

        def described(x: jax.Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

        shapes = jax.tree.map(described, (params, encoder_params))
        return [self._program.lower(*shapes, self._read())]

    def write(self, params: Any, encoder_params: EncoderParams, step: int, log: EventLog) -> None:
        """Writes the preview of these parameters; all processes call it.

        Args:
          params: the parameters on the mesh.
          encoder_params: those of the frozen encoders, on the mesh.
          step: the step that made them.
          log: the log of the run.
        """
        if not self:
            return
        params = on_one_device(params)
        if not is_lead():
            return
        batch = self._read()
        found = self._program(params, on_one_device(encoder_params), batch)
        for name, value in self._preview.show(batch, jax.device_get(found)).items():
            if isinstance(value, float):
                log.add_scalar(f"preview/{name}", value, step)
                continue
            log.add_image(name, value, step)
            try:
                pictures.save_image(self._folder / f"{name}_{step:07d}.png", value)
            except WritingFailed as error:
                warnings.warn(f"{error}; training goes on", stacklevel=2)


def on_one_device(tree: Any) -> Any:
    """Returns arrays of a mesh as they lie on the first device of this process.

    What is sharded is gathered there; the rest is not copied. All processes call it; what is
    gathered is meant for process 0.
    """
    leaves, structure = jax.tree.flatten(tree)
    sharded = [x for x in leaves if not x.is_fully_replicated]
    if not sharded:
        return jax.tree.map(lambda x: x.addressable_data(0), tree)
    device = _first_device(tree)
    whole = iter(to_host(sharded))
    if not is_lead():
        return tree
    placed = [
        x.addressable_data(0) if x.is_fully_replicated else jax.device_put(next(whole), device)
        for x in leaves
    ]
    return jax.tree.unflatten(structure, placed)


def _first_device(tree: Any) -> jax.Device:
    return jax.tree.leaves(tree)[0].addressable_shards[0].device


def reconstruction(module: nn.Module) -> Preview:
    """Previews an autoencoder: frames above their reconstructions."""

    def reconstruct(params, encoder_params, batch):
        return module.apply({"params": params}, batch.frames[:, 0].astype(jnp.float32) / 127.5 - 1)

    def show(batch, images):
        images = np.clip((images + 1) * 127.5, 0, 255)
        return {"reconstruction": _grid(batch.frames[:, 0], images.astype(np.uint8))}

    return Preview(reconstruct, show, 8)


def depth_maps(estimate: Callable[[Any, jax.Array], jax.Array]) -> Preview:
    """Previews a depth model: frames, their true depth and the estimate.

    Args:
      estimate: (params, frames [b n H W 3]) → inverse depth [b n H W].
    """

    def compute(params, encoder_params, batch):
        return estimate(params, batch.frames[:, :1])

    def show(batch, estimated):
        maps = [
            np.concatenate([pictures.colour_depth(d) for d in each])
            for each in (batch.depth[:, :1], estimated)
        ]
        return {"depth": _grid(batch.frames[:, 0], *maps)}

    return Preview(compute, show, 8)


def content_cosine(module: nn.Module, conditioner: Conditioner, null_tokens: jax.Array) -> Preview:
    """Previews a prior: the mean cosine of sampled and true image embeddings.

    Args:
      module: the prior.
      conditioner: holds CLIP.
      null_tokens: tokens of the empty prompt [1 l].
    """

    def sample(params, encoder_params, batch):
        sampler = dataclasses.replace(conditioner, prior=module)
        return sampler.text_content(
            {**encoder_params, "prior": params}, batch.tokens, null_tokens, jax.random.key(0)
        )

    def show(batch, sampled):
        sampled, true = (to_content(x) for x in (sampled, batch.content))
        return {"cosine": float((sampled * true).mean(-1).mean())}

    return Preview(sample, show)


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

    def sample(params, encoder_params, batch):
        if not batch.encoded:
            batch = conditioner.encode_batch(encoder_params, batch)
        noise = jax.random.normal(jax.random.key(0), batch.latents.shape)
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

    def show(batch, clips):
        n = clips[0].shape[1]
        frames = np.linspace(0, n - 1, min(4, n)).astype(int)
        columns = [rearrange(x[:, frames], "b n h w c -> (b h) (n w) c") for x in clips]
        return {"samples": np.concatenate(columns, axis=1)}

    return Preview(sample, show, 4)


def _grid(*rows: np.ndarray) -> np.ndarray:
    """Rows of images, each [b H W 3] → one picture."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
