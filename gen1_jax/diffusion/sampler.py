"""DDIM sampling: one `lax.scan` over a `denoise` callable, and the guided sampler of a UNet."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from gen1_jax.diffusion.guidance import guided_prediction
from gen1_jax.diffusion.process import Schedule, ddim_step, q_sample, sampling_timesteps
from gen1_jax.errors import UserError

# (z [b ...], t [b]) → prediction [b ...]
Denoise = Callable[[jax.Array, jax.Array], jax.Array]


def sample_latents(
    module: nn.Module,
    params: Any,
    schedule: Schedule,
    noise: jax.Array,
    content: jax.Array,
    structure: jax.Array | None,
    level: jax.Array | None,
    *,
    temporal_scale: jax.Array | float = 1.0,
    guidance_scale: jax.Array | float = 1.0,
    per_frame: bool = False,
    num_steps: int = 50,
    **options: Any,
) -> jax.Array:
    """Samples latents with guided DDIM.

    Args:
      module: the UNet.
      params: its parameters.
      schedule: the diffusion process that the UNet was trained with.
      noise: [b n h w 4] standard normal.
      content: [b d] CLIP image embeddings.
      structure: [b n h w 4] structure latents, or None for a UNet without structure.
      level: [b] blur level t_s of the structure, or None.
      temporal_scale: ω_t, a scalar or [b].
      guidance_scale: ω, a scalar or [b].
      per_frame: whether each frame is sampled alone; see `guided_prediction`.
      num_steps: DDIM steps.
      **options: further arguments of `ddim_sample`.

    Returns:
      Latents [b n h w 4], float32.
    """
    chex.assert_rank([noise, content], [5, 2])
    chex.assert_equal_shape_prefix([noise, content], 1)
    chex.assert_type([noise, content], float)

    def network(*arguments, **keywords):
        return module.apply({"params": params}, *arguments, **keywords)

    def denoise(z, t):
        tokens = content[:, None]  # one token of context
        return guided_prediction(
            network, z, t, tokens, structure, level, temporal_scale, guidance_scale, per_frame
        )

    return ddim_sample(denoise, schedule, noise, num_steps, **options)


def ddim_sample(
    denoise: Denoise,
    schedule: Schedule,
    noise: jax.Array,
    num_steps: int = 50,
    *,
    spacing: str = "leading",
    source: jax.Array | None = None,
    strength: float = 1.0,
) -> jax.Array:
    """Integrates noise to z_0 with deterministic DDIM (η = 0).

    Args:
      denoise: the (guided) prediction of `schedule.prediction_type`.
      schedule: the diffusion process.
      noise: [b ...] standard normal.
      num_steps: steps of the whole trajectory.
      spacing: "leading" (SD 1.5: 981 … 1) or "trailing" (for zero terminal SNR).
      source: latents [b ...] to start from (SDEdit); they are noised to the first step that is run.
        None starts from pure noise.
      strength: the share of the trajectory that is run when there is a source, in (0, 1]; at least
        one step is run.

    Returns:
      z_0, of the shape of `noise`, float32. As in SD 1.5 the last step lands at ᾱ_0, not at 1, so
      that √(1−ᾱ_0) = 3 % of the last estimate of the noise stays.

    Raises:
      UserError: a strength, a number of steps or a spacing that is not possible.
    """
    steps, landings = sampling_timesteps(schedule.num_timesteps, num_steps, spacing)
    z = jnp.asarray(noise, jnp.float32)
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength}; accepted: above 0, up to 1")
    if source is not None:
        first = num_steps - max(1, round(strength * num_steps))
        steps, landings = steps[first:], landings[first:]
        z = q_sample(schedule, source, z, jnp.asarray(steps[0]))

    def step(z: jax.Array, times: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        t, t_next = times
        prediction = denoise(z, jnp.broadcast_to(t, z.shape[:1]))
        return ddim_step(schedule, prediction, z, t, t_next), None

    z, _ = jax.lax.scan(step, z, (jnp.asarray(steps), jnp.asarray(landings)))
    return z
