"""Files and folders on object stores, gs:// and s3://, by etils.epath over fsspec.

A store has no folders: one is there while an object has its name before a slash. An object is put
whole or not at all, and is never renamed. `gen1_jax.files` gives and writes such paths; nothing
imports this module, or fsspec, while all names are local.
"""

import contextlib
import errno
import fnmatch
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Self

# TensorFlow, where it is installed, would take these paths over, with errors of its own kinds.
os.environ.setdefault("EPATH_USE_TF", "false")

from etils import epath

from gen1_jax.errors import StoreFailed, UserError, WritingFailed, one_line
from gen1_jax.machine import cache_folder

# Scheme → the package by which fsspec reaches it; both are in the extra `stores`.
SCHEMES = {"gs": "gcsfs", "s3": "s3fs"}
# Errors by which the libraries say that they were given no credentials, or wrong ones.
_DENIED = (
    *("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"),
    *("DefaultCredentialsError", "RefreshError", "ClientError"),
)


def check_installed(scheme: str) -> None:
    """Raises UserError if the package of a scheme is not installed; imports nothing."""
    if importlib.util.find_spec(SCHEMES[scheme]) is None:
        raise UserError(
            f"{scheme}:// needs {SCHEMES[scheme]}, which reaches it: pip install 'gen1-jax[stores]'"
        )


@functools.cache
def file_system(scheme: str) -> Any:
    """Returns fsspec's file system of a scheme; it sees at once what other processes write."""
    import fsspec

    for name in ("gs", "gcs", "s3"):  # epath asks fsspec for one by its name, as orbax does
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem(scheme)


class StorePath(type(epath.Path("gs://bucket"))):
    """A path on an object store, with the methods of pathlib's that this project calls.

    What the store's library raises becomes FileNotFoundError, or StoreFailed with EACCES, or with
    EIO, which a new try may cure. An object that is not there is thereby told apart from a store
    that does not answer.
    """

    @property
    def scheme(self) -> str:
        return str(self).partition("://")[0]

    @property
    def _store(self) -> Any:
        return file_system(self.scheme)

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:
        scheme, _, rest = str(self).partition("://")
        return type(self)(f"{scheme}://{posixpath.normpath(rest)}")

    # ---- what is there

    def _info(self) -> dict[str, Any] | None:
        try:
            with _asking(self):
                return self._store.info(str(self))
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        return self._info() is not None

    def is_file(self) -> bool:
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        return (self._info() or {}).get("type") == "directory"

    def iterdir(self) -> Iterator[Self]:
        with _asking(self):
            found = self._store.ls(str(self), detail=False)
        own = str(self).partition("://")[2]
        names = {each.rstrip("/").rpartition("/")[2] for each in found if each.rstrip("/") != own}
        return iter([self / name for name in sorted(names)])

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yields what has such a name in the folder; a pattern `*/a*` goes down into folders."""
        first, _, rest = pattern.partition("/")
        try:
            found = [each for each in self.iterdir() if fnmatch.fnmatchcase(each.name, first)]
        except FileNotFoundError:
            return
        for each in found:
            yield from each.glob(rest) if rest else (each,)

    def files(self) -> list[Self]:
        """Returns all files below the folder, in order."""
        with _asking(self):
            return [type(self)(f"{self.scheme}://{name}") for name in self._store.find(str(self))]

    def size(self) -> int:
        """Returns the number of bytes of a file.

        Raises:
          FileNotFoundError: there is none.
        """
        with _asking(self):
            return self._store.info(str(self))["size"]

    # ---- reading and writing

    def open(self, mode: str = "r", **options: Any) -> IO:
        with _asking(self):
            return self._store.open(str(self), mode, **options)

    def read_bytes(self) -> bytes:
        with _asking(self):
            return self._store.cat_file(str(self))

    def read_range(self, offset: int, length: int) -> bytes:
        """Returns bytes from a place on; fewer where the object ends before them."""
        with _asking(self):
            return self._store.cat_file(str(self), start=offset, end=offset + length)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        with _asking(self):
            self._store.pipe_file(str(self), content)

    def write_text(self, content: str, encoding: str = "utf-8") -> None:
        self.write_bytes(content.encode(encoding))

    def touch(self) -> None:
        self.write_bytes(b"")

    def upload(self, file: str | os.PathLike) -> None:
        """Puts a local file here, whole or not at all."""
        with _asking(self):
            self._store.put_file(os.fspath(file), str(self))

    def download(self, file: str | os.PathLike) -> None:
        """Writes the object to a local file, which is not whole before this returns."""
        with _asking(self):
            self._store.get_file(str(self), os.fspath(file))

    # ---- folders, which a store does not have, and removing

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there with its first file."""

    def rmdir(self) -> None:
        """Does nothing: an empty folder is not there."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _asking(self):
                self._store.rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self, missing_ok: bool = False) -> None:
        try:
            with _asking(self):
                for file in self.files():  # fsspec's `rm` takes [] in a name for a pattern
                    self._store.rm_file(str(file))
        except FileNotFoundError:
            if not missing_ok:
                raise


def copy_folder(folder: StorePath) -> pathlib.Path:
    """Returns a copy of a folder in the user's cache, which is made anew when a file has changed.

    Raises:
      UserError: it cannot be written.
    """
    store = file_system(folder.scheme)
    with _asking(folder):
        found = store.find(str(folder), detail=True)
    stamps = {
        name: (each.get("etag") or each.get("ETag"), each["size"]) for name, each in found.items()
    }
    state = json.dumps(sorted(stamps.items())).encode()
    cache = cache_folder() / "stores" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copy = cache / hashlib.sha256(state).hexdigest()[:16]
    if copy.is_dir():
        return copy
    try:
        # A folder whose name begins with a dot is still being made by another process.
        earlier = [each for each in cache.glob("*") if not each.name.startswith(".")]
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=cache) as name:
            new = pathlib.Path(name) / "new"
            for name in stamps:
                path = type(folder)(f"{folder.scheme}://{name}")
                file = new / path.relative_to(folder)
                file.parent.mkdir(parents=True, exist_ok=True)
                path.download(file)
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(copy)
        for each in earlier:
            shutil.rmtree(each, ignore_errors=True)
    except OSError as error:
        raise WritingFailed(f"cannot copy {folder} to {cache}: {one_line(error)}") from error
    return copy


def upload_folder(source: pathlib.Path, folder: StorePath, last: str = "") -> None:
    """Puts all files of a local folder below `folder`; the one of the name `last` comes last."""
    names = [file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        (folder / name).upload(source / name)


@contextlib.contextmanager
def _asking(path: StorePath) -> Iterator[None]:
    """Turns what a store's libraries raise into an error that says what it is."""
    try:
        yield
    except (UserError, StoreFailed):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", str(path)) from error
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}"[:200]
        denied = isinstance(error, PermissionError) or type(error).__name__ in _DENIED
        if denied or str(error).startswith("Forbidden"):
            raise StoreFailed(errno.EACCES, said, str(path)) from error
        raise StoreFailed(errno.EIO, said, str(path)) from error
