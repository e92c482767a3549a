"""Webdataset archives: tar files of images with captions, read whole or in ranges of samples.

A sample is a run of members whose names agree up to the first dot: `00012.jpg`, with `00012.txt` or
with `caption` in `00012.json`, as img2dataset writes them. A range begins at a sample and ends
before another one, so the ranges of an archive are read independently. Their bounds are found by
reading headers alone. Nothing is unpacked to disk. Compressed archives are not read, because they
could hold any amount.
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gen1_jax.data_pipelines.footage.inputs import (
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    read_caption,
)
from gen1_jax.errors import one_line
from gen1_jax.video.sources import Unreadable

MAX_BYTES = 2**30  # largest encoded image
_HEADERS = 2**12  # bytes that are read at once to find headers
_MAX_TEXT = 2**24  # bytes of the largest caption file
# A crafted header leads the module to any of these.
_DAMAGES = (
    tarfile.TarError, EOFError, ValueError, RecursionError, MemoryError, OverflowError
)  # fmt: skip


@dataclasses.dataclass
class _Sample:
    """A sample as its headers describe it.

    Attributes:
      offset: where it begins in the archive, in bytes.
      key: name of its members, up to the first dot.
      image: the member that holds the image, or None.
      texts: members that may hold the caption, by suffix.
      refused: reason to refuse the sample, or None.
    """

    offset: int
    key: str
    image: tarfile.TarInfo | None = None
    texts: dict[str, tarfile.TarInfo] = dataclasses.field(default_factory=dict)
    refused: str | None = None


def find_bounds(path: Path, size: int, count: int) -> list[int | None]:
    """Returns where each of `count` ranges of an archive begins, in bytes.

    The ranges are about equally long. Range k ends where range k + 1 begins, and reaches to the end
    of the archive where that is None. A range that itself begins at None is empty. Damage is left
    to the range that meets it.

    Args:
      path: the archive.
      size: its size in bytes.
      count: number of ranges.
    """
    bounds: list[int | None] = [0]
    try:
        # A network disk's own block, which Python would take, may be as long as many images.
        with path.open("rb", buffering=_HEADERS) as file:
            for sample in _samples(file, 0):
                while len(bounds) < count and sample.offset * count >= size * len(bounds):
                    bounds.append(sample.offset)
                if len(bounds) == count:
                    break
    except (OSError, *_DAMAGES):
        pass  # the range before it reads up to here, and says why it stops
    return bounds + [None] * (count - len(bounds))


def read_tar(
    path: Path, begin: int = 0, end: int | None = None
) -> Iterator[tuple[str, bytes | None, str, str | None]]:
    """Yields the samples of an archive that begin in a range of its bytes.

    Args:
      path: the archive.
      begin: where the first of the samples begins.
      end: where the sample after the last of them begins; None if they are the archive's last.

    Yields:
      The key, the encoded image or None, the caption, and the reason to refuse the sample or None.

    Raises:
      Unreadable: the file is no archive, or damaged. Samples before the damage have been yielded.
    """
    try:
        with path.open("rb") as file:
            for sample in _samples(file, begin):
                if end is not None and sample.offset >= end:
                    break
                image, texts = None, {}
                try:
                    if sample.image is not None:
                        image = _read(file, sample.image)
                    for suffix, member in sample.texts.items():
                        texts[suffix] = _read(file, member)
                except EOFError:
                    if image is not None:
                        yield sample.key, image, read_caption(texts), sample.refused
                    raise
                yield sample.key, image, read_caption(texts), sample.refused
    except _DAMAGES as error:
        raise Unreadable("damaged", f"{path}: not a whole tar archive: {error}") from error
    except OSError as error:
        raise Unreadable("cannot be opened", f"{path}: {one_line(error)}") from error


def _samples(file: BinaryIO, begin: int) -> Iterator[_Sample]:
    """Yields the samples from `begin` on; where it meets damage, it raises after the last of them.

    Raises:
      tarfile.TarError: the file is no archive, or is cut off, or a header is damaged.
    """
    sample = None
    try:
        for member in _members(file, begin):
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            stem, _, suffix = name.name.partition(".")
            key = str(name.with_name(stem or name.name))
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                sample = _Sample(member.offset, key)
            suffix = "." + suffix.lower()
            if name.is_absolute() or ".." in name.parts or not member.isreg():
                sample.refused = "outside the source"  # a link leads elsewhere, too
            elif suffix in IMAGE_SUFFIXES and member.size <= MAX_BYTES:
                sample.image = member
            elif suffix in IMAGE_SUFFIXES:
                sample.refused = "too many pixels"
            elif suffix in CAPTION_SUFFIXES and member.size <= _MAX_TEXT:
                sample.texts[suffix] = member
    except _DAMAGES:
        if sample is not None:
            yield sample
        raise
    if sample is not None:
        yield sample


def _members(file: BinaryIO, begin: int) -> Iterator[tarfile.TarInfo]:
    file.seek(begin)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            if member.size < 0 or archive.offset <= member.offset:  # it would go round for ever
                raise tarfile.ReadError(f"a negative size at byte {member.offset}")
            yield member
            archive.members = []  # which it would keep for ever
        # The module takes a damaged header for the end, which is two blocks of zeros or nothing.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {archive.offset}")


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) != member.size:
        raise EOFError("unexpected end of data")
    return data
