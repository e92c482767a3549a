"""Stopping on signals: a run that a user or a cluster ends is saved first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from gen1_jax.errors import EXIT_TRY_AGAIN

STEPS_TO_AGREE = 10  # steps between two questions to the other processes


class Stopped(KeyboardInterrupt):
    """Ctrl-C ended the run; it was saved and can be resumed."""


class Preempted(Stopped):
    """SIGTERM ended the run; clusters send it before they take a machine away."""

    exit_code = EXIT_TRY_AGAIN


# jax's `reached_preemption_sync_point`, which orbax uses too, cannot replace this class: it knows
# neither Ctrl-C nor a single process, and with jaxlib 0.10.1 on CPU a SIGTERM kills the process.
class StopRequest:
    """A request to stop after the current step.

    Attributes:
      received: the number of the signal that this process received; 0 if it received none.
    """

    def __init__(self):
        self.received = 0

    def agreed(self, step: int) -> int:
        """Returns the signal that all processes stop for after `step`, or 0 to go on.

        Several processes exchange their signals every `STEPS_TO_AGREE` steps. A signal that arrives
        during an exchange counts at the next exchange.
        """
        if jax.process_count() == 1:
            return self.received
        if step % STEPS_TO_AGREE:
            return 0
        return int(multihost_utils.process_allgather(np.int32(self.received)).max())


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yields a request that Ctrl-C and SIGTERM set; a second signal stops at once.

    Threads other than the main thread cannot handle signals: there the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number, frame):
        if request.received:
            raise KeyboardInterrupt
        request.received = number

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
