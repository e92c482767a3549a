"""Files that are there whole or not at all, and small JSON files."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError, WritingFailed, one_line


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` for its new content, which takes `path`'s place if nothing fails.

    The folder is made. A kill at any moment leaves what was there, or what is new.

    Raises:
      WritingFailed: the place cannot be written to.
    """
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if part.is_file():
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise WritingFailed(f"cannot write {path}: {one_line(error)}") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        elif part.parent.is_dir():
            part.unlink(missing_ok=True)


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Whole or not at all.

    Raises:
      WritingFailed: it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None if there is no such file.

    Raises:
      UserError: it cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: it must hold a JSON object")
    return content
