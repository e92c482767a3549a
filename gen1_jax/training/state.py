"""The training state: parameters, their moving average, the optimizer; created and placed.

A run may train some parameters only, chosen by patterns of their names. The others are held beside
them: they have neither gradient, moments nor an average of their own.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh
from tqdm import tqdm

from gen1_jax.errors import UserError
from gen1_jax.models.remat import REMAT
from gen1_jax.randomness import stream_seed
from gen1_jax.training.lora import LoraModule
from gen1_jax.training.sharding import MIN_SIZE_TO_SHARD, SHARDING, state_sharding
from gen1_jax.weights.folder import init_params, load_model, module_from_config, param_template
from gen1_jax.weights.merge import MergeReport, merge_params
from gen1_jax.weights.naming import list_names


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    The state holds no randomness: every key follows from the seed and the step.

    Attributes:
      step: the number of steps done.
      params: all parameters, in float32, those that are not trained included.
      ema: the exponential moving average of the parameters that are trained.
      opt_state: the optimizer's moments of the parameters that are trained.
      bad_steps: the length of the current run of steps whose loss or gradient was not finite.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    bad_steps: jax.Array


class Optimizer(NamedTuple):
    """AdamW without its learning rate, which is an argument of the step.

    Two stages that differ only in the rate are therefore the same compiled program.

    Attributes:
      init: parameters → optimizer state.
      update: (gradient, optimizer state, parameters) → (direction, optimizer state).
      learning_rate: step → learning rate.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    learning_rate: Callable[[int], jax.Array]


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
    """Returns AdamW with gradient clipping.

    Args:
      num_steps: the length of the run, over which the rate falls.
      learning_rate: the highest rate, reached after a linear warm-up.
      warmup_steps: the length of the warm-up.
      final_fraction: the fraction of the highest rate at which the cosine ends.
      weight_decay: decoupled decay, applied to kernels only.
      b1: Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      clip_norm: the largest norm of the whole gradient.

    Raises:
      UserError: `clip_norm` is not above 0. Such a norm makes every gradient zero, and a gradient
        that is zero not a number (optax#1752).
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

    def is_kernel(params):
        # By name: statistics of the data and position tables have two axes too.
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    direction = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1, b2),
        optax.add_decayed_weights(weight_decay, mask=is_kernel),
    )
    return Optimizer(direction.init, direction.update, jax.jit(schedule))


def make_module(
    model: Mapping[str, Any], *, name: str, dtype: str, remat: str = "none", rank: int = 0
):
    """Returns the module that a part trains.

    Args:
      model: the content of a public config.json.
      name: the part's name, for messages.
      dtype: the compute type.
      remat: what the backward pass recomputes; models other than the UNet accept "none" only.
      rank: that of LoRA factors beside the kernels; 0: none.

    Raises:
      UserError: a setting that the model does not have.
    """
    module = module_from_config(dict(model), dtype=jnp.dtype(dtype), where="the config")
    if remat != "none":
        if not hasattr(module, "remat"):
            raise UserError(f"{name}: remat is {remat!r}; this model accepts 'none' only")
        if remat not in REMAT:
            raise UserError(f"{name}: remat is {remat!r}; accepted: {', '.join(REMAT)}")
        module = module.clone(remat=remat)
    return LoraModule(module, rank) if rank else module


# ---- the parameters that are trained


def choose_trained(params: Any, trains: Sequence[str]) -> Any:
    """Returns the parameters that are trained, as a tree without the others.

    Args:
      params: all parameters, or their shapes.
      trains: regular expressions, which are searched for in "/"-paths such as
        `down_blocks_0/resnets_0/temporal_conv1/kernel`; empty: all parameters are trained.

    Raises:
      UserError: a pattern is no regular expression, or matches no parameter.
    """
    if not trains:
        return params
    if isinstance(trains, str):
        raise UserError(f"trains is {trains!r}; accepted: a tuple of patterns, ({trains!r},)")
    flat = traverse_util.flatten_dict(params, sep="/")
    chosen = set()
    for pattern in trains:
        try:
            found = {name for name in flat if re.search(pattern, name)}
        except re.error as error:
            raise UserError(f"trains: {pattern!r} is no regular expression: {error}") from None
        if not found:
            raise UserError(
                f"trains: {pattern!r} matches no parameter; near it: {_near(pattern, flat)}"
            )
        chosen |= found
    return traverse_util.unflatten_dict({k: v for k, v in flat.items() if k in chosen}, sep="/")


def _near(pattern: str, names: Sequence[str]) -> str:
    """Returns names of parameters, or of their parts, that resemble a pattern."""
    parts = {part for name in names for part in (name, *name.split("/"))}
    near = difflib.get_close_matches(pattern.strip("^$/.*"), sorted(parts), n=5, cutoff=0.4)
    return ", ".join(near or sorted(names)[:5])


def choose_like(params: Any, trained: Any) -> Any:
    """Returns those parameters whose names are in `trained`."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({k: flat[k] for k in traverse_util.flatten_dict(trained)})


def join_params(params: Any, trained: Any) -> Any:
    """Returns all parameters, with those of `trained` in place of their namesakes."""
    joined = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(joined)


