"""Training: one pure step and one loop, for every model and stage."""

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter
from tqdm import tqdm

from gen1_jax.batch import Batch
from gen1_jax.checkpoint import Checkpoints
from gen1_jax.conditioning import Conditioner, Frozen
from gen1_jax.errors import UserError
from gen1_jax.models.unet import REMAT
from gen1_jax.objectives import Loss, Objective, make_objective
from gen1_jax.parallel import gather, make_mesh, put_batch, replicated, state_sharding, to_host
from gen1_jax.telemetry import FlopCounter, Interval, Profiler, TimeAccount
from gen1_jax.weights.folder import (
    init_params,
    load_model,
    module_from_config,
    param_template,
    save_model,
)
from gen1_jax.weights.merge import merge_params

DTYPES = ("float32", "bfloat16", "float16")
SAVED_CONFIG = "config.json"  # in the work folder: what the run was started with, paths resolved


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
    frozen: Frozen,
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
        jax.value_and_grad(loss, has_aux=True), state.params, frozen, batch, key, microbatches
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
    function: Callable, params: Any, frozen: Frozen, batch: Batch, key: jax.Array, microbatches: int
) -> Any:
    """The mean of `function` over parts of a batch, one in memory at a time.

    Raises:
      UserError: the batch does not divide.
    """
    if microbatches == 1:
        return function(params, frozen, batch, key)
    if batch.size % microbatches:
        raise UserError(f"a batch of {batch.size} does not divide into {microbatches} microbatches")

    def split(x: jax.Array) -> jax.Array:
        # Each part takes every k-th example: what lies on one device stays there.
        return x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)

    def add(total: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        part, index = inputs
        result = function(params, frozen, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, result), None

    parts = jax.tree.map(split, batch), jnp.arange(microbatches)
    shapes = jax.eval_shape(function, params, frozen, jax.tree.map(lambda x: x[0], parts[0]), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / microbatches, total)


def make_step(config: Any, loss: Loss, optimizer: Optimizer, params: Any) -> Callable:
    """`train_step` of a config, to be compiled: (state, batch, frozen, learning rate) → same.

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
    """
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


class Stopped(KeyboardInterrupt):
    """Ctrl-C: the run has been saved and can be resumed."""


class Preempted(Stopped):
    """The same by SIGTERM, which clusters send before they take a machine away."""

    exit_code = 75  # "try again later", of sysexits.h: start the same command again


def train(
    config: Any,
    workdir: str | Path,
    make_batches: Callable[[], Iterator[dict]],
    make_preview_batch: Callable[[], dict] | None = None,
    progress: bool = True,
    profile: int = 0,
) -> Path:
    """Trains one part, from its newest checkpoint if there is one, and writes `workdir/model`.

    Args:
      config: an `ml_collections.ConfigDict` of one part; see `configs/tiny.py`.
      workdir: the part's folder: `config.json`, `checkpoints/`, `logs/` (TensorBoard), `samples/`,
        `model/`.
      make_batches: an iterator of batches (dictionaries), with `get_state()` and `set_state()`.
      make_preview_batch: the fixed batch that pictures are made of.
      progress: whether to show a bar.
      profile: steps to trace, to `workdir/profile`.

    Returns:
      The model folder: the moving average of the parameters, in the public layout.

    Raises:
      UserError: bad settings, or a checkpoint or starting model that does not fit.
      Stopped, Preempted: stopped by a signal, after saving.
    """
    check_settings(config)
    workdir = Path(workdir)
    folder = workdir / "model"
    if (folder / "config.json").exists() and _finished_steps(workdir) == config.num_steps:
        return folder

    # ---- model, objective, optimizer
    dtype = jnp.dtype(config.dtype)
    module = make_module(config)
    conditioner, frozen = Conditioner.load(config.frozen.to_dict(), dtype=dtype)
    objective = make_objective(config.objective, module, conditioner, config.loss.to_dict())
    optimizer = make_optimizer(num_steps=config.num_steps, **config.optimizer)

    # ---- state, created where it will live
    mesh = make_mesh(**config.mesh)
    batches = iter(make_batches())
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints)
    host_frozen = frozen
    frozen = jax.device_put(frozen, replicated(mesh))

    # ---- restore, or create and prepare from the data
    restored = checkpoints.restore(state_template(module, optimizer, mesh, config))
    if restored is not None:
        state, data_state = restored
        if int(state.step) > config.num_steps:
            raise UserError(
                f"{config.name}: {workdir} holds a checkpoint of step {int(state.step)}, beyond "
                f"num_steps={config.num_steps}; accepted: at least as many, or a new folder"
            )
        _set_data_state(batches, data_state, config.name)
    else:
        state = _create_state(config, module, optimizer, mesh)
        data_state = batches.get_state()
        typed = (Batch.from_dict(batch).widened() for batch in batches)
        before = to_host(state.params)
        after = objective.prepare(before, host_frozen, typed)
        batches.set_state(data_state)
        if after is not before:
            state = _replace_params(state, after)

    step_fn = make_step(config, objective.loss, optimizer, state.params)
    lead = jax.process_index() == 0  # it alone writes and speaks
    workdir.mkdir(parents=True, exist_ok=True)
    if lead:
        settings = json.dumps(config.to_dict(), indent=2) + "\n"
        (workdir / SAVED_CONFIG).write_text(settings, encoding="utf-8")
    preview = _Previews(config, workdir, objective, make_preview_batch)
    first = int(state.step)
    # What was logged after the checkpoint is logged again.
    purge = first + 1 if first else None
    writer = SummaryWriter(
        str(workdir / "logs"), max_queue=100, purge_step=purge, write_to_disk=lead
    )
    bar = tqdm(
        total=config.num_steps,
        initial=first,
        desc=f"train {config.name:<12}",
        unit="step",
        disable=not (progress and lead),
        dynamic_ncols=True,
        smoothing=0.05,
    )

    # ---- the loop: data, step, check the step before, log, sample, save
    time_account, seen, bad_total = TimeAccount(), set(), 0
    flops = FlopCounter(
        objective.loss,
        # Frozen encoders that a raw batch passes are not trained.
        counted=lambda batch: not frozen or (config.objective == "diffusion" and batch.encoded),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(getattr(batches, "close", lambda: None))
        stack.callback(writer.close)
        stack.callback(checkpoints.close)
        stack.callback(bar.close)
        stop = stack.enter_context(_stop_on_signals())
        profiler = stack.enter_context(Profiler(workdir / "profile", profile, first))
        previous, since = None, Interval(first)
        for step in range(first, config.num_steps):
            with time_account.spend("data"):
                host_batch = next(batches)
                batch = put_batch(Batch.from_dict(host_batch), mesh)
            shape = jax.tree.map(jnp.shape, batch)
            new = str(shape) not in seen
            seen.add(str(shape))
            with time_account.spend("compile" if new else "step"):
                profiler.before(step)
                flops.add(state.params, frozen, batch)
                with jax.set_mesh(mesh):  # for kernels, which each device runs on its own part
                    state, metrics = step_fn(state, batch, frozen, optimizer.learning_rate(step))
                # One step behind, so that the accelerator always has work.
                bad_total += _check_step(config, workdir, previous)
                previous = (step + 1, metrics, host_batch)
            done = step + 1
            bar.update()
            since.examples += batch.size
            last = done == config.num_steps
            logging = last or done % config.log_every == 0
            stopping = _agree(stop, logging)
            saving = last or stopping or done % config.checkpoint_every == 0
            if logging or saving:
                with time_account.spend("step"):
                    bad_total += _check_step(config, workdir, previous)
                    previous = None
                    values = {name: float(value) for name, value in metrics.items()}
            if logging:
                kind = "image" if batch.num_frames == 1 else "video"
                values["bad_steps"] = bad_total
                for name, value in values.items():
                    writer.add_scalar(f"{name}/{kind}" if name == "loss" else name, value, done)
                for name, value in since.report(done, time_account, flops, mesh).items():
                    writer.add_scalar(name, value, done)
                hidden = {"gradient_norm"} | (set() if bad_total else {"bad_steps"})
                bar.set_postfix({k: f"{v:.4g}" for k, v in values.items() if k not in hidden})
            if config.sample_every and (last or done % config.sample_every == 0):
                with time_account.spend("evaluation"):
                    preview(to_host(state.ema), host_frozen, done, writer)
            if saving:
                with time_account.spend("checkpoint"):
                    checkpoints.save(done, state, batches.get_state())
            if stopping:
                checkpoints.wait()
                kind = Preempted if stop.signal == signal.SIGTERM else Stopped
                raise kind(f"{config.name}: stopped and saved at step {done} of {config.num_steps}")
        checkpoints.wait()

        # ---- the finished model
        typed = (Batch.from_dict(batch).widened() for batch in batches)
        average = to_host(state.ema)
        if jax.process_index() == 0:
            module = objective.finish(module, average, typed)
            save_model(folder, module, average)
            finished = json.dumps({"steps": config.num_steps}) + "\n"
            (workdir / "finished.json").write_text(finished, encoding="utf-8")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("finished")
    return folder


def check_settings(config) -> None:
    """Raises UserError for counts, a seed or a type that cannot be trained with."""
    if config.sample_every < 0:
        raise UserError(
            f"{config.name}: sample_every is {config.sample_every}; 1 or more is accepted, or 0 "
            "for no samples"
        )
    for name in (
        "num_steps", "log_every", "checkpoint_every", "keep_checkpoints", "microbatches",
    ):  # fmt: skip
        if config[name] < 1:
            raise UserError(f"{config.name}: {name} is {config[name]}; 1 or more is accepted")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"{config.name}: seed is {config.seed}; 0 to {2**32 - 1} are accepted")
    if config.mesh.get("frames", 1) != 1:
        raise UserError(f"{config.name}: mesh.frames is {config.mesh.frames}; training accepts 1")
    if config.dtype not in DTYPES:
        raise UserError(f"{config.name}: dtype is {config.dtype!r}; accepted: {', '.join(DTYPES)}")


