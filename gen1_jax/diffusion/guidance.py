"""Guidance: three predictions of one network in one call, and their combination."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen1_jax.diffusion.structure import model_input

# (sample [b g n h w c], timesteps [b], context [b g l d], num_video_branches) -> [b g n h w 4]
Network = Callable[..., jax.Array]


def combine(
    video_content: jax.Array,
    video_null: jax.Array,
    image_null: jax.Array,
    temporal_scale: jax.Array | float,
    guidance_scale: jax.Array | float,
) -> jax.Array:
    """v~ = v_img(∅) + ω_t (v_vid(∅) − v_img(∅)) + ω (v_vid(c) − v_vid(∅))   (Gen-1, section 3).

    ω_t = 1 is plain classifier-free guidance. Predictions [b n h w c]; scales scalar or [b].
    """
    temporal, guidance = (
        jnp.asarray(s, jnp.float32).reshape(-1, *(1,) * (video_content.ndim - 1))
        for s in (temporal_scale, guidance_scale)
    )
    towards_video = temporal * (video_null - image_null)
    return image_null + towards_video + guidance * (video_content - video_null)


def guided_prediction(
    network: Network,
    z: jax.Array,
    t: jax.Array,
    content: jax.Array,
    structure: jax.Array | None,
    level: jax.Array | None,
    temporal_scale: jax.Array | float,
    guidance_scale: jax.Array | float,
) -> jax.Array:
    """The guided prediction at z_t: one vectorised call of branches (video c, video ∅, image ∅).

    Args:
      network: the UNet with its parameters bound.
      z: [b n h w 4]; t: [b]; content: [b l d]; structure: [b n h w 4]; level: [b].
      temporal_scale: ω_t; guidance_scale: ω. Scalars or [b].

    Returns:
      [b n h w 4].
    """
    inputs = model_input(z, structure, level)
    null = jnp.zeros_like(content)
    branches = network(
        jnp.stack([inputs] * 3, axis=1),
        t,
        jnp.stack([content, null, null], axis=1),
        num_video_branches=2,
    )
    return combine(*jnp.moveaxis(branches, 1, 0), temporal_scale, guidance_scale)
