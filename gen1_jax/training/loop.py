"""The training loop, for every model and stage: data, steps, checkpoints, pictures, signals."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner
from gen1_jax.config import DTYPES, SAVED_CONFIG
from gen1_jax.distributed import make_mesh, put_batch, replicated, to_host
from gen1_jax.errors import UserError, WritingFailed
from gen1_jax.files import read_json, replacing, write_json
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.objectives import Objective, make_objective
from gen1_jax.training.step import (
    TrainState,
    make_module,
    make_optimizer,
    make_step,
    new_state,
    state_template,
)
from gen1_jax.training.telemetry import EventLog, FlopCounter, Interval, Profiler, TimeAccount
from gen1_jax.weights.folder import init_params, load_model, save_model
from gen1_jax.weights.merge import merge_params

STEPS_TO_AGREE = 10  # between asking the other processes whether one was told to stop


class Stopped(KeyboardInterrupt):
    """Ctrl-C: the run has been saved and can be resumed."""


class Preempted(Stopped):
    """The same by SIGTERM, which clusters send before they take a machine away."""

    exit_code = 75  # "try again later", of sysexits.h: start the same command again


def train(
    config: Any,
    workdir: str | Path,
    make_batches: Callable[[], Iterator[Batch]],
    make_preview_batch: Callable[[], Batch] | None = None,
    progress: bool = True,
    profile: int = 0,
) -> Path:
    """Trains one part, from its newest checkpoint if there is one, and writes `workdir/model`.

    Args:
      config: an `ml_collections.ConfigDict` of one part; see `configs/tiny.py`.
      workdir: the part's folder: `config.json`, `checkpoints/`, `logs/` (TensorBoard), `samples/`,
        `model/`.
      make_batches: an iterator of batches, with `get_state()` and `set_state()`.
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
    conditioner, encoder_params = Conditioner.load(config.frozen.to_dict(), dtype=dtype)
    objective = make_objective(config.objective, module, conditioner, config.loss.to_dict())
    optimizer = make_optimizer(num_steps=config.num_steps, **config.optimizer)

    # ---- state, created where it will live
    mesh = make_mesh(**config.mesh)
    batches = iter(make_batches())
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints)
    host_encoder_params = encoder_params
    encoder_params = jax.device_put(encoder_params, replicated(mesh))

    # ---- restore, or create and prepare from the data
    template = state_template(module, optimizer, mesh, config)
    restored = checkpoints.restore(template)
    if restored is not None:
        state, data_state = restored
        if int(state.step) > config.num_steps:
            raise UserError(
                f"{config.name}: {workdir} holds a checkpoint of step {int(state.step)}, beyond "
                f"num_steps={config.num_steps}; accepted: at least as many, or a new folder"
            )
        _set_data_state(batches, data_state, config.name)
    else:
        state = _create_state(config, module, optimizer, template)
        data_state = batches.get_state()
        typed = (batch.widened() for batch in batches)
        before = to_host(state.params)
        after = objective.prepare(before, host_encoder_params, typed)
        batches.set_state(data_state)
        if after is not before:
            state = _replace_params(state, after)

    step_fn = make_step(config, objective.loss, optimizer, state.params)
    lead = jax.process_index() == 0  # it alone writes and speaks
    workdir.mkdir(parents=True, exist_ok=True)
    if lead:
        write_json(workdir / SAVED_CONFIG, config.to_dict())
    preview = _Previews(config, workdir, objective, make_preview_batch)
    first = int(state.step)
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
        counted=lambda batch: (
            not encoder_params or (config.objective == "diffusion" and batch.encoded)
        ),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(getattr(batches, "close", lambda: None))
        log = stack.enter_context(EventLog(workdir / "logs", first, write=lead))
        stack.callback(checkpoints.close)
        stack.callback(bar.close)
        stop = stack.enter_context(_stop_on_signals())
        profiler = stack.enter_context(Profiler(workdir / "profile", profile, first))
        previous, since = None, Interval(first)
        for step in range(first, config.num_steps):
            with time_account.spend("data"):
                host_batch = next(batches)
                batch = put_batch(host_batch, mesh)
            shape = jax.tree.map(jnp.shape, batch)
            new = str(shape) not in seen
            seen.add(str(shape))
            with time_account.spend("compile" if new else "step"), profiler.step(step, state):
                flops.add(state.params, encoder_params, batch)
                with jax.set_mesh(mesh):  # for kernels, which each device runs on its own part
                    state, metrics = step_fn(
                        state, batch, encoder_params, optimizer.learning_rate(step)
                    )
                # One step behind, so that the accelerator always has work.
                bad_total += _check_step(config, workdir, previous)
                previous = (step + 1, metrics, host_batch)
            done = step + 1
            bar.update()
            since.examples += batch.size
            last = done == config.num_steps
            logging = last or done % config.log_every == 0
            with time_account.spend("step"):  # which it waits for
                stopping = stop.agreed(done)
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
                    log.add_scalar(f"{name}/{kind}" if name == "loss" else name, value, done)
                for name, value in since.report(done, time_account, flops, mesh).items():
                    log.add_scalar(name, value, done)
                hidden = {"gradient_norm"} | (set() if bad_total else {"bad_steps"})
                bar.set_postfix({k: f"{v:.4g}" for k, v in values.items() if k not in hidden})
            if config.sample_every and (last or done % config.sample_every == 0):
                with time_account.spend("evaluation"):
                    preview(to_host(state.ema), host_encoder_params, done, log)
            if saving:
                save = checkpoints.save_now if last or stopping else checkpoints.save
                with time_account.spend("checkpoint"):
                    save(done, state, batches.get_state())
            if stopping:
                kind = Preempted if stopping == signal.SIGTERM else Stopped
                raise kind(f"{config.name}: stopped and saved at step {done} of {config.num_steps}")

        # ---- the finished model
        typed = (batch.widened() for batch in batches)
        average = to_host(state.ema)
        if jax.process_index() == 0:
            module = objective.finish(module, average, typed)
            save_model(folder, module, average)
            write_json(workdir / "finished.json", {"steps": config.num_steps})
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
    with replacing(path) as part:
        np.savez(part, **batch.fields())
    if jax.process_count() > 1:  # the first to end ends the others
        multihost_utils.sync_global_devices("bad batch")
    raise UserError(
        f"{config.name}: {what}, the {count}th in a row; its batch is in {path}. Lower the "
        "learning rate, or look at the data"
    )