MAX_BAD_STEPS = 5  # in a row


def _check_step(config, workdir: Path, previous: tuple | None) -> int:
    """1 if a step was skipped because its loss or gradient is no number, else 0.

    Raises:
      UserError: it was the last of several in a row; its batch is saved.
    """
    if previous is None:
        return 0
    step, metrics, batch = previous
    count = int(metrics["bad_steps"])
    if count == 0:
        return 0
    loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
    what = f"at step {step} the loss is {loss}, its gradient {norm}"
    if count < MAX_BAD_STEPS:
        tqdm.write(f"{config.name}: {what}: skipped ({count} in a row)")
        return 1
    path = workdir / f"bad_batch_{step}_{jax.process_index()}.npz"
    np.savez(path, **{name: x for name, x in batch.items() if x is not None})
    raise UserError(
        f"{config.name}: {what}, the {count}th in a row; its batch is in {path}. Lower the "
        "learning rate, or look at the data"
    )


def _agree(stop: "_Stop", logging: bool) -> bool:
    """Whether to stop; among several processes all stop at the same step, asked as they log."""
    if jax.process_count() == 1:
        return stop.is_set()
    if not logging:
        return False
    asked = multihost_utils.process_allgather(np.int32(stop.signal or 0))
    stop.signal = int(asked.max()) or None
    return stop.is_set()


