"""DDIM sampling: one `lax.scan` over a `denoise` callable."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen1_jax.diffusion.process import Schedule, ddim_step, q_sample, sampling_timesteps
from gen1_jax.errors import UserError

# (z [b ...], t [b]) -> prediction [b ...]
Denoise = Callable[[jax.Array, jax.Array], jax.Array]


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
    """z_0 from noise, deterministically (η = 0).

    Args:
      denoise: the (guided) prediction of `schedule.prediction_type`.
      noise: [b ...] standard normal.
      num_steps: steps of the whole trajectory.
      spacing: "leading" (SD 1.5: 981 … 1) or "trailing" (for zero terminal SNR).
      source: latents to start from (SDEdit), noised to the first step that is run; pure noise if
        None.
      strength: share of the trajectory that is run when there is a source, in (0, 1]; at least one
        step is.

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
