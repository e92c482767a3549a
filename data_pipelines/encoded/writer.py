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
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gen1_jax.data_pipelines.encoded.records import FORMAT, Layout, pack
from gen1_jax.errors import UserError, WritingFailed, one_line
from gen1_jax.files import read_json, remove_parts, replacing, write_json
from gen1_jax.structure_settings import read_recipe

META, JOB = "meta.json", ".job.json"
PACE = "pace"  # key of meta.json
RECORDS_PER_SHARD = 1024


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
        shards = self._folder.is_dir() and any(self._folder.glob("[!.]*.array_record"))
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
        return [k for k in range(self.num_shards) if not self._path(k).exists()]

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
        with replacing(path) as part:
            with _writing(self._folder):
                # With group_size:1, random access reads one entry alone. Compression would make
                # float16 latents a tenth smaller, and reading three times as slow.
                writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
            try:
                for index, record in zip(numbers, self._read(records), strict=False):
                    entries = pack(record, self._layout, f"record {index} of {self._folder}")
                    with _writing(self._folder):
                        for entry in entries:
                            writer.write(entry)
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error is raised already
                    writer.close()
                raise
            with _writing(self._folder):
                writer.close()
                _check_entries(part, len(numbers) * self._layout.entries)

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
        files = [self._path(k).name for k in range(self.num_shards)]
        content = self.settings | ({PACE: dict(pace)} if pace else {}) | {"files": files}
        with _writing(self._folder):
            remove_parts(self._folder)
            write_json(self._folder / META, content)
            clean(self._folder)

    def _path(self, shard: int) -> Path:
        return self._folder / f"clips-{shard:05d}.array_record"


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


def _check_entries(path: Path, count: int) -> None:
    """Raises OSError unless the file holds so many entries."""
    reader = ArrayRecordReader(str(path))
    try:
        if reader.num_records() != count:
            raise OSError(f"{reader.num_records()} of {count} entries were written")
    finally:
        reader.close()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns errors of the file system, and ArrayRecord's RuntimeErrors, into one line.

    Raises:
      WritingFailed: the block could not write.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # ArrayRecord says: "write() failed: No space left on device; writing PATH; at byte 4096; …"
        said = str(error).splitlines()[0].partition(" failed: ")
        reason = getattr(error, "strerror", None) or (said[2] or said[0]).partition(";")[0]
        raise WritingFailed(f"cannot write {folder}: {reason}") from error
