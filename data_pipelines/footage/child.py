"""A process that decodes films and images for an ingest, one after another: see `isolation`.

python -m gen1_jax.data_pipelines.footage.child FD MEMORY SECONDS FRAMES
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from gen1_jax.data_pipelines.footage import making
from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.messages import receive, send, send_made
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.errors import one_line
from gen1_jax.video.sources import Unreadable

_IDLE = 60.0  # seconds without work after which the process ends
_SIGN = 2.0  # seconds between signs of life


class _Watch:
    """Is called at every sign of progress; puts off the end by the limit of time."""

    def __init__(self, connection: Connection, seconds: int, frames: int):
        self._connection, self._seconds, self._frames = connection, seconds, frames
        self._count, self._signed = 0, time.monotonic()
        self._put_off()

    def __call__(self) -> None:
        self._count += 1
        if self._count > self._frames:
            raise Unreadable("too many frames", f"more than {self._frames:,} pictures")
        if time.monotonic() - self._signed >= _SIGN:
            self._signed = time.monotonic()
            send(self._connection, {"is": "alive"})
            self._put_off()

    def _put_off(self) -> None:
        """Lets the kernel end this process (SIGXCPU) once so much more time of a core is used."""
        end = math.ceil(time.process_time()) + self._seconds
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        with contextlib.suppress(ValueError):  # the machine's own limit is lower
            resource.setrlimit(resource.RLIMIT_CPU, (end, hard))


def serve(connection: Connection, seconds: int, frames: int) -> None:
    """Answers requests until there are no more."""
    with contextlib.suppress(EOFError, OSError):  # the ingest has ended
        send(connection, {"is": "ready"})
        while connection.poll(_IDLE):
            request, parts = receive(connection)
            watch = _Watch(connection, seconds, frames)
            outcome = Outcome(request["name"])
            answer: dict[str, Any] = {"is": "done"}
            try:
                _make(request, parts, outcome, watch, connection)
            except OSError as error:
                if isinstance(error, BrokenPipeError):
                    return
                answer = _refusal("damaged", error)
            except Unreadable as error:
                answer = {"is": "refused", "reason": error.reason, "text": str(error)}
            except MemoryError as error:
                answer = _refusal("too much memory", error)
            except Exception as error:  # a decoder raises whatever a damaged file leads it to
                answer = _refusal("damaged", error)
            send(connection, answer | {"dropped": outcome.dropped, "note": outcome.note})


def _make(
    request: dict[str, Any],
    parts: list[bytes],
    outcome: Outcome,
    watch: _Watch,
    connection: Connection,
) -> None:
    caption, settings = request["caption"], request["settings"]
    if request["is"] == "clips":
        settings = ClipSettings(**{**settings, "size": tuple(settings["size"])})
        for made in making.make_clips(Path(request["path"]), settings, caption, outcome, watch):
            send_made(connection, made)
            outcome.kept += 1
    else:
        buckets = tuple(map(tuple, settings["buckets"]))
        settings = ImageSettings(**{**settings, "buckets": buckets})
        send_made(connection, making.make_image(parts[0], settings, caption, outcome.path))


def _refusal(reason: str, error: Exception) -> dict[str, Any]:
    text = f"{type(error).__name__}: {one_line(error)}"
    return {"is": "refused", "reason": reason, "text": text}


def limit_memory(most: int) -> None:
    """Refuses this process more than so many bytes beyond those that it has."""
    own = psutil.Process().memory_info().vms
    with contextlib.suppress(ValueError):  # the machine's own limit is lower
        resource.setrlimit(resource.RLIMIT_AS, (own + most, own + most))


def main(arguments: list[str]) -> None:
    descriptor, memory, seconds, frames = map(int, arguments)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # they are for the ingest, whose end ends this
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import cv2
    import scenedetect.detectors  # noqa: F401  (before memory is limited)

    cv2.setNumThreads(1)  # as many processes as cores are at work
    limit_memory(memory)
    serve(Connection(descriptor), seconds, frames)


if __name__ == "__main__":
    main(sys.argv[1:])
