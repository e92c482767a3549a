"""Describes what a training run compiles: its step, and the preview and held-out loss beside it."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gen1_jax.aot.programs import (
    batch_shapes,
    bytes_of,
    describe_encoders,
    make_network,
    placed,
    shapes_of,
    size_of,
    unplaced,
)
from gen1_jax.aot.target import Target, Work
from gen1_jax.distributed import (
    batch_parts,
    batch_shardings,
    check_batch,
    check_clips_at_once,
    replicated,
)
from gen1_jax.flops import count_flops, count_training_flops
from gen1_jax.structure_settings import read_recipe
from gen1_jax.training.objectives import Objective, make_objective
from gen1_jax.training.state import (
    Optimizer,
    TrainState,
    are_trained,
    averaged_params,
    make_optimizer,
    state_template,
)
from gen1_jax.training.step import make_step
from gen1_jax.training.validation import HeldOutLoss


class _Run(NamedTuple):
    """A training run, its arrays described by their shapes and places."""

    objective: Objective
    optimizer: Optimizer
    state: TrainState
    encoder_params: Any
    surroundings: tuple  # of the objective: the arguments of `make_objective` after the module


def _describe(config: Any, models: Mapping[str, dict], mesh: Mesh) -> _Run:
    module = make_network(config)
    recipe = read_recipe(config.to_dict(), config.name)
    conditioner, encoder_params = describe_encoders(models, jnp.dtype(config.dtype), mesh, recipe)
    null_tokens = np.zeros((1, config.model.get("num_embeddings", 0)), np.int32)  # of any text
    surroundings = conditioner, config.loss.to_dict(), null_tokens
    objective = make_objective(config.objective, module, *surroundings)
    optimizer = make_optimizer(num_steps=config.num_steps, **config.optimizer)
    trains = config.get("trains", ())
    state = state_template(module, optimizer, mesh, config.sharding, config.split_from, trains)
    return _Run(objective, optimizer, state, encoder_params, surroundings)


def train_work(config: Any, models: Mapping[str, dict], target: Target, images: bool) -> Work:
    """Describes the training step that `gen1 train` runs.

    Args:
      config: the config of a trained part.
      models: the content of config.json of each frozen model, by the model's name.
      target: the chips to compile for.
      images: whether the step takes an image batch; otherwise it takes a video batch.

    Raises:
      UserError: the settings are bad, or the batch or a clip does not divide over the chips.
    """
    mesh = target.mesh
    objective, optimizer, state, encoder_params, surroundings = _describe(config, models, mesh)
    shapes = batch_shapes(config, images)
    check_batch(shapes.size, shapes.num_frames, mesh)
    check_clips_at_once(shapes.size, shapes.num_frames, config.microbatches, mesh)
    batch = jax.tree.map(placed, shapes, batch_shardings(shapes, mesh))
    parts = mesh.size if shapes.num_frames == 1 else batch_parts(mesh)
    notes = []
    if batch.size // parts % config.microbatches:
        notes.append(
            f"{batch.size // parts} examples a chip do not divide into {config.microbatches} "
            "microbatches: they move between chips, or some wait"
        )
    # An encoded batch needs no encoder. The frozen models then only serve the preview pictures;
    # they occupy memory, but are not part of the step.
    idle = not objective.runs_encoders(batch)
    # Without remat, so that nothing is counted twice.
    plain = make_objective(config.objective, make_network(config, "none"), *surroundings)
    key = placed(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh))
    model_flops = count_training_flops(
        plain.loss, are_trained(state), *unplaced((state.params, encoder_params, batch, key))
    )
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    step = make_step(
        objective.loss,
        optimizer,
        state,
        dtype=config.dtype,
        ema_decay=config.ema_decay,
        ema_share=config.ema_share,
        microbatches=config.microbatches,
        reduce_once=config.reduce_once,
        trains=config.get("trains", ()),
    )
    settings = {
        "what": "train",
        "objective": config.objective,
        "batch": shapes_of(batch),
        "microbatches": config.microbatches,
        "remat": config.remat,
        "reduce_once": config.reduce_once,
    }
    return Work(
        partial(step.lower, state, batch, encoder_params, rate, key),
        settings,
        size_of(state.params),
        model_flops,
        beside=bytes_of(encoder_params) if idle else 0,
        state_bytes=_bytes_on_a_chip((state, state.ema)),  # a gradient is as large as the average
        checkpoint_bytes=bytes_of(state),
        notes=tuple(notes),
    )


def works_beside(
    config: Any, models: Mapping[str, dict], target: Target, images: bool
) -> Iterator[tuple[str, Work, Target]]:
    """Yields what a run computes beside its steps, with the chips that it runs on.

    These are the preview and the held-out loss, if there are any. Both run while the whole state
    lies on the chips. The preview runs on one of them, where what is sharded is gathered.

    Args:
      config: the config of a trained part.
      models: the content of config.json of each frozen model, by the model's name.
      target: the chips to compile for.
      images: whether the held-out loss is that of images; otherwise it is that of videos.
    """
    mesh = target.mesh
    objective, _, state, encoder_params, _ = _describe(config, models, mesh)
    params, frozen = averaged_params(state), bytes_of(encoder_params)
    on_a_chip = _bytes_on_a_chip(state) + frozen
    parameters = size_of(state.params)
    if config.sample_every and objective.preview is not None:
        one = Mesh(mesh.devices.reshape(-1)[:1].reshape(1, 1, 1), mesh.axis_names)
        chip = replicated(one)
        only_images = config.data.get("image_fraction") == 1 or config.data.batch_size < 1
        whole = batch_shapes(config, images=only_images)
        examples = min(objective.preview.examples or whole.size, whole.size)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype), whole
        )
        arguments = (*placed((params, encoder_params), chip), placed(batch, chip))
        gathered = sum(
            math.prod(x.shape) * x.dtype.itemsize
            for x in jax.tree.leaves(params)
            if not x.sharding.is_fully_replicated
        )
        work = Work(
            partial(jax.jit(objective.preview.compute).lower, *arguments),
            {"what": "preview", "batch": shapes_of(batch)},
            parameters,
            count_flops(objective.preview.compute, *unplaced(arguments)),
            resident=on_a_chip + gathered + bytes_of(batch),
        )
        yield "preview", work, target._replace(mesh=one)
    if config.eval_every:
        shapes = batch_shapes(config, images)
        batch = jax.tree.map(placed, shapes, batch_shardings(shapes, mesh))
        held_out = HeldOutLoss(
            objective.loss,
            {},
            num_batches=1,
            template=state,
            dtype=config.dtype,
            microbatches=config.microbatches,
        )
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
        arguments = (params, batch, encoder_params, number)
        key = jax.eval_shape(lambda: jax.random.key(0))
        work = Work(
            partial(held_out.program.lowered, *arguments),
            {"what": "held-out loss", "batch": shapes_of(batch)},
            parameters,
            count_flops(objective.loss, *unplaced((params, encoder_params, batch, key))),
            resident=on_a_chip + _bytes_on_a_chip(batch),
        )
        yield "held-out loss", work, target


def _bytes_on_a_chip(tree: Any) -> int:
    shapes = ((x.sharding.shard_shape(x.shape), x.dtype) for x in jax.tree.leaves(tree))
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)
