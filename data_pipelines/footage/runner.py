"""Runs Beam pipelines on this machine, in one process or several, or on any other runner."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gen1_jax.errors import UserError

DIRECT, DASK = "DirectRunner", "DaskRunner"
_DASK_PARTITIONS = "--dask_(npartitions|partition_size)"
STOPPED = "stopped; give the same command again to go on from here"


@dataclasses.dataclass(frozen=True)
class Runner:
    """A Beam runner.

    Attributes:
      name: Beam's name for it; `DirectRunner` is this machine.
      workers: number of processes on this machine; with 1, this process does the work.
      options: options of other runners and of pipelines, as on a command line: `--project=mine`.
    """

    name: str = DIRECT
    workers: int = 1
    options: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError if Beam knows no such runner, or it is not installed."""
        with _quiet(True):
            self._make(1)

    @contextlib.contextmanager
    def pipeline(self, most: int) -> Iterator[Any]:
        """Yields a pipeline, which runs to its end when the block is left.

        Args:
          most: number of processes that would find something to do; starting one takes seconds.

        Raises:
          UserError: a worker raised it, or the runner or an option is unknown.
        """
        with _quiet(self.name == DIRECT):
            pipeline = self._make(max(1, min(most, self.workers)))
            yield pipeline
            try:
                result = pipeline.run()
                result.wait_until_finish()
                if self.name == DASK:
                    result.client.close()  # or each pipeline would leave a connection behind
            except KeyboardInterrupt:
                raise KeyboardInterrupt(STOPPED) from None
            except UserError as error:
                raise UserError(_without_step(str(error))) from error
            except Exception as error:
                if str(error).startswith("KeyboardInterrupt"):  # Beam makes an error of it
                    raise KeyboardInterrupt(STOPPED) from None
                # Only the text of an error comes back from another process.
                found = re.findall(r"(?:UserError|WritingFailed): (.*)", str(error))
                if found:
                    raise UserError(_without_step(found[-1])) from error
                raise

    def each(self, items: Sequence[Any], function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function on each item, on workers; the call is all that a pipeline does.

        A single process of this machine needs no pipeline, and takes the items in order.

        Args:
          items: items, which are sent to the workers.
          function: function of an item and the arguments; it leaves its result in a file, and may
            be called twice for an item.
          *arguments: further arguments of every call.

        Raises:
          UserError: a worker raised it, or the runner or an option is unknown.
        """
        if not items:
            return
        if self.name == DIRECT and min(self.workers, len(items)) == 1:
            try:
                for item in items:
                    function(item, *arguments)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(STOPPED) from None
            return
        import apache_beam as beam

        with self.pipeline(len(items)) as pipeline:
            _ = (
                pipeline
                | "Items" >> beam.Create(items)
                | "Spread" >> beam.Reshuffle()
                | function.__name__ >> beam.Map(function, *arguments)
            )

    def _make(self, workers: int) -> Any:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        if self.name != DIRECT:
            name, options = self.name, list(self.options)
            if name == DASK:
                name = "apache_beam.runners.dask.dask_runner.DaskRunner"  # Beam needs all of it
                if not any(re.match(_DASK_PARTITIONS, each) for each in options):
                    # By default, 128 items are one task: a worker would do all of a small job.
                    options.append("--dask_partition_size=1")
            try:
                return beam.Pipeline(runner=name, options=PipelineOptions(options))
            except (ValueError, ImportError, RuntimeError) as error:
                how = "; pip install 'apache-beam[dask]'" if self.name == DASK else ""
                raise UserError(f"--runner {self.name}: {error}{how}") from error
        # Given the name DirectRunner, Beam first tries a runner that downloads a program.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
        from apache_beam.transforms.environments import SubprocessSDKEnvironment

        environment = None
        if workers > 1:
            # The workers' log is discarded: their errors come back, and a log on a full disk would
            # stall them. They ignore Ctrl-C, because this process handles it and ends them.
            command = (
                f"trap '' INT; exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker"
            )
            environment = SubprocessSDKEnvironment.from_command_string(
                f"{command}.sdk_worker_main >{os.devnull} 2>&1"
            )
        options = PipelineOptions(list(self.options), direct_num_workers=workers)
        return beam.Pipeline(runner=FnApiRunner(environment), options=options)


LOCAL = Runner()


def check_beam() -> None:
    """Raises UserError if the extra `beam` is not installed."""
    try:
        with _quiet(True):
            import apache_beam  # noqa: F401
            import scenedetect  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ingest needs {error.name}, which is not installed: pip install -e '.[beam]'"
        ) from error


def _without_step(text: str) -> str:
    """Returns an error's text without Beam's note of the step in which it was raised."""
    return re.sub(r" \[while running '.*", "", text, flags=re.DOTALL)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Turns off the log of Beam and its workers; errors are raised all the same."""
    before, hook = logging.root.manager.disable, threading.excepthook
    if quiet:
        logging.disable(logging.CRITICAL)
        # Beam's own threads print a traceback when a worker ends. Errors of ours are raised anyway.
        threading.excepthook = lambda args: None
    stopped = False
    try:
        yield
    except KeyboardInterrupt:
        stopped = True  # Beam's threads would print until the process ends
        raise
    finally:
        logging.disable(before)
        if not stopped:
            threading.excepthook = hook
