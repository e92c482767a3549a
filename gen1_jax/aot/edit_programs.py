"""Describes the programs of `gen1 edit`, stage by stage, for chips that are not there."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gen1_jax.aot.programs import (
    LATENT_CHANNELS,
    Work,
    describe_encoders,
    make_network,
    placed,
    size_of,
)
from gen1_jax.conditioning import StructureRecipe
from gen1_jax.diffusion.process import make_schedule
from gen1_jax.diffusion.windows import Windows
from gen1_jax.distributed import batch_parts, batch_sharding, clip_sharding, replicated
from gen1_jax.editing.pieces import Pieces
from gen1_jax.editing.sampling import Conditions, WindowSampler
from gen1_jax.weights.folder import param_template


def edit_works(
    config: Any, pipeline: Mapping[str, Any], models: Mapping[str, dict], target: Any
) -> dict[str, Work]:
    """Returns the program of each stage, for as many clips as there are chips.

    Args:
      config: the config of a trained UNet stage with structure.
      pipeline: the settings of the pipeline part.
      models: the content of config.json of the pipeline's other models, by name.
      target: the chips to compile for.

    Returns:
      depth, encoding (the structure's), prior (of one prompt), sampling (one step of one window a
      chip) and decoding.
    """
    mesh = target.mesh
    module = make_network(config).clone(remat="none")
    conditioner, encoder_params = describe_encoders(
        models, jnp.dtype(config.dtype), mesh, StructureRecipe()
    )
    pieces = Pieces(conditioner, mesh)
    schedule = make_schedule(**pipeline["schedule"])
    sampler = WindowSampler(module, schedule, pipeline["spacing"], mesh)
    parts, n = batch_parts(mesh), pipeline["num_frames"]
    height, width = pipeline["size"]
    factor = conditioner.vae.spatial_factor
    h, w, c = height // factor, width // factor, LATENT_CHANNELS
    clips, batch, whole = clip_sharding(mesh), batch_sharding(mesh), replicated(mesh)

    def shape(size: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    frames = shape((parts, n, height, width, 3), jnp.uint8, clips)
    maps = shape((parts, n, height, width), jnp.float32, clips)
    level = shape((parts,), jnp.int32, batch)
    bounds = shape((parts, 2), jnp.float32, batch)
    latents = shape((parts, n, h, w, c), jnp.float32, clips)
    everything = shape((parts * n, h, w, c), jnp.float32, whole)
    windows = Windows(
        shape((1, parts, n), jnp.int32, whole), shape((1, parts, n), jnp.float32, whole)
    )
    content = shape((1, parts, module.cross_attention_dim), jnp.float32, whole)
    scalar = partial(shape, (), sharding=whole)
    conditions = Conditions(
        everything, content, None, scalar(dtype=jnp.int32), *[scalar(dtype=jnp.float32)] * 2
    )
    params = placed(param_template(module), whole)
    text = conditioner.clip.text_config
    tokens = shape((1, text.max_position_embeddings), jnp.int32, whole)
    key = jax.eval_shape(lambda: jax.random.key(0))
    prior = partial(
        conditioner.text_content,
        num_steps=pipeline["prior"]["num_steps"],
        guidance_scale=pipeline["prior"]["guidance_scale"],
    )
    t = scalar(dtype=jnp.int32)
    lowered = {
        "depth": partial(pieces._map.lower, encoder_params, frames),
        "encoding": partial(pieces._structure.lower, encoder_params, maps, level, bounds),
        "prior": partial(jax.jit(prior).lower, encoder_params, tokens, tokens, key),
        "sampling": partial(
            sampler._step.lower, params, everything, t, t, windows, t, conditions, per_frame=False
        ),
        "decoding": partial(pieces._decode.lower, encoder_params, latents),
    }
    own = {"sampling": size_of(params)}
    return {
        stage: Work(lower, {"what": stage, "batch": {}}, own.get(stage, size_of(encoder_params)), 1)
        for stage, lower in lowered.items()
    }
