"""Sampling: one `lax.scan` over a `denoise` callable, and the guided sampler of a UNet."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from gen1_jax.diffusion.guidance import guided_prediction
from gen1_jax.diffusion.process import Schedule
from gen1_jax.diffusion.solvers import Rows, State, begin, make_table, step
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
    """Samples latents, guided.

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
      num_steps: steps of the whole trajectory.
      **options: further arguments of `integrate`.

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

    return integrate(denoise, schedule, noise, num_steps, **options)


def integrate(
    denoise: Denoise,
    schedule: Schedule,
    noise: jax.Array,
    num_steps: int = 50,
    *,
    solver: str = "ddim",
    spacing: str = "leading",
    source: jax.Array | None = None,
    strength: float = 1.0,
) -> jax.Array:
    """Integrates noise to z_0, deterministically.

    Args:
      denoise: the (guided) prediction of `schedule.prediction_type`.
      schedule: the diffusion process.
      noise: [b ...] standard normal.
      num_steps: steps of the whole trajectory.
      solver: one of `solvers.SOLVERS`; "ddim" with η = 0.
      spacing: "leading" (SD 1.5: 981 … 1 for DDIM) or "trailing" (for zero terminal SNR).
      source: latents [b ...] to start from (SDEdit); they are noised to the first step that is run.
        None starts from pure noise.
      strength: the share of the trajectory that is run, in (0, 1], below 1 from a source only; at
        least one step is run.

    Returns:
      z_0, of the shape of `noise`, float32. As in SD 1.5 the last step of DDIM lands at ᾱ_0, not
      at 1, so that √(1−ᾱ_0) = 3 % of the last estimate of the noise stays.

    Raises:
      UserError: a solver, a strength, a number of steps or a spacing that is not possible.
    """
    rows = make_table(schedule, solver, num_steps, spacing, strength)
    if source is None and strength < 1:
        raise UserError(f"strength {strength} without latents to start from; 1 is accepted")

    def advance(state: State, row: Rows) -> tuple[State, None]:
        t, z = row.t, state.z
        prediction = denoise(z, jnp.broadcast_to(t, z.shape[:1]))
        return step(schedule, row, state, prediction)[0], None

    state = begin(schedule, rows, noise, source)
    return jax.lax.scan(advance, state, jax.tree.map(jnp.asarray, rows))[0].z