def _set_data_state(batches, data_state: dict, name: str) -> None:
    try:
        batches.set_state(data_state)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the checkpoint's place in the data does not fit the config's data, which "
            f"must stay as they were: {error}"
        ) from error


def _new_state(optimizer, params) -> TrainState:
    ema = jax.tree.map(jnp.copy, params)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, ema, optimizer.init(params), zero)


def _replace_params(state: TrainState, params: Any) -> TrainState:
    """The state with other parameters (host arrays), and an average that starts from them."""
    if jax.process_count() > 1:  # each has seen its own part of the data
        params = multihost_utils.broadcast_one_to_all(params)

    def put(new: Any, old: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(old.shape, old.sharding, lambda i: np.asarray(new)[i])

    params = jax.tree.map(put, params, state.params)
    return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))


def state_template(module: nn.Module, optimizer, mesh, config) -> TrainState:
    """Shapes, types and shardings of a state, without computing any."""
    shapes = jax.eval_shape(partial(_new_state, optimizer), param_template(module))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes, config.sharding, config.split_from),
    )


def _create_state(config, module: nn.Module, optimizer, mesh) -> TrainState:
    """Random parameters, or those of `init_from` merged loudly; the state is sharded at birth."""
    loaded = None
    if config.init_from:
        _, loaded = load_model(config.init_from)

    key = jax.random.fold_in(jax.random.key(config.seed), 0x1217)
    if loaded is None:
        params = init_params(module, key)
    else:
        params, report = merge_params(
            init_params(module, key, known=loaded), loaded, **config.merge.to_dict()
        )
        tqdm.write(f"{config.name}: from {config.init_from}: {report}")
    create = partial(_new_state, optimizer)
    shapes = jax.eval_shape(create, params)
    sharding = state_sharding(mesh, shapes, config.sharding, config.split_from)
    return jax.jit(create, out_shardings=sharding)(params)


class _Previews:
    """Pictures (and numbers) of the fixed batch as training goes, to `samples/` and TensorBoard."""

    def __init__(self, config, workdir: Path, objective: Objective, make_batch):
        self._folder, self._objective, self._make = workdir / "samples", objective, make_batch
        self._batch = None

    def __call__(self, params, frozen, step: int, writer: SummaryWriter) -> None:
        from gen1_jax.pictures import save_image

        if self._make is None or jax.process_index() > 0:
            return
        if self._batch is None:
            self._batch = Batch.from_dict(self._make()).widened()
        for name, value in self._objective.preview(params, frozen, self._batch).items():
            if isinstance(value, float):
                writer.add_scalar(f"preview/{name}", value, step)
            else:
                self._folder.mkdir(parents=True, exist_ok=True)
                save_image(self._folder / f"{name}_{step:07d}.png", value)
                writer.add_image(name, value, step, dataformats="HWC")


class _Stop:
    """Set by Ctrl-C or SIGTERM, with the signal's number."""

    def __init__(self):
        self.signal: int | None = None

    def is_set(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Yields what is set by Ctrl-C or SIGTERM; a second one stops at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.signal = number

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finished_steps(workdir: Path) -> int | None:
    try:
        return json.loads((workdir / "finished.json").read_text())["steps"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
