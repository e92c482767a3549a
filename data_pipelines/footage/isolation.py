"""Decodes films and images in processes of their own, so that a bad file costs that file alone.

A decoder that crashes, hangs or asks for too much memory ends its process, never the ingest; the
next file gets a new one. Otherwise a process serves one file after another, because starting one
takes about half a second.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.making import Made
from gen1_jax.data_pipelines.footage.messages import receive, send, to_made
from gen1_jax.data_pipelines.footage.outcomes import REASONS, Outcome
from gen1_jax.errors import WritingFailed, one_line
from gen1_jax.video.sources import Unreadable

_NO_START = "a process that decodes cannot start"
_MOST_FILES = 5000  # that a process serves, in case a library leaks memory
# glibc gives pictures' memory back to the system, to ask for it anew; keeping it saves a quarter of
# the time of an image.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**27)}
# Without -P, Python would import a stranger's files from the folder that it is started in.
_PROGRAM = (sys.executable, "-P", "-m", "gen1_jax.data_pipelines.footage.child")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What decoding a file may take.

    Attributes:
      seconds: of a core, without a picture.
      silence: seconds of waiting without a sign of life, as of a disk that does not answer.
      memory: bytes beyond those of a process that has read nothing.
      frames: pictures of a film. Those beyond are left out.
    """

    seconds: int = 60
    silence: float = 900
    memory: int = 4 * 2**30
    frames: int = 2_000_000


class _Ended(Exception):
    """A process ended before its answer was complete; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class _Child:
    """A process that decodes, and is ready to.

    Raises:
      WritingFailed: it cannot start, which is no file's fault; the ingest ends.
    """

    def __init__(self, limits: Limits, program: Sequence[str]):
        self._limits, self.served = limits, 0
        self._connection, theirs = Pipe()
        with theirs:
            numbers = (theirs.fileno(), limits.memory, limits.seconds, limits.frames)
            try:
                self._process = subprocess.Popen(
                    [*program, *map(str, numbers)],
                    pass_fds=[theirs.fileno()],
                    env={**_KEEP_MEMORY, **os.environ},
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:
                raise WritingFailed(f"{_NO_START}: {one_line(error)}") from error
        try:
            if not self._connection.poll(limits.silence):
                raise EOFError
            receive(self._connection)  # it is ready
        except (EOFError, OSError) as error:
            self._process.kill()
            code = self._process.wait()
            raise WritingFailed(f"{_NO_START}: it ended with {code}") from error

    def ask(self, header: dict[str, Any], parts: Sequence[bytes]) -> Iterator[tuple]:
        """Yields the parts of the answer, the last one included.

        Raises:
          _Ended: there will be none, or no more.
        """
        try:
            send(self._connection, header, parts)
            while True:
                if not self._connection.poll(self._limits.silence):
                    raise _Ended("took too long", f"no sign for {self._limits.silence:g} s")
                message = receive(self._connection)
                if message[0]["is"] != "alive":
                    yield message
                if message[0]["is"] in ("done", "refused"):
                    self.served += 1
                    return
        except (EOFError, OSError):
            code = self._process.wait()
            if code == -signal.SIGXCPU:
                text = f"no picture in {self._limits.seconds} s of a core"
                raise _Ended("took too long", text) from None
            if -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the ingest is ended too
                raise KeyboardInterrupt from None
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise _Ended("crashed", name) from None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


class Children:
    """A pool of processes that decode, as many as are asked at a time.

    Args:
      limits: what a file may take.
      program: command of a process.
    """

    def __init__(self, limits: Limits | None = None, program: Sequence[str] = _PROGRAM):
        self._limits, self._program = limits or Limits(), program
        self._idle: list[_Child] = []
        self._lock = threading.Lock()

    def clips(
        self, path: Path, settings: ClipSettings, caption: str, outcome: Outcome
    ) -> Iterator[Made]:
        """Yields the clips of a film; see `making.make_clips`.

        Raises:
          Unreadable: the film cannot be read, or its decoder had to be ended. Clips that came
            before are whole.
        """
        yield from self._made("clips", settings, caption, outcome, {"path": str(path)}, ())

    def image(self, data: bytes, settings: ImageSettings, caption: str, outcome: Outcome) -> Made:
        """Returns the record of an image; see `making.make_image`.

        Raises:
          Unreadable: the image is not wanted, or its decoder had to be ended.
        """
        (made,) = self._made("image", settings, caption, outcome, {}, [data])
        return made

    def close(self) -> None:
        """Ends the processes that are idle."""
        with self._lock:
            children, self._idle = self._idle, []
        for child in children:
            child.end()

    def _made(
        self,
        kind: str,
        settings: ClipSettings | ImageSettings,
        caption: str,
        outcome: Outcome,
        more: dict[str, Any],
        parts: Sequence[bytes],
    ) -> Iterator[Made]:
        request = {"is": kind, "name": outcome.path, "caption": caption, **more}
        request["settings"] = dataclasses.asdict(settings)
        last: dict[str, Any] = {}
        for last, body in self._ask(request, parts):
            if last["is"] == "made":
                yield to_made(last, body)
        outcome.dropped.update({name: n for name, n in last["dropped"].items() if name in REASONS})
        outcome.note = outcome.note or last["note"]
        if last["is"] == "refused":
            raise Unreadable(last["reason"], last["text"])

    def _ask(self, request: dict[str, Any], parts: Sequence[bytes]) -> Iterator[tuple]:
        """Yields a child's answer; a file is given up only if a fresh child fails at it."""
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            child = child or _Child(self._limits, self._program)
            given, was_fresh, is_whole = 0, child.served == 0, False
            try:
                for header, body in child.ask(request, parts):
                    lacks = header.get("reason") == "too much memory"
                    if lacks and not was_fresh and not given:  # others may have left too little
                        break
                    is_whole = header["is"] in ("done", "refused")
                    given += 1
                    yield header, body
                else:
                    return
            except _Ended as error:
                is_whole = False
                if was_fresh or given or error.reason == "took too long":
                    raise Unreadable(error.reason, f"{request['name']}: {error}") from error
            finally:
                if is_whole and child.served < _MOST_FILES:
                    with self._lock:
                        self._idle.append(child)
                else:
                    child.end()


@functools.cache
def _children(process: int) -> Children:
    children = Children()
    atexit.register(children.close)
    return children


def make_clips(
    path: Path, settings: ClipSettings, caption: str, outcome: Outcome
) -> Iterator[Made]:
    """Yields the clips of a film; see `Children.clips`."""
    return _children(os.getpid()).clips(path, settings, caption, outcome)


def make_image(data: bytes, settings: ImageSettings, caption: str, outcome: Outcome) -> Made:
    """Returns the record of an image; see `Children.image`."""
    return _children(os.getpid()).image(data, settings, caption, outcome)