def averaged_params(state: TrainState) -> Any:
    """Returns the moving average of all parameters; one that is not trained is its own average."""
    return join_params(state.params, state.ema)


def are_trained(state: TrainState) -> Any:
    """Returns for each parameter whether it is trained, in a tree like that of the parameters."""
    trained = traverse_util.flatten_dict(state.ema)
    flat = {path: path in trained for path in traverse_util.flatten_dict(state.params)}
    return traverse_util.unflatten_dict(flat)


def describe_trained(state: TrainState) -> str:
    """Says in one line how many parameters are trained; says nothing if all are."""
    total, trained = (sum(x.size for x in jax.tree.leaves(t)) for t in (state.params, state.ema))
    return "" if trained == total else f"{trained:,} of {total:,} parameters are trained"


def describe_untrained(report: MergeReport, trained: Any) -> str:
    """Names the parameters that a merge created or widened and that are not trained, if any.

    Zeros in a widened kernel, for example, would keep the added inputs without influence.

    Args:
      report: of the merge.
      trained: the parameters that are trained, or their shapes.
    """
    flat = traverse_util.flatten_dict(trained, sep="/")
    names = [path for path in (*report.new, *report.widened) if path not in flat]
    if not names:
        return ""
    return (
        f"{len(names)} new or widened parameters are not trained, and keep their first values "
        f"({list_names(names)}); patterns in trains change that"
    )


# ---- creation


def new_state(optimizer: Optimizer, params: Any, trains: Sequence[str] = ()) -> TrainState:
    """Returns the state of step 0."""
    trained = choose_trained(params, trains)
    ema = jax.tree.map(jnp.copy, trained)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, ema, optimizer.init(trained), zero)


def state_template(
    module: nn.Module,
    optimizer: Optimizer,
    mesh: Mesh,
    sharding: Sequence[tuple[str, str]] = SHARDING,
    min_size_to_shard: int = MIN_SIZE_TO_SHARD,
    trains: Sequence[str] = (),
) -> TrainState:
    """Returns the shapes, types and shardings of a state; nothing is computed.

    Args:
      module: the module that is trained.
      optimizer: its optimizer.
      mesh: the devices.
      sharding: the rules of `state_sharding`.
      min_size_to_shard: the smallest parameter that is sharded, in elements.
      trains: patterns of the parameters that are trained; see `choose_trained`.

    Raises:
      UserError: a pattern matches no parameter.
    """
    make = partial(new_state, optimizer, trains=trains)
    shapes = jax.eval_shape(make, param_template(module))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes, sharding, min_size_to_shard),
    )


def create_state(
    module: nn.Module,
    optimizer: Optimizer,
    template: TrainState,
    *,
    name: str,
    seed: int,
    init_from: str = "",
    merge: Mapping[str, Sequence[str]] | None = None,
    trains: Sequence[str] = (),
) -> tuple[TrainState, frozenset[str]]:
    """Creates the state of step 0, sharded from the start.

    The parameters alone are drawn on one device; they are placed before the rest of the state is
    made.

    Args:
      module: the module that is trained.
      optimizer: its optimizer.
      template: the shapes and shardings of the state.
      name: the part's name.
      seed: draws the new parameters, together with the part's name.
      init_from: a model folder to start from; empty draws all parameters.
      merge: patterns of the parameters that may differ from those of `init_from`; see
        `merge_params`.
      trains: patterns of the parameters that are trained; see `choose_trained`.

    Returns:
      The state, and the "/"-paths of the parameters that `init_from` did not bring.

    Raises:
      UserError: the model of `init_from` cannot be read or does not fit.
    """
    loaded = None
    if init_from:
        _, loaded = load_model(init_from)
    key = jax.random.key(stream_seed(seed, name, "creation"))
    if loaded is None:
        params = init_params(module, key)
        new = traverse_util.flatten_dict(params, sep="/")
    else:
        drawn = init_params(module, key, known=loaded)
        params, report = merge_params(drawn, loaded, **(merge or {}))
        new = report.new
        tqdm.write(f"{name}: from {init_from}: {report}")
        if said := describe_untrained(report, template.ema):
            tqdm.write(f"{name}: {said}")
    params = place(jax.device_get(params), template.params)
    sharding = jax.tree.map(lambda x: x.sharding, template)
    make = partial(new_state, optimizer, trains=trains)
    return jax.jit(make, out_shardings=sharding)(params), frozenset(new)


def replace_params(state: TrainState, params: Any) -> TrainState:
    """Returns the state with other parameters, host arrays, from which its average starts."""
    params = place(params, state.params)
    ema = jax.tree.map(jnp.copy, choose_like(params, state.ema))
    return state.replace(params=params, ema=ema)


def place(params: Any, like: Any) -> Any:
    """Places host arrays with the shardings of `like`; each device receives only its own shard."""

    def put(new: np.ndarray, old: Any) -> jax.Array:
        return jax.make_array_from_callback(old.shape, old.sharding, lambda i: np.asarray(new)[i])

    return jax.tree.map(put, params, like)
