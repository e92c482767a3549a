"""The one atomic writer, for a file and for a folder, and the one reader and writer of JSON files.

Both writers make the new content under a temporary name beside its place and move it there once it
is whole and on the disk. On an object store they make it on the local disk, and put it whole. A
reader therefore never sees half a file.
"""

import contextlib
import json
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError, WritingFailed, one_line

_STORES = ("gs://", "s3://")
_UNFINISHED = ".unfinished"  # lies in a folder on a store while it is replaced


def as_path(name: str | os.PathLike) -> Path:
    """Returns the path of a name: pathlib's of a local one, a `StorePath` of gs:// and s3://.

    Raises:
      UserError: the name is on a store, and what reaches the store is not installed.
    """
    if not is_remote(name):
        return Path(name)
    from gen1_jax.stores import StorePath, check_installed

    path = StorePath(name)
    check_installed(path.scheme)
    return path


def is_remote(name: str | os.PathLike) -> bool:
    """Returns whether a name or path is on an object store."""
    return isinstance(name, str | os.PathLike) and os.fspath(name).startswith(_STORES)


def check_local(name: str | os.PathLike, what: str) -> None:
    """Refuses a name on an object store.

    Args:
      name: of a file or folder.
      what: what lies there, for the message.

    Raises:
      UserError: the name is on a store.
    """
    if is_remote(name):
        raise UserError(
            f"{name}: {what} is read from a disk; accepted: a folder of this machine, such as "
            "that of a mounted bucket. Data that `gen1 precompute` wrote may be on a store"
        )


def join(folder: str | os.PathLike, name: str) -> str:
    """Returns the normal form of a name that begins in a folder; it may begin with `../`."""
    if not is_remote(folder):
        return os.path.normpath(Path(folder) / name)
    scheme, _, rest = os.fspath(folder).partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, name))}"


def local_copy(folder: str | os.PathLike, *markers: str) -> Path:
    """Returns a folder of this machine with the files of a folder: itself, or a copy of a store's.

    Args:
      folder: the folder. One of a store is copied once, and again when its files have changed.
      markers: names of files of which the folder holds one. A folder of a store without any is
        not copied, because it is another than was meant; it is returned itself. No names: any is
        copied.

    Raises:
      UserError: the copy cannot be written.
      OSError: the store does not answer.
    """
    folder = as_path(folder)
    if not is_remote(folder):
        return folder
    if markers and not any((folder / name).is_file() for name in markers):
        return folder
    from gen1_jax.stores import copy_folder

    return copy_folder(folder)


@contextlib.contextmanager
def making_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and its parents; if the block fails, removes again those that stayed empty."""
    if is_remote(folder):  # it is there with its first file
        yield
        return
    places = (folder, *folder.parents)
    missing = [place for place in places if not os.path.exists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or another process removed it
            for place in missing:
                place.rmdir()
        raise


@contextlib.contextmanager
def replacing(path: Path, failures: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` when the block succeeds.

    Missing parent folders are made, and removed again if the block fails. If it fails, or the
    process is killed at any moment, `path` keeps its earlier content.

    Args:
      path: the file to write.
      failures: exceptions by which the block's own calls say that they cannot write.

    Yields:
      The local path to write to. It has the suffix of `path`, because some writers choose their
      format by it. Its name is unique, so that several processes may write the same file.

    Raises:
      WritingFailed: the file cannot be written.
    """
    try:
        if is_remote(path):
            with tempfile.TemporaryDirectory(prefix="gen1-") as folder:
                part = Path(folder) / path.name
                yield part
                path.upload(part)
            return
        part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part{path.suffix}")
        with making_folder(path.parent):
            try:
                yield part
                _sync(part)
                os.replace(part, path)
            finally:
                if part.is_dir():
                    shutil.rmtree(part)
                elif part.parent.is_dir():
                    part.unlink(missing_ok=True)
    except (OSError, *failures) as error:
        raise WritingFailed(f"cannot write {path}: {one_line(error)}") from error


@contextlib.contextmanager
def replacing_folder(folder: Path, marker: str) -> Iterator[Path]:
    """Yields a temporary folder beside `folder`, which replaces `folder` when the block succeeds.

    Missing parent folders are made, and removed again if the block fails. If it fails, `folder`
    stays as it was. A process that is killed between the two renames of the replacement leaves the
    earlier content in a folder beside it, whose name ends in `.old`. On an object store `marker` is
    removed first and put last, so a killed process leaves a folder without it, which may be
    replaced.

    Args:
      folder: the folder to write. It may be missing, empty, or hold `marker`.
      marker: name of a file by which a folder of this kind is known.

    Yields:
      The folder to write into.

    Raises:
      UserError: `folder` is a file, or a folder of another kind, which is not ours to replace.
      WritingFailed: the folder cannot be written.
    """
    check_replaceable(folder, marker)
    if is_remote(folder):
        with _replacing_in_store(folder, marker) as new:
            yield new
        return
    new = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.new")
    try:
        with making_folder(folder.parent):
            try:
                new.mkdir()
                yield new
                for file in new.rglob("*"):
                    if file.is_file():
                        _sync(file)
                _swap(new, folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except WritingFailed as error:  # a file in `new`, whose name means nothing to a user
        raise WritingFailed(
            f"cannot write {folder}: {one_line(error.__cause__ or error)}"
        ) from error
    except OSError as error:
        raise WritingFailed(f"cannot write {folder}: {one_line(error)}") from error


@contextlib.contextmanager
def _replacing_in_store(folder: Path, marker: str) -> Iterator[Path]:
    """Yields a local folder, whose files replace those of a folder on a store."""
    from gen1_jax.stores import upload_folder

    try:
        with tempfile.TemporaryDirectory(prefix="gen1-") as name:
            new = Path(name)
            yield new
            (folder / _UNFINISHED).touch()
            (folder / marker).unlink(missing_ok=True)
            upload_folder(new, folder, last=marker)
            for file in folder.files():
                if not (new / file.relative_to(folder)).exists():
                    file.unlink(missing_ok=True)
    except OSError as error:
        raise WritingFailed(f"cannot write {folder}: {one_line(error)}") from error


def check_replaceable(folder: Path, marker: str) -> None:
    """Checks that `replacing_folder` may replace a folder.

    Raises:
      UserError: `folder` is a file, or a folder of another kind, which is not ours to replace.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write {folder}: it is a file; give a folder")
    ours = any((folder / name).exists() for name in (marker, _UNFINISHED))
    if folder.is_dir() and not ours and any(folder.iterdir()):
        raise UserError(
            f"will not replace {folder}: it holds files but no {marker}, so this command did not "
            "make it; give a new or empty folder"
        )


def remove_parts(folder: Path) -> None:
    """Removes the temporary files that killed processes left in `folder`.

    To be called only where no other process is writing there.
    """
    if is_remote(folder):  # their temporary files lie on their local disks
        return
    for part in folder.glob(".*.part*"):
        part.unlink()


def write_json(path: Path, content: Any, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Writes a JSON file that ends in a newline, atomically.

    Raises:
      WritingFailed: the file cannot be written.
    """
    text = json.dumps(content, indent=indent, sort_keys=sort_keys) + "\n"
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object that a JSON file holds, or None if there is no such file.

    Raises:
      UserError: the file cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: it must hold a JSON object")
    return content


def _sync(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`; the earlier folder is deleted once `new` stands in its place."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
