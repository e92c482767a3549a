"""Writing a folder of encoded clips, by several processes, in shards that can be done in any order.

The shards are fixed ranges of records. One has its final name only when it is whole and on the
disk, so a job that was killed, anywhere, goes on where shards are missing, and ends with the same
bytes. `.job.json` holds the settings of a job under way; `meta.json` is written last, and without
it the folder is not finished.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gen1_jax.data_pipelines.encoded.records import FORMAT, Layout, pack
from gen1_jax.errors import UserError
from gen1_jax.files import read_json, write_json

META, JOB = "meta.json", ".job.json"
RECORDS_PER_SHARD = 1024


class EncodedWriter:
    """One folder's job.

        writer = EncodedWriter(folder, layout, count=len(clips), settings={"seed": 0})
        writer.start()
        for shard in writer.missing():
            writer.write(shard, (encode(clips[i]) for i in writer.records(shard)))
        writer.finish()

    Any process may write any shard; one of them starts and finishes.

    Attributes:
        settings: all that the bytes follow from; a job goes on with the same settings only.
        num_shards: of the whole folder.

    Raises:
        UserError: 0 records, or a shard of none.
    """

    def __init__(
        self,
        folder: str | Path,
        layout: Layout,
        *,
        count: int,
        settings: dict[str, Any] | None = None,
        records_per_shard: int = RECORDS_PER_SHARD,
    ):
        if count < 1:
            raise UserError(f"no clips to encode to {folder}; at least one is needed")
        if records_per_shard < 1:
            raise UserError(f"records_per_shard is {records_per_shard}; 1 or more is accepted")
        self._folder, self._layout = Path(folder), layout
        self._count, self._per_shard = count, records_per_shard
        self.num_shards = -(-count // records_per_shard)
        own = {
            "format": FORMAT,
            **(settings or {}),
            "count": count,
            "records_per_shard": records_per_shard,
            **layout.to_json(),
        }
        self.settings = json.loads(json.dumps(own))  # as they are read back

    def start(self) -> None:
        """Creates the folder, or makes sure that what is there belongs to this very job.

        Raises:
            UserError: a job of other settings, clips of unknown settings, or no place to write.
        """
        if self.finished:
            raise UserError(
                f"{self._folder} holds encoded clips already; remove it or name another"
            )
        known = read_json(self._folder / JOB)
        if known is not None:
            check_same(self.settings, known, self._folder)
            return
        if self._folder.is_dir() and any(self._folder.glob("*.array_record")):
            raise UserError(
                f"{self._folder} holds unfinished clips of unknown settings; remove it, or name "
                "another"
            )
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / JOB, self.settings)

    @property
    def finished(self) -> bool:
        return (self._folder / META).exists()

    def summary(self) -> str:
        """What the folder holds, for people."""
        size = self._layout.size * self._count
        return (
            f"{self._count:,} clips, {self._layout.size:,} bytes each, {size / 1e9:,.2f} GB as "
            f"{self._layout.precision}"
        )

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [k for k in range(self.num_shards) if not self._path(k).exists()]

    def records(self, shard: int) -> range:
        """The records of a shard."""
        return range(shard * self._per_shard, min((shard + 1) * self._per_shard, self._count))

    def write(self, shard: int, records: Iterable[dict[str, np.ndarray]]) -> None:
        """Writes a shard of these records; whole or not at all.

        Raises:
            UserError: a record that does not fit, not as many as the shard has, or no place left.
        """
        path, numbers = self._path(shard), self.records(shard)
        part = path.with_name(f".{path.name}.part")
        try:
            with _writing(self._folder):
                # group_size:1: random access reads one entry alone. Compressed, float16 latents
                # are a tenth smaller and take three times as long to read.
                writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
            try:
                for index, record in zip(numbers, records, strict=False):
                    entries = pack(record, self._layout, f"record {index} of {self._folder}")
                    with _writing(self._folder):
                        for entry in entries:
                            writer.write(entry)
            except BaseException:
                with contextlib.suppress(RuntimeError):  # what went wrong is on its way already
                    writer.close()
                raise
            with _writing(self._folder):
                writer.close()
                _check_entries(part, len(numbers) * self._layout.entries)
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def finish(self) -> None:
        """Writes meta.json, which makes the folder whole.

        Raises:
            UserError: shards are missing, or no place left.
        """
        if missing := self.missing():
            raise UserError(f"{self._folder} lacks {self._path(missing[0]).name}")
        files = [self._path(k).name for k in range(self.num_shards)]
        with _writing(self._folder):
            for part in self._folder.glob(".*.part*"):
                part.unlink()
            write_json(self._folder / META, {**self.settings, "files": files})
            clean(self._folder)

    def _path(self, shard: int) -> Path:
        return self._folder / f"clips-{shard:05d}.array_record"


def check_same(wanted: dict[str, Any], known: dict[str, Any], folder: Path) -> None:
    """UserError naming the first of `wanted` that was different when the folder was begun."""
    for name, value in wanted.items():
        if known.get(name) != value:
            raise UserError(
                f"{folder} was begun with {name} {json.dumps(known.get(name))}, not "
                f"{json.dumps(value)}; go on with that, remove the folder, or name another"
            )


def clean(folder: Path) -> None:
    """Removes what a finished job leaves behind where it was killed after its last word."""
    (folder / JOB).unlink(missing_ok=True)


def _check_entries(path: Path, count: int) -> None:
    reader = ArrayRecordReader(str(path))
    try:
        if reader.num_records() != count:
            raise OSError(f"{reader.num_records()} of {count} entries were written")
    finally:
        reader.close()


@contextlib.contextmanager
def _writing(folder: Path):
    """What a file system refuses, in one line; ArrayRecord's own errors are RuntimeErrors."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # "write() failed: No space left on device; writing /…/.clips-00000…; at byte 4096; …"
        said = str(error).splitlines()[0].partition(" failed: ")
        reason = getattr(error, "strerror", None) or (said[2] or said[0]).partition(";")[0]
        raise UserError(f"cannot write {folder}: {reason}") from error
