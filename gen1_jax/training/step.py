"""One update of any model: gradient, AdamW, moving average. A pure function of its arguments."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from gen1_jax.batch import Batch
from gen1_jax.conditioning import EncoderParams
from gen1_jax.distributed import gather, state_sharding
from gen1_jax.errors import UserError
from gen1_jax.models.unet import REMAT
from gen1_jax.training.objectives import Loss
from gen1_jax.weights.folder import module_from_config, param_template


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Randomness is not in it: every key follows from the seed and the step.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    bad_steps: jax.Array  # in a row, up to now: those whose loss or gradient was no number


class Optimizer(NamedTuple):
    """AdamW without its learning rate, which changes with the step and comes in from outside.

    A stage that differs from another in its rate alone is so the same program.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    learning_rate: Callable[[int], jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    encoder_params: EncoderParams,
    learning_rate: jax.Array,
    *,
    loss: Loss,
    optimizer: Optimizer,
    ema_decay: float,
    seed: int,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: gradient, AdamW, moving average; a function of seed, step and batch.

    A loss or gradient that is no number changes nothing but the step and the count of bad steps.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = batch.widened()
    (value, metrics), gradient = accumulate(
        jax.value_and_grad(loss, has_aux=True),
        state.params,
        encoder_params,
        batch,
        key,
        microbatches,
    )
    norm = optax.tree.norm(gradient)
    good = jnp.isfinite(value) & jnp.isfinite(norm)

    def update(params, ema, opt_state):
        direction, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
        # The average follows closely while there is little to average.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        return params, optax.incremental_update(params, ema, 1 - decay), opt_state

    params, ema, opt_state = jax.lax.cond(
        good, update, lambda *same: same, state.params, state.ema, state.opt_state
    )
    bad_steps = jnp.where(good, 0, state.bad_steps + 1)
    metrics = {"loss": value, "gradient_norm": norm, "bad_steps": bad_steps, **metrics}
    return TrainState(state.step + 1, params, ema, opt_state, bad_steps), metrics


def accumulate(
    function: Callable,
    params: Any,
    encoder_params: EncoderParams,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
) -> Any:
    """The mean of `function` over parts of a batch, one in memory at a time.

    Raises:
      UserError: the batch does not divide.
    """
    if microbatches == 1:
        return function(params, encoder_params, batch, key)
    if batch.size % microbatches:
        raise UserError(f"a batch of {batch.size} does not divide into {microbatches} microbatches")

    def split(x: jax.Array) -> jax.Array:
        # Each part takes every k-th example: what lies on one device stays there.
        return x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)

    def add(total: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        part, index = inputs
        result = function(params, encoder_params, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, result), None

    parts = jax.tree.map(split, batch), jnp.arange(microbatches)
    shapes = jax.eval_shape(
        function, params, encoder_params, jax.tree.map(lambda x: x[0], parts[0]), key
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / microbatches, total)


def make_step(config: Any, loss: Loss, optimizer: Optimizer, params: Any) -> Callable:
    """Returns the compiled `train_step` of a config.

    `params` are those of the state, or their shapes; it is their shardings that count.
    """
    shardings, dtype = jax.tree.map(lambda x: x.sharding, params), jnp.dtype(config.dtype)

    def loss_of_split(params: Any, *arguments: Any) -> Any:
        return loss(gather(params, shardings, dtype), *arguments)

    step = partial(
        train_step,
        loss=loss_of_split,
        optimizer=optimizer,
        ema_decay=config.ema_decay,
        seed=config.seed,
        microbatches=config.microbatches,
    )
    return jax.jit(step, donate_argnums=0)


def make_module(config: Any) -> nn.Module:
    """The module of a config, with its compute type and what it recomputes.

    Raises:
      UserError: a setting that the model does not have.
    """
    module = module_from_config(
        config.model.to_dict(), dtype=jnp.dtype(config.dtype), where="the config"
    )
    if config.remat == "none":
        return module
    if not hasattr(module, "remat"):
        raise UserError(f"{config.name}: remat is {config.remat!r}; this model accepts 'none' only")
    if config.remat not in REMAT:
        raise UserError(f"{config.name}: remat is {config.remat!r}; accepted: {', '.join(REMAT)}")
    return module.clone(remat=config.remat)


def make_optimizer(
    *,
    num_steps: int,
    learning_rate: float,
    warmup_steps: int,
    final_fraction: float = 1.0,
    weight_decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    clip_norm: float = 1.0,
) -> Optimizer:
    """AdamW with clipping, and weight decay on matrices only.

    Linear warm-up, then a cosine to `final_fraction` of the rate.

    Raises:
      UserError: `clip_norm` is not above 0. It would make every gradient zero, and a gradient that
        is zero not a number (optax#1752).
    """
    if not clip_norm > 0:
        raise UserError(f"clip_norm is {clip_norm}; a number above 0 is accepted")
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        learning_rate,
        warmup_steps,
        max(num_steps, warmup_steps + 1),
        learning_rate * final_fraction,
    )

    def is_matrix(params):
        # By name: statistics of the data and tables of positions have two axes too.
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    direction = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1, b2),
        optax.add_decayed_weights(weight_decay, mask=is_matrix),
    )
    return Optimizer(direction.init, direction.update, jax.jit(schedule))


def new_state(optimizer, params) -> TrainState:
    ema = jax.tree.map(jnp.copy, params)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, ema, optimizer.init(params), zero)


def state_template(module: nn.Module, optimizer, mesh, config) -> TrainState:
    """Shapes, types and shardings of a state, without computing any."""
    shapes = jax.eval_shape(partial(new_state, optimizer), param_template(module))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes, config.sharding, config.split_from),
    )
