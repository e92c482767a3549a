"""The seconds that edits take, without compiling and without what several edits share."""

import contextlib
import time
from collections.abc import Iterator

import jax

_COMPILING = "/jax/core/compile/"  # the events of tracing, lowering and compiling


class Stopwatch:
    """Measures a block of code.

    Attributes:
      seconds: that the block took, but for the time in which a program was compiled or loaded, or
        which the block gave to `apart`. Known after the block.
    """

    seconds: float = float("nan")

    def __enter__(self) -> "Stopwatch":
        self._spans: list[tuple[float, float]] = []
        _running.append(self)
        jax.monitoring.register_event_time_span_listener(self._on_event)
        self._start = time.time()
        return self

    def __exit__(self, *error) -> None:
        end = time.time()
        jax.monitoring.unregister_event_time_span_listener(self._on_event)
        _running.remove(self)
        self.seconds = end - self._start - _length(self._spans, self._start, end)

    def leave_out(self, start: float, end: float) -> None:
        """Leaves a span out, from one time of `time.time()` to another; spans may overlap."""
        self._spans.append((start, end))

    def _on_event(self, event: str, start: float, end: float, **_) -> None:
        if event.startswith(_COMPILING):
            self.leave_out(start, end)


_running: list[Stopwatch] = []


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Leaves the block out of what the stopwatches that run now measure."""
    start = time.time()
    try:
        yield
    finally:
        for watch in _running:
            watch.leave_out(start, time.time())


def _length(spans: list[tuple[float, float]], start: float, end: float) -> float:
    """Returns the length of the union of spans, as far as it lies between `start` and `end`."""
    total, reached = 0.0, start
    for first, last in sorted(spans):
        first, last = max(first, reached), min(last, end)
        if last > first:
            total, reached = total + last - first, last
    return total
