"""Writing a folder of encoded clips, by several processes, in shards of any order.

A shard is a fixed range of records. It has its final name only once it is whole and on the disk, so
a job that was killed continues with the missing shards, and ends with the same bytes. `.job.json`
holds the settings of an unfinished job. `meta.json` is written last; a folder without it is not
finished.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.encoded.records import FORMAT, Layout, pack
from gen1_jax.errors import UserError, WritingFailed, one_line
from gen1_jax.files import as_path, read_json, remove_parts, replacing, write_json
from gen1_jax.structure_settings import read_recipe

META, JOB = "meta.json", ".job.json"
PACE = "pace"  # key of meta.json
SHARD_BYTES = 512 * 2**20  # size of a shard of a large folder
_LEAST_SHARDS, _LEAST_RECORDS = 64, 64  # a small folder has shards for several processes to share


class EncodedWriter:
    """Writes one folder.

        writer = EncodedWriter(folder, layout, count=len(clips), settings={"seed": 0})
        writer.start()
        for shard in writer.missing():
            writer.write(shard, (encode(clips[i]) for i in writer.records(shard)))
        writer.finish()

    Any process may write any shard; one process calls `start` and `finish`.

    Attributes:
      settings: all settings from which the bytes follow. A job continues with the same ones only.
      num_shards: number of shards of the whole folder.

    Raises:
      UserError: there are no records, or a shard would have none.
    """

    def __init__(
        self,
        folder: str | Path,
        layout: Layout,
        *,
        count: int,
        settings: dict[str, Any] | None = None,
        records_per_shard: int | None = None,
    ):
        if count < 1:
            raise UserError(f"no clips to encode to {folder}; at least one is needed")
        if records_per_shard is None:
            records_per_shard = choose_records_per_shard(layout.size, count)
        if records_per_shard < 1:
            raise UserError(f"records_per_shard is {records_per_shard}; 1 or more is accepted")
        self._folder, self._layout = as_path(folder), layout
        self._count, self._per_shard = count, records_per_shard
        self.num_shards = -(-count // records_per_shard)
        own = {
            "format": FORMAT,
            **(settings or {}),
            "count": count,
            "records_per_shard": records_per_shard,
            **layout.to_json(),
        }
        self.settings = json.loads(json.dumps(own))  # as JSON gives them back

    def start(self) -> None:
        """Creates the folder, or checks that an existing one belongs to this job.

        A job that was stopped before its first shard may be begun anew with other settings.

        Raises:
          UserError: the folder is finished, or was begun with other or unknown settings, or it
            cannot be written.
        """
        if self.finished:
            raise UserError(
                f"{self._folder} holds encoded clips already; remove it, or name another folder"
            )
        known = read_json(self._folder / JOB)
        shards = self._folder.is_dir() and any(self._folder.glob(shard_name("*")))
        if known is not None and shards:
            # A key that an earlier version did not write is not compared.
            check_same({k: v for k, v in self.settings.items() if k in known}, known, self._folder)
            return
        if shards:
            raise UserError(
                f"{self._folder} holds unfinished clips of unknown settings; remove it, or name "
                "another folder"
            )
        write_json(self._folder / JOB, self.settings)

    @property
    def finished(self) -> bool:
        return (self._folder / META).exists()

    def summary(self) -> str:
        """Returns one line for people about what the folder holds."""
        size = self._layout.size * self._count
        return (
            f"{self._count:,} clips, {self._layout.size:,} bytes each, {size / 1e9:,.2f} GB as "
            f"{self._layout.precision}"
        )

    def missing(self) -> list[int]:
        """Returns the numbers of the shards that are not written yet."""
        # One listing costs less than a question for each shard, on a disk of a network too.
        there = {path.name for path in self._folder.glob(shard_name("*"))}
        return [k for k in range(self.num_shards) if shard_name(k) not in there]

    def records(self, shard: int) -> range:
        """Returns the numbers of a shard's records."""
        return range(shard * self._per_shard, min((shard + 1) * self._per_shard, self._count))

    def write(self, shard: int, records: Iterable[dict[str, np.ndarray]]) -> None:
        """Writes a shard atomically.

        Args:
          shard: number of the shard.
          records: its records, in order.

        Raises:
          UserError: a record does not fit the layout or cannot be read, the number of records is
            wrong, or the shard cannot be written.
        """
        path, numbers = self._path(shard), self.records(shard)
        with replacing(path) as part, _writing(self._folder), part.open("wb") as file:
            written = 0
            for index, record in zip(numbers, self._read(records), strict=False):
                for entry in pack(record, self._layout, f"record {index} of {self._folder}"):
                    file.write(entry)
                written += 1
            if written != len(numbers):
                raise OSError(f"{written} of {len(numbers)} records were written")

    def _read(self, records: Iterable) -> Iterator:
        """Yields the records; an error of reading them is told apart from one of writing."""
        try:
            yield from records
        except OSError as error:
            what = error.filename or "the records"
            raise UserError(f"cannot read {what} for {self._folder}: {one_line(error)}") from error

    def finish(self, pace: Mapping[str, Any] | None = None) -> None:
        """Writes meta.json, which marks the folder as finished.

        Args:
          pace: `stride` and `frame_rate` of the clips, as far as they are known.

        Raises:
          UserError: a shard is missing, or meta.json cannot be written.
        """
        if missing := self.missing():
            raise UserError(f"{self._folder} lacks {self._path(missing[0]).name}")
        content = self.settings | ({PACE: dict(pace)} if pace else {})
        with _writing(self._folder):
            remove_parts(self._folder)
            write_json(self._folder / META, content)
            clean(self._folder)

    def _path(self, shard: int) -> Path:
        return self._folder / shard_name(shard)


def shard_name(shard: int | str) -> str:
    """Returns the name of a shard's file by its number, or the pattern of all names by "*"."""
    return f"clips-{shard if isinstance(shard, str) else f'{shard:06d}'}.records"


def choose_records_per_shard(size: int, count: int) -> int:
    """Returns how many records a shard takes.

    A shard has at least `SHARD_BYTES`, so that the paper's data are some 66,000 files. A smaller
    folder has more and smaller shards, which the processes of a job share.

    Args:
      size: size of a record, in bytes.
      count: number of records of the folder.
    """
    return min(-(-SHARD_BYTES // size), max(_LEAST_RECORDS, -(-count // _LEAST_SHARDS)))


def check_same(wanted: dict[str, Any], known: dict[str, Any], folder: Path) -> None:
    """Raises UserError naming the first setting that was different when the folder was begun."""
    known = known | read_recipe(known, str(folder)).to_json()  # as older folders do not say it
    for name, value in wanted.items():
        if known.get(name) != value:
            raise UserError(
                f"{folder} was begun with {name} {json.dumps(known.get(name))}, and now it is "
                f"{json.dumps(value)}; accepted: the earlier value, or another --workdir"
            )


def clean(folder: Path) -> None:
    """Removes the job's file, which stays if a job is killed just after writing meta.json."""
    (folder / JOB).unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into one line.

    Raises:
      WritingFailed: the block could not write.
    """
    try:
        yield
    except OSError as error:
        raise WritingFailed(f"cannot write {folder}: {one_line(error)}") from error
