"""Where Beam pipelines run: on this machine, in this process or several, or on any other runner."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from typing import Any

from gen1_jax.errors import UserError

DIRECT = "DirectRunner"
STOPPED = "stopped; the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class Runner:
    """A Beam runner.

    Attributes:
        name: as Beam knows it; `DirectRunner` is this machine.
        workers: processes, on this machine; 1 works in this one.
        options: of other runners and of pipelines, as on a command line: `--project=mine`.
    """

    name: str = DIRECT
    workers: int = 1
    options: tuple[str, ...] = ()

    def check(self) -> None:
        """UserError where Beam knows no such runner, or it is not installed."""
        with _quiet(True):
            self._make(1)

    @contextlib.contextmanager
    def pipeline(self, most: int) -> Iterator[Any]:
        """A pipeline, which runs to its end when the block is left.

        Args:
            most: processes that would find something to do; starting one takes seconds.

        Raises:
            UserError: what a worker raised as such; or an unknown runner or option.
        """
        with _quiet(self.name == DIRECT):
            pipeline = self._make(max(1, min(most, self.workers)))
            yield pipeline
            try:
                pipeline.run().wait_until_finish()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(STOPPED) from None
            except UserError as error:
                raise UserError(_without_step(str(error))) from error
            except Exception as error:
                if str(error).startswith("KeyboardInterrupt"):  # Beam makes an error of it
                    raise KeyboardInterrupt(STOPPED) from None
                # across processes the text is all that comes back
                found = re.findall(r"(?:UserError|WritingFailed): (.*)", str(error))
                if found:
                    raise UserError(_without_step(found[-1])) from error
                raise

    def _make(self, workers: int) -> Any:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        if self.name != DIRECT:
            try:
                return beam.Pipeline(runner=self.name, options=PipelineOptions(list(self.options)))
            except (ValueError, ImportError, RuntimeError) as error:
                raise UserError(f"--runner {self.name}: {error}") from error
        # Beam's own name for it first tries one that downloads a program.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
        from apache_beam.transforms.environments import SubprocessSDKEnvironment

        environment = None
        if workers > 1:
            # Their log is noise, and all that fails comes back. A log on a full disk stalls them.
            # Ctrl-C is this process's to hear; workers end with it.
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
    """UserError where the extra is not installed."""
    try:
        with _quiet(True):
            import apache_beam  # noqa: F401
            import scenedetect  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ingest needs {error.name}, which is not installed: pip install -e '.[beam]'"
        ) from error


def _without_step(text: str) -> str:
    return re.sub(r" \[while running '.*", "", text, flags=re.DOTALL)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Beam's and its workers' notes off; what fails is raised."""
    before, hook = logging.root.manager.disable, threading.excepthook
    if quiet:
        logging.disable(logging.CRITICAL)
        # Beam's own threads, which lament that workers end; ours raise where they are waited for.
        threading.excepthook = lambda args: None
    stopped = False
    try:
        yield
    except KeyboardInterrupt:
        stopped = True  # they go on lamenting to the end
        raise
    finally:
        logging.disable(before)
        if not stopped:
            threading.excepthook = hook
