"""The training loop of every model and stage."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from gen1_jax.batch import Batch
from gen1_jax.conditioning import EncoderParams
from gen1_jax.config import MADE_FROM, SAVED_CONFIG, changed_settings
from gen1_jax.distributed import (
    is_lead,
    over_processes,
    put_batch,
    replicated,
    to_host,
)
from gen1_jax.errors import UserError
from gen1_jax.files import as_path, read_json, write_json
from gen1_jax.randomness import stream_seed
from gen1_jax.training.ahead import Program, batches_to_come, compile_together
from gen1_jax.training.bad_steps import BadSteps
from gen1_jax.training.beside import Beside
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.objectives import Objective
from gen1_jax.training.previews import PreviewWriter
from gen1_jax.training.sharding import MIN_SIZE_TO_SHARD, SHARDING, describe_sharding
from gen1_jax.training.signals import Preempted, Stopped, stop_on_signals
from gen1_jax.training.state import (
    Optimizer,
    TrainState,
    are_trained,
    averaged_params,
    create_state,
    describe_trained,
    join_params,
    replace_params,
    state_template,
)
from gen1_jax.training.step import make_step
from gen1_jax.training.telemetry import FlopCounter, Profiler, RunLog, how_to_watch
from gen1_jax.training.validation import HeldOutLoss

FINISHED = "finished.json"
HELD_OUT, PREVIEW = "held-out loss", "preview"
PART = "part"  # beside the stream's place: the name that the run's random numbers follow from


def train(
    workdir: str | Path,
    make_batches: Callable[[], Iterator[Batch]],
    *,
    name: str,
    module: nn.Module,
    objective: Objective,
    optimizer: Optimizer,
    encoder_params: EncoderParams,
    mesh: Mesh,
    num_steps: int,
    seed: int,
    dtype: str,
    ema_decay: float,
    ema_share: float,
    microbatches: int = 1,
    reduce_once: str = "no",
    init_from: str = "",
    merge: Mapping[str, Sequence[str]] | None = None,
    sharding: Sequence[tuple[str, str]] = SHARDING,
    min_size_to_shard: int = MIN_SIZE_TO_SHARD,
    trains: Sequence[str] = (),
    log_every: int = 10,
    sample_every: int = 0,
    eval_every: int = 0,
    eval_batches: int = 8,
    beside_share: float = 1.0,
    checkpoint_every: int = 500,
    keep_checkpoints: int = 2,
    make_preview_batch: Callable[[], Batch] | None = None,
    make_validation: Callable[[], Mapping[str, Callable[[], Iterator[Batch]]]] | None = None,
    record: Mapping[str, Any] | None = None,
    made_from: Mapping[str, Any] | None = None,
    progress: bool = True,
    profile: int = 0,
) -> Path:
    """Trains one part, from its newest checkpoint if there is one, and writes `workdir/model`.

    The order is fixed. A run restores its newest checkpoint, or creates and prepares its state.
    Programs are compiled side by side, for all sizes of batches. Then each round of the loop
    evaluates and saves what the last step made, where that is due, and stops if a signal came; it
    takes a step, and logs it where that is due. The last round ends after saving. At the end the
    moving average is written as the model.

    Args:
      workdir: the part's folder: `config.json`, `checkpoints/`, `logs/` (TensorBoard), `samples/`,
        `model/`.
      make_batches: makes the stream of batches, which has `get_state()` and `set_state()`.
      name: the part's name, for messages.
      module: the module that is trained.
      objective: its loss, and what surrounds the loss.
      optimizer: see `make_optimizer`.
      encoder_params: parameters of the frozen encoders, host arrays.
      mesh: the devices.
      num_steps: the length of the run.
      seed: every key of the run follows from it and from the part's name.
      dtype: the compute type.
      ema_decay: the highest decay of the moving average.
      ema_share: the largest share of the steps so far that the average spans.
      microbatches: parts of a batch that are computed one after another.
      reduce_once: the type in which gradients are reduced once a step; see `make_step`.
      init_from: a model folder to start from; empty: random parameters.
      merge: patterns of the parameters that may differ from those of `init_from`.
      sharding: the rules of `state_sharding`.
      min_size_to_shard: the smallest parameter that is sharded, in elements.
      trains: patterns of the parameters that are trained; empty: all are.
      log_every: steps between two entries of the log.
      sample_every: steps between two previews; 0: none.
      eval_every: steps between two measurements of the held-out loss; 0: none.
      eval_batches: validation batches of each kind.
      beside_share: the largest share of the time that previews and held-out losses take; one that
        would take more is left out, except at the end.
      checkpoint_every: steps between two checkpoints.
      keep_checkpoints: how many checkpoints are kept.
      make_preview_batch: makes the fixed batch of the previews.
      make_validation: returns, by kind of batch, what makes the stream of the validation split.
      record: what is written to `config.json`.
      made_from: what is written to `made_from.json`: which models and data the part is made from.
      progress: whether to show a bar.
      profile: steps to trace, to `workdir/profile`.

    Returns:
      The model folder: the moving average of the parameters, in the public layout.

    Raises:
      UserError: a checkpoint or a model to start from does not fit, or the loss is not finite.
        Errors of previews and held-out losses end nothing: they are counted and reported.
      Stopped, Preempted: a signal ended the run, after it was saved.
    """
    # ---- restore, or create and prepare
    workdir, batches = as_path(workdir), iter(make_batches())
    checkpoints = Checkpoints(workdir / "checkpoints", keep=keep_checkpoints)
    template = state_template(module, optimizer, mesh, sharding, min_size_to_shard, trains)
    state = _restore(name, workdir, checkpoints, template, batches, num_steps)
    if state is None:
        options = {"name": name, "seed": seed, "init_from": init_from, "merge": merge}
        options["trains"] = trains
        state, new = create_state(module, optimizer, template, **options)
        state = _prepare(state, objective, encoder_params, batches, new)
    options = {"dtype": dtype, "ema_decay": ema_decay, "ema_share": ema_share}
    options |= {"microbatches": microbatches, "trains": trains, "reduce_once": reduce_once}
    step_fn = Program(make_step(objective.loss, optimizer, template, **options), mesh)
    key = jax.random.key(stream_seed(seed, name, "training"))

    def place() -> dict[str, Any]:
        return {PART: name} | batches.get_state()

    encoders = jax.device_put(encoder_params, replicated(mesh))
    first = int(state.step)
    changed = changed_settings(ConfigDict(record or {}), workdir) if first else ""
    for said in (describe_trained(template), describe_sharding(template.params, min_size_to_shard)):
        if said and is_lead():
            tqdm.write(f"{name}: {said}")

    previews = PreviewWriter(workdir / "samples", objective.preview, make_preview_batch)
    flops = FlopCounter(objective.loss, are_trained(template))
    bad_steps, finished = BadSteps(name, workdir), {"steps": num_steps}
    options = {"dtype": dtype, "microbatches": microbatches, "num_batches": eval_batches}
    streams = make_validation() if eval_every and make_validation else {}
    held_out = HeldOutLoss(objective.loss, streams, template=template, **options)
    with contextlib.ExitStack() as stack:
        stack.callback(getattr(batches, "close", lambda: None))
        # The first batch comes before anything is written, so that bad data leave nothing behind.
        ahead = next(batches) if first < num_steps else None
        _write_records(workdir, {SAVED_CONFIG: record, MADE_FROM: made_from})
        if is_lead():
            begins = f"resumes at step {first} of {num_steps}" if first else f"{num_steps} steps"
            tqdm.write(f"{name}: {begins}; to watch: {how_to_watch(workdir / 'logs')}")
            if changed:
                tqdm.write(f"{name}: settings have changed since: {changed}")
        log = stack.enter_context(RunLog(workdir / "logs", name, first, num_steps, mesh, progress))
        stack.callback(checkpoints.close)
        stop = stack.enter_context(stop_on_signals())
        profiler = stack.enter_context(Profiler(workdir / "profile", profile, first))
        beside = Beside(name, beside_share, log.events)

        # ---- compile
        if ahead is not None:
            kinds = getattr(batches, "kinds", ())
            expected = batches_to_come(ahead, kinds, num_steps - first, mesh)
            with log.spend("compile"):
                rate, averaged = optimizer.learning_rate(first), averaged_params(state)
                tasks = [step_fn.lower(state, each, encoders, rate, key) for each in expected]
                others = []
                if streams:
                    with beside.forgiving(HELD_OUT, first):
                        others += held_out.lower(averaged, encoders, ahead)
                if sample_every:
                    with beside.forgiving(PREVIEW, first):
                        others += previews.lower(averaged, encoders)
                compile_together(tasks, others)
            log.are_compiled(expected)

        # ---- train
        stopping = 0
        for done in range(first, num_steps + 1):
            last, fresh = done == num_steps, done > first  # whether a step came before

            # ---- evaluate
            due = eval_every and (last or (fresh and done % eval_every == 0)) and not stopping
            if due and streams and (last or beside.has_time_for(HELD_OUT)):
                with log.spend("step"):
                    jax.block_until_ready(state)
                finished.pop("validation_loss", None)
                with log.spend("evaluation"), beside.keeping_on(HELD_OUT, done, together=True):
                    found = held_out.measure(averaged_params(state), encoders)
                    finished["validation_loss"] = found
                    log.write_validation(done, found)
            due = sample_every and fresh and (last or done % sample_every == 0) and not stopping
            if due and previews and (last or beside.has_time_for(PREVIEW)):
                with log.spend("step"):
                    jax.block_until_ready(state)
                with log.spend("evaluation"), beside.keeping_on(PREVIEW, done):
                    previews.write(averaged_params(state), encoders, done, log.events)

            # ---- save
            if fresh and (last or stopping or done % checkpoint_every == 0):
                with log.spend("step"):
                    bad_steps.check()  # waits for the step
                with log.spend("checkpoint"):
                    save = checkpoints.save_now if last or stopping else checkpoints.save
                    save(done, state, place())
            if stopping:
                kind = Preempted if stopping == signal.SIGTERM else Stopped
                raise kind(f"{name}: stopped and saved at step {done} of {num_steps}")
            if last:
                break

            # ---- step
            with log.spend("data"):
                host_batch, ahead = next(batches) if ahead is None else ahead, None
                batch = put_batch(host_batch, mesh)
            with log.spend_step(batch), profiler.step(done, state):
                flops.add(state.params, encoders, batch)
                with jax.set_mesh(mesh):  # for kernels that run on each device's own shard
                    rate = optimizer.learning_rate(done)
                    state, metrics = step_fn(state, batch, encoders, rate, key)
                bad_steps.add(done + 1, metrics, host_batch)
            with log.spend("step"):
                stopping = stop.agreed(done + 1)

            # ---- log
            log.add(metrics, batch)
            if (done + 1) % log_every == 0 or done + 1 == num_steps:
                with log.spend("step"):
                    bad_steps.check()
                    replaced = over_processes(getattr(batches, "replaced", 0))
                log.write(done + 1, bad_steps.total, flops.total, replaced)

        # ---- the finished model
        finish = objective.finish if not init_from else None
        _finish(workdir, finish, objective.save, module, state, batches, finished)
    return workdir / "model"


def is_finished(workdir: Path, num_steps: int) -> bool:
    """Whether the folder holds the model of a finished run of that many steps."""
    try:
        finished = read_json(workdir / FINISHED) or {}
    except UserError:  # a damaged file: the run ends, and writes it, once more
        return False
    return finished.get("steps") == num_steps and (workdir / "model" / "config.json").exists()


def _restore(
    name: str,
    workdir: Path,
    checkpoints: Checkpoints,
    template: TrainState,
    batches: Iterator[Batch],
    num_steps: int,
) -> TrainState | None:
    """Restores the newest checkpoint, and puts the stream at its place; None if there is none."""
    restored = checkpoints.restore(template)
    if restored is None:
        return None
    state, place = restored
    begun = place.pop(PART, None)
    if int(state.step) > num_steps:
        raise UserError(
            f"{name}: {workdir} holds a checkpoint of step {int(state.step)}, beyond "
            f"num_steps={num_steps}; accepted: a num_steps at least as large, or a new --workdir"
        )
    try:
        batches.set_state(place)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the run cannot continue at its place in the data, because the config's data "
            f"are not those that it was begun with ({error}); accepted: those, or a new --workdir"
        ) from error
    if begun != name and is_lead():
        whose = "all parts of a run" if begun is None else f"a part named {begun}"
        tqdm.write(
            f"{name}: began with the order of data and the noise of {whose}; goes on with its own"
        )
    return state


def _prepare(
    state: TrainState,
    objective: Objective,
    encoder_params: EncoderParams,
    batches: Iterator[Batch],
    new: frozenset[str],
) -> TrainState:
    """Prepares the parameters that the objective names; the stream goes back to its place.

    Args:
      state: the state of step 0.
      objective: prepares the parameters.
      encoder_params: parameters of the frozen encoders.
      batches: the stream.
      new: "/"-paths of the parameters that may be prepared. Others came with `init_from`, and keep
        their values.
    """
    prepared = new.intersection(objective.prepares)
    if not prepared:
        return state
    place = batches.get_state()
    before = to_host(state.params)
    after = objective.prepare(before, encoder_params, (batch.widened() for batch in batches))
    batches.set_state(place)
    flat = traverse_util.flatten_dict(after, sep="/")
    after = traverse_util.unflatten_dict({path: flat[path] for path in prepared}, sep="/")
    return replace_params(state, join_params(before, after))


def _write_records(workdir: Path, records: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Writes JSON files by their names, without those that are None."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        if is_lead() and record is not None:
            write_json(workdir / name, record)


def _finish(
    workdir: Path,
    finish: Callable[[nn.Module, Any, Iterator[Batch]], nn.Module] | None,
    save: Callable[[Path, nn.Module, Any], None],
    module: nn.Module,
    state: TrainState,
    batches: Iterator[Batch],
    finished: Mapping[str, Any],
) -> None:
    """Writes the moving average as the model, and then what the run came to."""
    average = to_host(averaged_params(state))
    if finish:
        module = finish(module, average, (batch.widened() for batch in batches))
    if is_lead():
        save(workdir / "model", module, average)
        write_json(workdir / FINISHED, finished)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("finished")
