"""Keeps a part of a video while the rest is sampled: what RePaint (2201.09865) calls known.

After every step, latents outside the mask become the source's, noised to where the others stand.
The noise is the one that the edit began with, so that the source lies on the way that the sampler
goes from it.
"""

import flax.struct
import jax
import jax.numpy as jnp

from gen1_jax.diffusion.process import Schedule, q_sample

END = -1  # the timestep behind the last step, where no noise is left


@flax.struct.dataclass
class Kept:
    """What is kept of a video, and where.

    Attributes:
      source: the source's latents [f h w c].
      noise: the noise that the edit began with, [f h w c].
      mask: 1 where latents are edited, 0 where they stay the source's, [f h w 1].
    """

    source: jax.Array
    noise: jax.Array
    mask: jax.Array


def blend(schedule: Schedule, z: jax.Array, kept: Kept, t: jax.Array | int) -> jax.Array:
    """Returns z inside the mask, and outside it the source noised to t.

    Args:
      schedule: the diffusion process.
      z: z_t, [f h w c].
      kept: the source and the mask.
      t: the timestep at which the network sees z next. `END` stands for the source itself.
    """
    noised = q_sample(schedule, kept.source, kept.noise, jnp.maximum(t, 0))
    outside = jnp.where(t < 0, kept.source, noised)
    return kept.mask * z + (1 - kept.mask) * outside
