"""One update of any model: gradient, AdamW, moving average. A pure function of its arguments."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from gen1_jax.batch import Batch
from gen1_jax.conditioning import EncoderParams
from gen1_jax.distributed import FRAMES, batch_sharding, replicated
from gen1_jax.errors import UserError
from gen1_jax.runtime import trace_once
from gen1_jax.training.objectives import Loss
from gen1_jax.training.reduction import reduced_once
from gen1_jax.training.sharding import gather
from gen1_jax.training.state import Optimizer, TrainState, choose_trained, join_params
from gen1_jax.training.telemetry import Metrics


def train_step(
    state: TrainState,
    batch: Batch,
    encoder_params: EncoderParams,
    learning_rate: jax.Array,
    key: jax.Array,
    *,
    loss: Loss,
    optimizer: Optimizer,
    ema_decay: float,
    ema_share: float,
    microbatches: int = 1,
    trains: Sequence[str] = (),
    reduction: Callable | None = None,
) -> tuple[TrainState, Metrics]:
    """Updates a state once; the result is a function of key, step and batch.

    A step whose loss or gradient is not finite leaves parameters, average and optimizer as they
    were. Only the step and the count of bad steps change.

    Args:
      state: the state before the step.
      batch: this step's examples.
      encoder_params: parameters of the frozen encoders.
      learning_rate: a scalar.
      key: the run's; each step's follows from it.
      loss: (params, encoder_params, batch, key) → (scalar, metrics).
      optimizer: AdamW without its rate.
      ema_decay: the highest decay of the moving average, which then spans 1 / (1 − decay) steps.
      ema_share: the largest share of the steps so far that the average spans. Decay and share hold
        both: early in a run the share is the shorter, and the parameters of step 0 have no weight.
      microbatches: parts of the batch that are computed one after another.
      trains: patterns of the parameters that are trained; see `choose_trained`.
      reduction: `reduced_once` with its settings; None leaves the reduction over devices to the
        compiler, which reduces the gradient of every microbatch.

    Returns:
      The state after the step, and its metrics: loss, gradient_norm, bad_steps and the loss's own.
    """
    key = jax.random.fold_in(key, state.step)
    batch = batch.widened()
    trained = choose_trained(state.params, trains)

    def loss_of_trained(trained, params, *arguments):
        return loss(join_params(params, trained), *arguments)

    differentiate = jax.value_and_grad(loss_of_trained, has_aux=True)
    average = partial(accumulate, microbatches=microbatches)
    if reduction:
        compute = reduction(differentiate, average, trained)
        (value, metrics), gradient = compute(trained, state.params, encoder_params, batch, key)
    else:

        def of_part(trained, *arguments):
            return differentiate(trained, state.params, *arguments)

        (value, metrics), gradient = average(of_part, trained, encoder_params, batch, key)
    norm = optax.tree.norm(gradient)
    good = jnp.isfinite(value) & jnp.isfinite(norm)
    chex.assert_rank([value, norm], 0)
    chex.assert_type([value, norm], float)

    def update(params, ema, opt_state):
        direction, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
        newest = jnp.maximum(1 - ema_decay, 1 / (1 + ema_share * state.step))
        return params, optax.incremental_update(params, ema, newest), opt_state

    trained, ema, opt_state = jax.lax.cond(
        good, update, lambda *same: same, trained, state.ema, state.opt_state
    )
    params = join_params(state.params, trained)
    bad_steps = jnp.where(good, 0, state.bad_steps + 1)
    metrics = {"loss": value, "gradient_norm": norm, "bad_steps": bad_steps, **metrics}
    after = TrainState(state.step + 1, params, ema, opt_state, bad_steps)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    return after, metrics


def accumulate(
    function: Callable,
    params: Any,
    encoder_params: EncoderParams,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
) -> Any:
    """Averages `function` over parts of a batch; one part is in memory at a time.

    Raises:
      UserError: the batch does not divide.
    """
    if microbatches == 1:
        return function(params, encoder_params, batch, key)
    if batch.size % microbatches:
        raise UserError(f"a batch of {batch.size} does not divide into {microbatches} microbatches")

    def split(x: jax.Array) -> jax.Array:
        # Each part takes every k-th example, so that no example moves to another device.
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


def make_step(
    loss: Loss,
    optimizer: Optimizer,
    template: TrainState,
    *,
    dtype: str,
    ema_decay: float,
    ema_share: float,
    microbatches: int = 1,
    trains: Sequence[str] = (),
    reduce_once: str = "no",
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the compiled `train_step` of a run.

    It is a function (state, batch, encoder_params, rate, key) → (state, metrics). Rate and key are
    arguments, so that stages that differ in nothing else are one program.
    The state that goes in is donated. State and batch stay sharded as they are; encoder parameters,
    rate, key and metrics are replicated. A second trace for the same shapes is a fault and raises.

    Args:
      loss: the objective's loss.
      optimizer: AdamW without its rate.
      template: the state, or its shapes; its shardings count.
      dtype: the compute type, in which sharded kernels are gathered.
      ema_decay: see `train_step`.
      ema_share: see `train_step`.
      microbatches: see `train_step`.
      trains: see `train_step`.
      reduce_once: the type in which gradients are reduced over the devices once a step; "no" has
        the compiler reduce those of every microbatch, in the compute type.
    """
    shardings = jax.tree.map(lambda x: x.sharding, template)
    mesh = shardings.step.mesh

    reduction = None
    if reduce_once != "no":
        settings = {"shardings": shardings.params, "dtype": dtype, "reduce_dtype": reduce_once}
        reduction = partial(reduced_once, **settings)
    step = partial(
        train_step,
        loss=loss if reduction else gather_params(loss, shardings.params, dtype),
        optimizer=optimizer,
        ema_decay=ema_decay,
        ema_share=ema_share,
        microbatches=microbatches,
        trains=trains,
        reduction=reduction,
    )
    whole = replicated(mesh)
    return jax.jit(
        trace_once(step),
        in_shardings=(shardings, placed_batch(mesh), whole, whole, whole),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )


def placed_batch(mesh: Mesh) -> NamedSharding | None:
    """Returns the sharding of every batch, for jax.jit.

    It is None, which leaves an array as `put_batch` placed it, where a clip's frames are sharded:
    videos and images are then placed differently.
    """
    return batch_sharding(mesh) if mesh.shape[FRAMES] == 1 else None


def gather_params(loss: Loss, shardings: Any, dtype: str) -> Loss:
    """Returns the loss with its sharded parameters gathered before use."""

    def loss_of_sharded(params: Any, *arguments: Any) -> Any:
        return loss(gather(params, shardings, jnp.dtype(dtype)), *arguments)

    return loss_of_sharded
