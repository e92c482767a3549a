"""The list of an ingest's inputs, and the groups that it is cut into.

The list is a file of one JSON array a line. A group is a unit of work: a range of lines, or a range
of one archive that is too large for a unit. Groups are cut by bytes and by the number of inputs, so
that a unit takes about as long as another, and a kill costs no more than the units under way. The
same list is always cut in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gen1_jax.data_pipelines.footage.inputs import Input

_LEAST_GROUPS = 256  # so that many workers have something to do
# (inputs, bytes) in a group: a minute or two of one core.
_MOST = {"clips": (64, 2**28), "images": (4096, 2**27)}
_LEAST_BYTES = 2**22  # a smaller range of an archive is not worth a group


@dataclasses.dataclass(frozen=True)
class Group:
    """A range of the list of inputs, or a range of the only input of a range.

    Attributes:
      index: number of the group.
      offset: where the group begins in the list, in bytes.
      length: length of the group in bytes.
      part: number of the archive's range; 0 for whole inputs.
      parts: number of ranges that the archive is cut into; 1 for whole inputs.
    """

    index: int
    offset: int
    length: int
    part: int = 0
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class Listed:
    """The facts of a list of inputs.

    Attributes:
      count: number of inputs.
      size: bytes of them all.
      fingerprint: hash of the list.
    """

    count: int
    size: int
    fingerprint: str


def is_archive(path: str | Path) -> bool:
    """Returns whether an input of images is an archive of them."""
    return str(path).lower().endswith(".tar")


def write_list(root: Path, inputs: Iterable[Input], file: Path) -> Listed:
    """Writes the list of inputs, each with its size in bytes."""
    count, total, digest = 0, 0, hashlib.sha256()
    with file.open("wb") as out:
        for each in inputs:
            size = 0 if each.refused else _size(root / each.path)
            count, total = count + 1, total + size
            fields = [each.path, each.caption, each.refused, size]
            line = json.dumps(fields, ensure_ascii=True).encode() + b"\n"
            digest.update(line)
            out.write(line)
    return Listed(count, total, digest.hexdigest())


def _size(path: Path) -> int:
    """Returns the bytes of a file, or of the files in a folder of pictures; 0 if unknown."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in os.scandir(path))
        return path.stat().st_size
    except OSError:  # reading it will say why
        return 0


def cut_groups(file: Path, listed: Listed, kind: str) -> list[Group]:
    """Cuts a list of inputs into groups of at most so many inputs and bytes, but enough of them.

    One input may exceed the bytes, unless it is an archive, which is cut into ranges.
    """
    most_inputs, most_bytes = _MOST[kind]
    most_inputs = max(1, min(most_inputs, listed.count // _LEAST_GROUPS))
    most_bytes = min(most_bytes, max(_LEAST_BYTES, listed.size // _LEAST_GROUPS))
    groups: list[Group] = []
    offset = length = held = size = 0

    def close(parts: int = 1) -> None:
        nonlocal offset, length, held, size
        if length:
            first = len(groups)
            groups.extend(Group(first + n, offset, length, n, parts) for n in range(parts))
        offset, length, held, size = offset + length, 0, 0, 0

    for line, path, own in _lines(file):
        if size + own > most_bytes:
            close()
        length, held, size = length + len(line), held + 1, size + own
        if kind == "images" and is_archive(path) and own > most_bytes:
            close(-(-own // most_bytes))
        elif held == most_inputs or size > most_bytes:
            close()
    close()
    return groups


def _lines(file: Path) -> Iterator[tuple[bytes, str, int]]:
    with file.open("rb") as lines:
        for line in lines:
            path, _, _, size = json.loads(line)
            yield line, path, size


def read_group(file: Path, group: Group) -> list[tuple[Input, int]]:
    """Reads the inputs of a group from the list, each with its size in bytes."""
    with file.open("rb") as list_:
        list_.seek(group.offset)
        lines = list_.read(group.length).splitlines()
    fields = [json.loads(line) for line in lines]
    return [(Input(path, caption, refused), size) for path, caption, refused, size in fields]
