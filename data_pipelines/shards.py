"""Random reads of bytes from very many files, on a disk or in an object store.

A data set of the paper's size has some 80,000 shards, which cannot all be open at once. A process
keeps the files that it read last open, and closes the others. An error of opening or reading is
tried again, because network disks have bad moments; an error that stays ends the process with
`TryAgain`, and is never taken for damage of a record.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from gen1_jax.errors import TryAgain, UserError, one_line

MOST_OPEN = 128  # files of a process; the usual limit of the system is 1,024
_PAUSES = (0.1, 0.5, 2.0, 8.0)  # seconds before each further attempt
_REMOTE = ("gs://", "s3://")

T = TypeVar("T")
Handle = TypeVar("Handle")


class Pool(Generic[Handle]):
    """Open files by name, the least recently used of which are closed.

    A file that a thread reads is not closed, so that there may be more open than `most` for a
    moment: one for each reading thread.

    Args:
      open_file: opens a file.
      close_file: closes what `open_file` returned.
      most: number of files that stay open.
    """

    def __init__(
        self,
        open_file: Callable[[str], Handle],
        close_file: Callable[[Handle], Any],
        most: int = MOST_OPEN,
    ):
        self._open, self._close, self._most = open_file, close_file, most
        self._files: OrderedDict[str, list] = OrderedDict()  # name → [handle, number of users]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    @contextlib.contextmanager
    def use(self, path: str) -> Iterator[Handle]:
        """Yields the open file, which stays open until the block is left."""
        entry = self._take(path)
        try:
            yield entry[0]
        finally:
            with self._lock:
                entry[1] -= 1
                unused = self._unused()
            for handle in unused:
                self._close(handle)

    def forget(self, path: str) -> None:
        """Closes a file that failed, so that it is opened anew when it is read again."""
        with self._lock:
            entry = self._files.get(path)
            if entry is None or entry[1]:
                return
            del self._files[path]
        self._close(entry[0])

    def _take(self, path: str) -> list:
        with self._lock:
            if entry := self._files.get(path):
                entry[1] += 1
                self._files.move_to_end(path)
                return entry
        handle = self._open(path)  # outside the lock: others read meanwhile
        with self._lock:
            entry = self._files.get(path)
            if entry is None:
                entry = self._files[path] = [handle, 0]
                handle = None
            entry[1] += 1
            self._files.move_to_end(path)
        if handle is not None:  # another thread was faster
            self._close(handle)
        return entry

    def _unused(self) -> list[Handle]:
        """Takes the files to close from the pool; the lock is held."""
        spare = len(self._files) - self._most
        names = [name for name, (_, users) in self._files.items() if not users][: max(0, spare)]
        return [self._files.pop(name)[0] for name in names]


def trying_again(read: Callable[[], T], what: str, pool: Pool | None = None, path: str = "") -> T:
    """Returns what `read` returns; an OSError is tried again, four times within 11 seconds.

    Args:
      read: reads from a file.
      what: what is read, for the message.
      pool: the pool that holds the file, which is opened anew.
      path: the file's name in the pool.

    Raises:
      TryAgain: the error stays. Reading may succeed in a process that is started again.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except OSError as error:
            if pool is not None:
                pool.forget(path)
            if pause is None:
                raise TryAgain(
                    f"cannot read {what}: {one_line(error)} (tried {len(_PAUSES) + 1} times); "
                    "nothing says that it is damaged"
                ) from error
        time.sleep(pause)
    raise AssertionError  # the last pass returns or raises


_descriptors: Pool[int] = Pool(lambda path: os.open(path, os.O_RDONLY), os.close)


def read_bytes(path: str, offset: int, length: int) -> bytes:
    """Returns bytes of a file; fewer where the file ends before them.

    Args:
      path: the file, on a disk or in an object store (`gs://` or `s3://`).
      offset: place of the first byte.
      length: number of bytes.

    Raises:
      TryAgain: the file cannot be read.
    """
    if is_remote(path):
        return trying_again(lambda: _read_range(path, offset, length), path)
    return trying_again(lambda: _read_local(path, offset, length), path, _descriptors, path)


def is_remote(path: str) -> bool:
    """Returns whether a path names an object store."""
    return path.startswith(_REMOTE)


def _read_local(path: str, offset: int, length: int) -> bytes:
    with _descriptors.use(path) as descriptor:
        data = os.pread(descriptor, length, offset)
        while len(data) < length:  # a signal came, or the file ends
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
    return data


def _read_range(path: str, offset: int, length: int) -> bytes:
    import fsspec

    files, name = fsspec.core.url_to_fs(path)
    return files.cat_file(name, start=offset, end=offset + length)


def file_size(path: str) -> int:
    """Returns the size of a file, in bytes.

    Raises:
      TryAgain: the file cannot be reached.
    """
    if is_remote(path):
        import fsspec

        files, name = fsspec.core.url_to_fs(path)
        return trying_again(lambda: int(files.size(name)), path)
    return trying_again(lambda: os.stat(path).st_size, path)


def check_files(paths: Sequence[str], name: str) -> None:
    """Checks that all files are there, by listing their folders; none is opened.

    Args:
      paths: the files.
      name: what messages call the data that need them.

    Raises:
      UserError: a file is missing.
    """
    there: dict[str, set[str]] = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        if folder not in there:
            there[folder] = _list(folder)
        if file not in there[folder]:
            raise UserError(f"{name} lacks {file}, which belongs to it")


def _list(folder: str) -> set[str]:
    if is_remote(folder):
        import fsspec

        files, inside = fsspec.core.url_to_fs(folder)
        names = trying_again(lambda: files.ls(inside, detail=False), folder)
        return {name.rpartition("/")[2] for name in names}
    return set(trying_again(lambda: os.listdir(folder), folder))
