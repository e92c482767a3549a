"""Random reads of bytes from very many files, on a disk or in an object store.

A data set of the paper's size has some 66,000 shards, which cannot all be open at once. A process
keeps the files that it read last open, and closes the others. An error of opening or reading is
tried again, because network disks have bad moments; an error that stays ends the process with
`TryAgain`, and is never taken for damage of a record.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from gen1_jax.errors import TryAgain, UserError, one_line
from gen1_jax.files import as_path, is_remote

MOST_OPEN = 128  # files of a process; the usual limit of the system is 1,024
_PAUSES = (0.1, 0.5, 2.0, 8.0)  # seconds before each further attempt
_COPY = ".copy"  # suffix of a whole copy of a file
_STALE = 3600  # seconds after which nobody writes a copy any more

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
      UserError: this user has no right to read it.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except OSError as error:
            if pool is not None:
                pool.forget(path)
            if error.errno in (errno.EACCES, errno.EPERM):
                raise UserError(f"cannot read {what}: {one_line(error)}") from error
            if pause is None:
                raise TryAgain(
                    f"cannot read {what}: {one_line(error)} (tried {len(_PAUSES) + 1} times); "
                    "nothing says that it is damaged"
                ) from error
        time.sleep(pause)
    raise AssertionError  # the last pass returns or raises


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY)


_descriptors: Pool[int] = Pool(_open, os.close)
# A copy that another process removes keeps its room on the disk while it is open here.
_copies: Pool[int] = Pool(_open, os.close, most=8)


def read_bytes(path: str, offset: int, length: int, cache: ShardCache | None = None) -> bytes:
    """Returns bytes of a file; fewer where the file ends before them.

    Args:
      path: the file, on a disk or in an object store.
      offset: place of the first byte.
      length: number of bytes.
      cache: where files of an object store are copied whole. Without it, these bytes alone are
        asked for.

    Raises:
      TryAgain: the file cannot be read.
    """
    if not is_remote(path):
        return trying_again(lambda: _read_local(path, offset, length), path, _descriptors, path)
    if cache is None:
        return trying_again(lambda: as_path(path).read_range(offset, length), path)
    return trying_again(lambda: _read_local(cache.fetch(path), offset, length, _copies), path)


def _read_local(path: str, offset: int, length: int, pool: Pool[int] | None = None) -> bytes:
    with (pool or _descriptors).use(path) as descriptor:
        data = os.pread(descriptor, length, offset)
        while len(data) < length:  # a signal came, or the file ends
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
    return data


class ShardCache:
    """Copies of an object store's files on a local disk; those made first are removed first.

    Processes of one machine may share the folder: a copy has its name once it is whole.

    Args:
      folder: the local folder.
      limit: bytes that copies may take together. One copy is always kept.
      identity: what tells the data from others that may lie at the same place later.
    """

    def __init__(self, folder: str, limit: int, identity: str = ""):
        self._folder, self._limit, self._identity = folder, limit, identity
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock, self._locks = threading.Lock(), {}

    def fetch(self, path: str) -> str:
        """Returns the local copy of a file, which is made unless it is there.

        Raises:
          OSError: the file cannot be copied.
        """
        name = hashlib.sha256(f"{path} {self._identity}".encode()).hexdigest()[:32]
        place = os.path.join(self._folder, f"{name}{_COPY}")
        if os.path.exists(place):
            return place
        with self._lock:
            own = self._locks.setdefault(name, threading.Lock())
        with own:  # other threads of this process wait for the copy
            if not os.path.exists(place):
                os.makedirs(self._folder, exist_ok=True)
                part = f"{place}.{uuid.uuid4().hex}"
                try:
                    as_path(path).download(part)
                    os.replace(part, place)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(part)
                self._remove_oldest(place)
        return place

    def _remove_oldest(self, newest: str) -> None:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _COPY not in entry.name or entry.path == newest:
                    continue
                with contextlib.suppress(FileNotFoundError):  # by another process
                    stat = entry.stat()
                    if entry.name.endswith(_COPY):
                        found.append((stat.st_mtime, stat.st_size, entry.path))
                    elif time.time() - stat.st_mtime > _STALE:  # of a process that was killed
                        os.unlink(entry.path)
        room = self._limit - os.stat(newest).st_size
        for _, size, path in sorted(found, reverse=True):
            room -= size
            if room < 0:
                _copies.forget(path)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_locks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_locks()


def file_size(path: str) -> int:
    """Returns the size of a file, in bytes.

    Raises:
      TryAgain: the file cannot be reached.
    """
    if is_remote(path):
        return trying_again(as_path(path).size, path)
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
        return {path.name for path in trying_again(lambda: [*as_path(folder).iterdir()], folder)}
    return set(trying_again(lambda: os.listdir(folder), folder))
