"""The programs that can be compiled ahead of time beside training: sampling, a cell, encoding.

Each is the program that also runs on a real machine, lowered from the shapes of its arguments.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gen1_jax.aot.target import Target, Work
from gen1_jax.batch import SCHEMA, Batch
from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.diffusion.process import make_schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.distributed import (
    FRAMES,
    batch_parts,
    batch_sharding,
    clip_sharding,
    replicated,
)
from gen1_jax.errors import UserError
from gen1_jax.flops import count_flops
from gen1_jax.structure_settings import UNRECORDED, StructureRecipe, read_recipe
from gen1_jax.training.state import make_module
from gen1_jax.weights.folder import module_from_config, param_template

LATENT_CHANNELS = 4
# The types that a batch has in the step, by the kind of number that the schema asks for. Encoded
# data are stored in float16 and widened before the step.
_DTYPES = {np.uint8: jnp.uint8, np.integer: jnp.int32, np.floating: jnp.float32}


def sample_work(
    config: Any,
    pipeline: Mapping[str, Any],
    models: Mapping[str, dict],
    target: Target,
    batch_size: int,
    num_steps: int,
) -> Work:
    """Describes guided DDIM sampling: `num_steps` steps of three predictions each.

    Args:
      config: the config of a trained UNet stage.
      pipeline: the settings of the pipeline part.
      models: the content of config.json of the pipeline's other models, by name. They occupy
        memory on every chip, because an editor holds them there.
      target: the chips to compile for.
      batch_size: number of clips over all chips.
      num_steps: number of DDIM steps.

    Raises:
      UserError: the clips or their frames do not divide over the chips.
    """
    mesh = target.mesh
    module = make_network(config).clone(remat="none")
    schedule = make_schedule(**pipeline["schedule"])
    params = placed(param_template(module), replicated(mesh))
    _, encoder_params = describe_encoders(models, jnp.dtype(config.dtype), mesh)
    shapes = batch_shapes(config, images=False)
    parts, split = batch_parts(mesh), mesh.shape[FRAMES]
    if batch_size % parts:
        raise UserError(f"a batch of {batch_size} clips does not divide over {parts} parts")
    if config.data.num_frames % split:
        raise UserError(f"{config.data.num_frames} frames do not divide over {split} chips")

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = (clip_sharding if len(x.shape) == 5 else batch_sharding)(mesh)
        return jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=sharding)

    batch = jax.tree.map(place, shapes)
    structured = module.in_channels > module.out_channels
    condition = (batch.structure, batch.structure_level) if structured else (None, None)

    def sample(params, noise, content, structure, level):
        return sample_latents(
            module,
            params,
            schedule,
            noise,
            content,
            structure,
            level,
            guidance_scale=pipeline["guidance_scale"],
            num_steps=num_steps,
            spacing=pipeline["spacing"],
        )

    arguments = (params, batch.latents, batch.content, *condition)
    settings = {"what": "sample", "batch": shapes_of(batch), "num_steps": num_steps}
    return Work(
        partial(jax.jit(sample).lower, *arguments),
        settings,
        size_of(params),
        _count(sample, *arguments),
        beside=bytes_of(encoder_params),
    )


def cell_work(
    config: Any,
    pipeline: Mapping[str, Any],
    models: Mapping[str, dict],
    target: Target,
    batch_size: int,
    num_steps: int,
) -> Work:
    """Describes what a cell of `gen1 evaluate` runs: an edit, and the networks that measure it.

    The structure is encoded, the clip sampled and decoded, and its frames are embedded by CLIP and
    their depth is estimated. What all settings of a clip share (depth and content of the source)
    is left out.

    Args:
      config: the config of a UNet stage with structure.
      pipeline: the settings of the pipeline part.
      models: the content of config.json of the pipeline's other models, by name.
      target: the chips to compile for.
      batch_size: number of clips over all chips.
      num_steps: number of DDIM steps.

    Raises:
      UserError: the clips do not divide over the chips.
    """
    mesh = target.mesh
    if batch_size % batch_parts(mesh):
        raise UserError(
            f"a batch of {batch_size} clips does not divide over {batch_parts(mesh)} parts"
        )
    module = make_network(config).clone(remat="none")
    schedule = make_schedule(**pipeline["schedule"])
    conditioner, encoder_params = describe_encoders(
        models, jnp.dtype(config.dtype), mesh, StructureRecipe()
    )
    params = placed({**encoder_params, "unet": param_template(module)}, replicated(mesh))
    size = (batch_size, pipeline["num_frames"], *pipeline["size"])
    factor = conditioner.vae.spatial_factor
    latents = (*size[:2], size[2] // factor, size[3] // factor, LATENT_CHANNELS)

    def cell(params, depth, noise, content, level):
        latents = sample_latents(
            module,
            params["unet"],
            schedule,
            noise,
            content,
            conditioner.encode_structure(params, depth, level),
            level,
            guidance_scale=pipeline["guidance_scale"],
            num_steps=num_steps,
            spacing=pipeline["spacing"],
        )
        frames = conditioner.decode(params, latents)
        embeddings = conditioner.embed_images(params, frames.reshape(-1, *frames.shape[2:]))
        return frames, embeddings, conditioner.estimate_depth(params, frames)

    shapes = (
        jax.ShapeDtypeStruct(size, jnp.float32),
        jax.ShapeDtypeStruct(latents, jnp.float32),
        jax.ShapeDtypeStruct((batch_size, module.cross_attention_dim), jnp.float32),
        jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    )
    arguments = (params, *placed(shapes, batch_sharding(mesh)))
    settings = {"what": "cell", "batch": {"frames": [*size, 3]}, "num_steps": num_steps}
    return Work(
        partial(jax.jit(cell).lower, *arguments),
        settings,
        size_of(params),
        _count(cell, *arguments),
    )


def encode_work(
    config: Any, pipeline: Mapping[str, Any], models: Mapping[str, dict], target: Target
) -> Work:
    """Describes what `gen1 precompute` runs on a batch of clips, here sharded over all chips.

    Args:
      config: the config of an encoding part.
      pipeline: the settings of the pipeline part, which say the clip's length and the frame size.
      models: the content of config.json of vae, clip and depth.
      target: the chips to compile for.
    """
    mesh = target.mesh
    b = config.batch_size * batch_parts(mesh)
    recipe = read_recipe(config.to_dict(), "encoded")
    conditioner, encoder_params = describe_encoders(models, jnp.dtype(config.dtype), mesh, recipe)
    frames = (b, pipeline["num_frames"], *pipeline["size"], 3)
    shapes = (
        jax.ShapeDtypeStruct(frames, jnp.uint8),
        jax.ShapeDtypeStruct((b, config.levels_per_clip), jnp.int32),
    )
    arguments = (encoder_params, *placed(shapes, batch_sharding(mesh)))
    settings = {
        "what": "encode",
        "batch": {"frames": list(frames)},
        "levels": config.levels_per_clip,
    }
    return Work(
        partial(jax.jit(conditioner.encode_record).lower, *arguments),
        settings,
        size_of(encoder_params),
        _count(conditioner.encode_record, *arguments),
    )


def batch_shapes(config: Any, images: bool) -> Batch:
    """Returns the shapes of a config's batches over all hosts, of its largest bucket.

    Raises:
      UserError: a number is below 1, a bucket is not a size, or a field is not a batch's.
    """
    data, model = config.data, config.model
    for name in ("image_batch_size" if images else "batch_size", "num_frames"):
        if data[name] < 1:
            raise UserError(f"data.{name} is {data[name]}; 1 or more is accepted")
    buckets = (images and data.get("image_buckets")) or data.buckets
    if not buckets or not all(map(_is_size, buckets)):
        raise UserError(f"data.buckets is {tuple(buckets)}; accepted: pairs (height, width)")
    if not data.fields or not set(data.fields) <= set(SCHEMA):
        raise UserError(f"data.fields is {tuple(data.fields)}; accepted: {', '.join(SCHEMA)}")
    # A bucket is a size of frames in a raw batch, and a size of latents in an encoded one.
    height, width = max(buckets, key=lambda size: size[0] * size[1])
    text = model.get("text_config", {})
    sizes = {
        "b": data.image_batch_size if images else data.batch_size,
        "n": 1 if images else data.num_frames,
        "H": height,
        "W": width,
        "3": 3,
        "h": height,
        "w": width,
        "c": LATENT_CHANNELS,
        "l": text.get("max_position_embeddings") or model.get("num_embeddings", 0),
        "d": model.get("cross_attention_dim") or model.get("embedding_dim", 0),
    }

    def shape(axes: str, kind: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in axes.split()), _DTYPES[kind])

    return Batch(**{name: shape(*SCHEMA[name]) for name in data.fields})


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, tuple) and len(size) == 2 and all(type(x) is int and x > 0 for x in size)
    )


def describe_encoders(
    models: Mapping[str, dict],
    dtype: Any,
    mesh: Mesh,
    recipe: StructureRecipe = UNRECORDED,
) -> tuple[Conditioner, EncoderParams]:
    """Returns what `Conditioner.load` returns, with the parameters' shapes in place of arrays.

    The parameters are replicated on every chip.
    """
    modules = {
        name: module_from_config(config, dtype=dtype, where=name) for name, config in models.items()
    }
    encoder_params = {name: param_template(module) for name, module in modules.items()}
    conditioner = Conditioner(**modules, recipe=recipe)
    return conditioner, placed(encoder_params, replicated(mesh))


def make_network(config: Any, remat: str | None = None) -> Any:
    remat = config.remat if remat is None else remat
    options = {"name": config.name, "dtype": config.dtype, "rank": config.lora.rank}
    return make_module(config.model.to_dict(), remat=remat, **options)


def placed(shapes: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def unplaced(arguments: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)


def _count(function: Callable, *arguments: Any) -> int:
    return count_flops(function, *unplaced(arguments))


def shapes_of(batch: Batch) -> dict[str, list[int]]:
    return {name: list(x.shape) for name, x in batch.fields().items()}


def size_of(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def bytes_of(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
