"""What an edit says of itself while it runs: the stage that it is in, and how far it is.

Listeners are functions of an `Event`; `gen1_jax.commands.progress` has a bar and JSON lines.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gen1_jax.video.streams import Stream


class Event(NamedTuple):
    """How far a stage is.

    Attributes:
      stage: its name, such as "sampling".
      done: parts that are done.
      total: parts of the stage.
      seconds: time since the stage began.
    """

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def left(self) -> float | None:
        """Seconds that the stage still takes, at its pace so far; None before its first part."""
        return self.seconds / self.done * (self.total - self.done) if self.done else None


class Stages:
    """Tells listeners, and keeps how long each stage took.

    Attributes:
      seconds: stage → seconds that it took, in all.
    """

    def __init__(self, *listeners: Callable[[Event], None]):
        self._listeners, self.seconds = listeners, {}

    @contextlib.contextmanager
    def __call__(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yields `advance(number)` for a stage of `total` parts."""
        started, done = time.perf_counter(), 0

        def tell(number: int) -> None:
            nonlocal done
            done += number
            event = Event(name, done, total, time.perf_counter() - started)
            for listener in self._listeners:
                listener(event)

        tell(0)
        try:
            yield tell
        finally:
            taken = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def watch(self, name: str, stream: Stream) -> Stream:
        """Returns a stream that is a stage of its own whenever it is gone through."""

        def make() -> Iterator:
            with self(name, stream.count) as advance:
                for each in stream:
                    yield each
                    advance(1)

        return Stream(stream.count, make)
