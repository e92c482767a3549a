"""What a run does beside its steps: previews and held-out losses.

They may take a small share of the time, and may not end the run.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from gen1_jax.distributed import all_meet, is_lead
from gen1_jax.errors import TryAgain, UserError, one_line
from gen1_jax.training.telemetry import EventLog

_SECONDS_TO_MEET = 60  # for the other processes to meet the same error


class Beside:
    """Keeps what is done beside the steps within a share of the time, and its errors to itself.

    Args:
      name: the part's name, for messages.
      share: the largest share of the time since the start of this process; 1 is no limit.
      events: the log, which gets the number of errors.
    """

    def __init__(self, name: str, share: float, events: EventLog):
        self._name, self._share, self._events = name, share, events
        self._started, self._spent = time.perf_counter(), 0.0
        self._last: dict[str, float] = {}
        self._errors: Counter[str] = Counter()
        self._left_out: set[str] = set()

    def has_time_for(self, what: str) -> bool:
        """Returns whether there is time, the same on every process: process 0 decides.

        The first time there is, because nobody knows yet how long it takes.
        """
        if self._share >= 1:
            return True
        elapsed = time.perf_counter() - self._started
        expected = self._spent + self._last.get(what, 0.0)
        has_time = what not in self._last or expected <= self._share * elapsed
        if jax.process_count() > 1:
            has_time = bool(multihost_utils.broadcast_one_to_all(np.bool_(has_time)))
        if not has_time and what not in self._left_out and is_lead():
            self._left_out.add(what)
            tqdm.write(
                f"{self._name}: the {what} takes {self._last[what]:.3g} s: it is made less often, "
                f"so that the steps keep {1 - self._share:.0%} of the time (beside_share)"
            )
        return has_time

    @contextlib.contextmanager
    def keeping_on(self, what: str, step: int, together: bool = False) -> Iterator[None]:
        """Counts the block's seconds. An error in it is counted, and reported the first time.

        Args:
          what: what is made.
          step: the number of steps done.
          together: whether the processes compute the block together. An error of one of them alone
            then ends the run, because the others wait for it inside the block.

        Raises:
          TryAgain: other processes did not meet an error.
        """
        started = time.perf_counter()
        with self.forgiving(what, step, together):
            yield
        self._last[what] = time.perf_counter() - started
        self._spent += self._last[what]

    @contextlib.contextmanager
    def forgiving(self, what: str, step: int, together: bool = False) -> Iterator[None]:
        """Counts an error in the block, and reports it the first time; see `keeping_on`."""
        try:
            yield
        except Exception as error:
            # All processes raise a UserError together (HeldOutLoss.measure).
            if together and not isinstance(error, UserError) and not all_meet(_SECONDS_TO_MEET):
                raise TryAgain(
                    f"{self._name}: the {what} at step {step} failed on some processes alone: "
                    f"{one_line(error)}"
                ) from error
            self._errors[what] += 1
            if self._errors[what] == 1:
                tqdm.write(
                    f"{self._name}: no {what} at step {step}: {one_line(error)}; training goes on"
                )
            self._events.add_scalar(f"errors/{what.replace(' ', '_')}", self._errors[what], step)