def _set_data_state(batches, data_state: dict, name: str) -> None:
    try:
        batches.set_state(data_state)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the checkpoint's place in the data does not fit the config's data, which "
            f"must stay as they were: {error}"
        ) from error


def _replace_params(state: TrainState, params: Any) -> TrainState:
    """The state with other parameters (host arrays), and an average that starts from them."""
    if jax.process_count() > 1:  # each has seen its own part of the data
        params = multihost_utils.broadcast_one_to_all(params)
    params = _place(params, state.params)
    return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))


def _create_state(config, module: nn.Module, optimizer, template: TrainState) -> TrainState:
    """Random parameters, or those of `init_from` merged loudly; the state is sharded at birth.

    Parameters alone are drawn on one device, and leave it before the state is made.
    """
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
    params = _place(jax.device_get(params), template.params)
    sharding = jax.tree.map(lambda x: x.sharding, template)
    return jax.jit(partial(new_state, optimizer), out_shardings=sharding)(params)


def _place(params: Any, like: Any) -> Any:
    """Host arrays → arrays of which each device gets its own part, where those of `like` lie."""

    def put(new: np.ndarray, old: Any) -> jax.Array:
        return jax.make_array_from_callback(old.shape, old.sharding, lambda i: np.asarray(new)[i])

    return jax.tree.map(put, params, like)


class _Previews:
    """Pictures (and numbers) of the fixed batch as training goes, to `samples/` and TensorBoard."""

    def __init__(self, config, workdir: Path, objective: Objective, make_batch):
        self._folder, self._objective, self._make = workdir / "samples", objective, make_batch
        self._batch = None

    def __call__(self, params, encoder_params, step: int, log: EventLog) -> None:
        from gen1_jax.video.pictures import save_image

        if self._make is None or jax.process_index() > 0:
            return
        if self._batch is None:
            self._batch = self._make().widened()
        for name, value in self._objective.preview(params, encoder_params, self._batch).items():
            if isinstance(value, float):
                log.add_scalar(f"preview/{name}", value, step)
            else:
                log.add_image(name, value, step)
                try:
                    save_image(self._folder / f"{name}_{step:07d}.png", value)
                except WritingFailed as error:
                    warnings.warn(f"{error}; training goes on", stacklevel=2)


class _Stop:
    """The number of the signal that asked this process to stop; 0 if none did."""

    def __init__(self):
        self.received = 0

    def agreed(self, step: int) -> int:
        """The signal to stop for after this step; several processes ask each other now and then."""
        if jax.process_count() == 1:
            return self.received
        if step % STEPS_TO_AGREE:
            return 0
        # What comes while this waits is told the next time.
        return int(multihost_utils.process_allgather(np.int32(self.received)).max())


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Yields what is set by Ctrl-C or SIGTERM; a second one stops at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number, frame):
        if stop.received:
            raise KeyboardInterrupt
        stop.received = number

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finished_steps(workdir: Path) -> int | None:
    try:
        return (read_json(workdir / "finished.json") or {}).get("steps")
    except UserError:  # damaged: the run ends, and says so, once more
        return None
