"""The reports of a run: its bar and TensorBoard log, where the time goes, FLOPs, a profile."""

import contextlib
import importlib.util
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from gen1_jax.batch import Batch
from gen1_jax.distributed import is_lead
from gen1_jax.errors import one_line
from gen1_jax.files import is_remote
from gen1_jax.flops import count_training_flops
from gen1_jax.hardware import find_chip
from gen1_jax.training.ahead import shape_of

if TYPE_CHECKING:  # tensorboardX imports torch where there is one, which takes seconds
    from tensorboardX import SummaryWriter

_COPY_SECONDS = 60  # between two copies of a log to its store
Metrics = Mapping[str, jax.Array]  # a step's scalars, by name


class TimeAccount:
    """Seconds by name since the last report; time in no `spend` block is "other"."""

    def __init__(self):
        self._recent: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def spend(self, name: str) -> Iterator[None]:
        """Counts the block's seconds under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._recent[name] += time.perf_counter() - start

    def report(self) -> dict[str, float]:
        """Returns the seconds by name since the last report, "total" included."""
        now = time.perf_counter()
        recent, self._recent = dict(self._recent), defaultdict(float)
        total, self._since = now - self._since, now
        recent["other"] = max(0.0, total - sum(recent.values()))
        return recent | {"total": total}


class FlopCounter:
    """Counts the model FLOPs of the steps, forward and backward.

    Args:
      loss: the loss.
      trained: for each parameter, whether it is trained; True: all are.

    Attributes:
      total: FLOPs since the start.
    """

    def __init__(self, loss: Callable, trained: Any = True):
        self._loss, self._trained = loss, trained
        self._known: dict[str, int] = {}
        self.total = 0

    def add(self, params: Any, encoder_params: Any, batch: Batch) -> None:
        """Counts a step."""
        shape = str(jax.tree.map(jnp.shape, batch))
        if shape not in self._known:
            arguments = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, encoder_params, batch)
            )
            key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
            self._known[shape] = count_training_flops(self._loss, self._trained, *arguments, key)
        self.total += self._known[shape]


class Interval:
    """Counts examples, steps and FLOPs since the last report."""

    def __init__(self, step: int):
        self.examples, self._step, self._flops = 0, step, 0

    def report(self, step: int, account: TimeAccount, flops: int, mesh: Mesh) -> dict[str, float]:
        """Returns steps, examples and TFLOPs per second, MFU, and seconds by name.

        The MFU is left out on unknown chips.
        """
        seconds = account.report()
        total = seconds.pop("total")
        values = {
            "steps_per_second": (step - self._step) / total,
            "examples_per_second": self.examples / total,
            **{f"time/{name}": value for name, value in seconds.items()},
        }
        if rate := (flops - self._flops) / total:
            values["model_teraflops_per_second"] = rate / 1e12
            if chip := find_chip(mesh.devices.flat[0].device_kind):
                values["mfu"] = rate / (chip.flops * mesh.size)
        self.examples, self._step, self._flops = 0, step, flops
        return values


class RunLog(contextlib.AbstractContextManager):
    """The bar and the TensorBoard log of a run; process 0 alone shows and writes them.

    Attributes:
      events: the TensorBoard log.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        first: int,
        num_steps: int,
        mesh: Mesh,
        progress: bool,
    ):
        lead = is_lead()
        self.events = EventLog(folder, first, write=lead)
        self._bar = tqdm(
            total=num_steps,
            initial=first,
            desc=f"train {name:<12}",
            unit="step",
            disable=not (progress and lead),
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._time, self._interval, self._mesh = TimeAccount(), Interval(first), mesh
        self._compiled: set[str] = set()
        self._shown: dict[str, float] = {}
        self._steps: list[tuple[str, Metrics]] = []

    def spend(self, name: str) -> contextlib.AbstractContextManager:
        """Counts the block's seconds under `name`."""
        return self._time.spend(name)

    def are_compiled(self, batches: Iterable[Batch]) -> None:
        """Notes that steps of these shapes are compiled already."""
        self._compiled.update(map(shape_of, batches))

    def spend_step(self, batch: Batch) -> contextlib.AbstractContextManager:
        """Counts the block as a step, or as compilation if no batch had this shape before."""
        shape = shape_of(batch)
        new = shape not in self._compiled
        self._compiled.add(shape)
        return self.spend("compile" if new else "step")

    def add(self, metrics: Metrics, batch: Batch) -> None:
        """Counts a step; its metrics stay on the devices until they are written."""
        self._bar.update()
        self._interval.examples += batch.size
        self._steps.append(("image" if batch.num_frames == 1 else "video", metrics))

    def write(self, step: int, bad_steps: int, flops: int, replaced: int = 0) -> None:
        """Writes the means of the steps since the last time; waits for the newest step.

        Args:
          step: the number of steps done.
          bad_steps: bad steps since the start.
          flops: model FLOPs since the start.
          replaced: examples since this process's start that stood in the place of damaged records.
        """
        with self.spend("step"):
            values = mean_metrics(jax.device_get(self._steps))
        self._steps.clear()
        values |= {"bad_steps": bad_steps, "replaced_records": replaced}
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        for name, value in self._interval.report(step, self._time, flops, self._mesh).items():
            self.events.add_scalar(name, value, step)
        hidden = {"gradient_norm"} | {n for n in ("bad_steps", "replaced_records") if not values[n]}
        self._show({k: v for k, v in values.items() if k not in hidden})

    def write_validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Writes the held-out loss of each kind of batch."""
        for kind, loss in losses.items():
            self.events.add_scalar(f"validation_loss/{kind}", loss, step)
        self._show({f"validation_loss/{kind}": loss for kind, loss in losses.items()})

    def _show(self, values: Mapping[str, float]) -> None:
        """Shows these values on the bar, beside the others that it showed last."""
        self._shown |= values
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in self._shown.items()})

    def __exit__(self, *raised: Any) -> None:
        self._bar.close()
        self.events.__exit__(*raised)


def mean_metrics(steps: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """Returns the means of the steps' metrics; the loss is averaged for each kind of batch apart.

    Skipped steps, whose loss or gradient is not finite, do not count unless there are no others.

    Args:
      steps: the kind of batch and the metrics of each step.

    Returns:
      "loss/image" and "loss/video" where there are such steps, and the other metrics by name.
    """
    good = [(kind, metrics) for kind, metrics in steps if metrics["bad_steps"] == 0] or steps
    values: dict[str, list[float]] = defaultdict(list)
    for kind, metrics in good:
        for name, value in metrics.items():
            values[f"loss/{kind}" if name == "loss" else name].append(float(value))
    del values["bad_steps"]  # a count
    return {name: sum(each) / len(each) for name, each in values.items()}


def how_to_watch(logs: Path) -> str:
    """Returns the command that shows the logs below a folder, and how to install it if need be."""
    installed = importlib.util.find_spec("tensorboard") is not None
    return f"tensorboard --logdir {logs}" + ("" if installed else " (pip install tensorboard)")


class Profiler(contextlib.AbstractContextManager):
    """Writes a trace of `count` steps, from the third step on, because the first two compile."""

    def __init__(self, folder: Path, count: int, first: int):
        self._folder, self._begin, self._end = folder, first + 2, first + 2 + count
        self._on, self._wanted = False, count > 0
        self._local: tempfile.TemporaryDirectory | None = None  # where the folder is on a store

    def step(self, step: int, state: Any) -> contextlib.AbstractContextManager:
        """Returns the context of a step, which is entered with the state before the step."""
        if self._wanted and step == self._begin:
            options = jax.profiler.ProfileOptions()
            # The tracer of Python calls reads the states of all threads, and crashes the process
            # if a thread ends meanwhile; threads that read data or save checkpoints end.
            options.python_tracer_level = 0
            if is_remote(self._folder):
                self._local = tempfile.TemporaryDirectory(prefix="gen1-")
            place = self._local.name if self._local else str(self._folder)
            jax.profiler.start_trace(place, profiler_options=options)
            self._on = True
        elif self._on and step == self._end:
            jax.block_until_ready(state)  # the trace includes the end of the last step
            self._stop()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        if self._local:
            from gen1_jax.stores import upload_folder

            with self._local as local:
                upload_folder(Path(local), self._folder)
        self._on = self._wanted = False
        tqdm.write(f"profile: {self._folder}, for TensorBoard or xprof")

    def __exit__(self, *raised: Any) -> None:
        if self._on:
            self._stop()
        elif self._wanted:
            tqdm.write(
                "profile: nothing was traced, because tracing begins with the third step of a run"
            )


class EventLog(contextlib.AbstractContextManager):
    """The TensorBoard log of a run; a log that cannot be written is reported and costs no step.

    tensorboardX writes in a thread that ends with its first error (a full disk), and a caller that
    goes on adding would wait forever. The log therefore checks the thread, and begins a new file if
    the thread has ended.

    Args:
      folder: the folder of the log. For one on a store, the log is written to the local disk, and
        put to the store once a minute and at the end.
      first: the step that training starts from; entries after it are purged.
      write: whether to write; one process of a job does.
    """

    def __init__(self, folder: Path, first: int, write: bool = True):
        self._folder, self._write, self._files = folder, write, 0
        self._copied, self._local = time.monotonic(), None
        if write and is_remote(folder):
            self._local = tempfile.TemporaryDirectory(prefix="gen1-")
        self._writer = self._open(purge_step=first + 1 if first else None)

    def _open(self, **options: Any) -> "SummaryWriter | None":
        if not self._write:
            return None
        from tensorboardX import SummaryWriter

        self._files += 1  # files made within one second would have the same name
        options |= {"max_queue": 100, "filename_suffix": f".{self._files}"}
        try:
            place = self._local.name if self._local else str(self._folder)
            return SummaryWriter(place, **options)
        except OSError as error:
            self._report(one_line(error))
            return None

    def _report(self, why: str) -> None:
        warnings.warn(f"cannot write the log {self._folder}: {why}; training goes on", stacklevel=4)

    def _living(self) -> "SummaryWriter | None":
        """Returns a writer whose thread runs, a new one if need be; None if there can be none."""
        if self._writer is not None:
            events = self._writer.file_writer.event_writer
            if events._worker.is_alive():
                return self._writer
            events._event_queue.cancel_join_thread()  # nothing reads the rest of the queue
            self._report("the thread that does has failed")
        self._writer = self._open()
        return self._writer

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number."""
        if (writer := self._living()) is not None:
            writer.add_scalar(name, value, step)
            if self._local and time.monotonic() - self._copied > _COPY_SECONDS:
                writer.flush()
                self._copy()

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds a picture [h w c] uint8."""
        if (writer := self._living()) is not None:
            writer.add_image(name, image, step, dataformats="HWC")

    def __exit__(self, *raised: Any) -> None:
        try:
            if (writer := self._living()) is not None:
                writer.close()
        except OSError as error:
            self._report(one_line(error))
        if self._local:
            self._copy()
            self._local.cleanup()

    def _copy(self) -> None:
        """Puts the log to its store."""
        from gen1_jax.stores import upload_folder

        self._copied = time.monotonic()
        try:
            upload_folder(Path(self._local.name), self._folder)
        except OSError as error:
            self._report(one_line(error))
