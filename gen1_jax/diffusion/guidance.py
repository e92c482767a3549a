"""Guidance: three predictions of one network in one call, and their combination."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from gen1_jax.diffusion.structure import model_input

# (sample [b g n h w c], timesteps [b], context [b g l d], num_video_branches) → [b g n h w 4]
Network = Callable[..., jax.Array]


def combine(
    video_content: jax.Array,
    video_null: jax.Array,
    image_null: jax.Array,
    temporal_scale: jax.Array | float,
    guidance_scale: jax.Array | float,
) -> jax.Array:
    """Combines three predictions of one network (Gen-1, section 3):

        v~ = v_img(∅) + ω_t (v_vid(∅) − v_img(∅)) + ω (v_vid(c) − v_vid(∅))

    At ω_t = 1 this is plain classifier-free guidance. At ω_t = 0 the first term sees each frame
    alone, and the last one still sees the whole clip.

    Args:
      video_content: v_vid(c), [b n h w c].
      video_null: v_vid(∅), without content.
      image_null: v_img(∅), without content and without temporal layers.
      temporal_scale: ω_t, a scalar or [b].
      guidance_scale: ω, a scalar or [b].

    Returns:
      v~, [b n h w c].
    """
    chex.assert_equal_shape([video_content, video_null, image_null])
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
    per_frame: bool = False,
    null: jax.Array | None = None,
) -> jax.Array:
    """Returns the guided prediction at z_t, from one call of the network.

    The branches (video c, video ∅, image ∅) stand on an axis g beside the batch, so that a batch
    sharded over devices stays where it is. Temporal layers run on the two video branches only.

    Args:
      network: the UNet with its parameters bound.
      z: z_t, [b n h w 4].
      t: timesteps [b].
      content: tokens for cross-attention [b l d].
      structure: structure latents [b n h w 4], or None.
      level: blur level t_s [b], or None.
      temporal_scale: ω_t, a scalar or [b].
      guidance_scale: ω, a scalar or [b].
      per_frame: whether each frame is predicted alone, as an image: v_img(∅) + ω (v_img(c) −
        v_img(∅)), from two branches, both without temporal layers. ω_t then has no effect.
      null: tokens in the place of ∅ [b l d], from which the content leads away; None: zeros, which
        stand for no content in training.

    Returns:
      The prediction [b n h w 4].
    """
    chex.assert_rank([z, t, content], [5, 1, 3])
    chex.assert_equal_shape_prefix([z, t, content], 1)
    chex.assert_type([z, t, content], [float, int, float])
    inputs = model_input(z, structure, level)
    null = jnp.zeros_like(content) if null is None else null
    if per_frame:
        context = jnp.stack([content, null], axis=1)
        branches = network(jnp.stack([inputs] * 2, axis=1), t, context, num_video_branches=0)
        image_content, image_null = jnp.moveaxis(branches, 1, 0)
        return combine(image_content, image_null, image_null, temporal_scale, guidance_scale)
    branches = network(
        jnp.stack([inputs] * 3, axis=1),
        t,
        jnp.stack([content, null, null], axis=1),
        num_video_branches=2,
    )
    return combine(*jnp.moveaxis(branches, 1, 0), temporal_scale, guidance_scale)
