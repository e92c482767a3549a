"""Steps whose loss or gradient is not finite: they are skipped and counted."""

from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from gen1_jax.batch import Batch
from gen1_jax.errors import UserError
from gen1_jax.files import replacing
from gen1_jax.training.telemetry import Metrics

MAX_BAD_STEPS = 5  # in a row


class BadSteps:
    """Counts the steps that were skipped because loss or gradient is not finite.

    A step is checked when the next step is under way, so that the accelerator always has work.

    Attributes:
      total: the bad steps so far.
    """

    def __init__(self, name: str, workdir: Path):
        self._name, self._workdir = name, workdir
        self._waiting: tuple[int, Metrics, Batch] | None = None
        self.total = 0

    def add(self, step: int, metrics: Metrics, batch: Batch) -> None:
        """Checks the step before this one, and keeps this one (its batch is the host's)."""
        self.check()
        self._waiting = (step, metrics, batch)

    def check(self) -> None:
        """Waits for the newest step, and counts it if it is bad.

        Raises:
          UserError: the step is the last of several bad steps in a row; its batch is saved.
        """
        if self._waiting is None:
            return
        (step, metrics, batch), self._waiting = self._waiting, None
        count = int(metrics["bad_steps"])
        if count == 0:
            return
        self.total += 1
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        what = f"at step {step} the loss is {loss}, its gradient {norm}"
        if count < MAX_BAD_STEPS:
            tqdm.write(f"{self._name}: {what}: skipped ({count} in a row)")
            return
        path = self._workdir / f"bad_batch_{step}_{jax.process_index()}.npz"
        with replacing(path) as part:
            np.savez(part, **batch.fields())
        if jax.process_count() > 1:  # the first process to end would end the others
            multihost_utils.sync_global_devices("bad batch")
        raise UserError(
            f"{self._name}: {what}, the {count}th in a row; its batch is in {path}. Lower the "
            "learning rate, or look at the data"
        )
