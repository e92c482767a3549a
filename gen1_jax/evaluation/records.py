"""The records of an evaluation, in JSONL files that grow as they come and are read to resume.

A record is a flat dict, one for each cell (clip, method, setting of the controls, seed): `{"clip":
"...", "prompt": "...", "method": "gen1", "temporal_scale": 1.0, ..., "frame_consistency": 0.97}`.
Each process of a job appends to a file of its own, and all files are read together.
"""

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path

from gen1_jax.distributed import is_lead
from gen1_jax.errors import UserError
from gen1_jax.evaluation.metrics.table import TABLE

CONTROLS = ("temporal_scale", "structure_level", "guidance_scale", "strength")
METRICS = tuple(TABLE)
# What an edit and its measures depend on beside its clip and the controls. `start` and `stride` are
# of the frames taken from the video, and `pixels` is their digest, since another file may have the
# same name; `given` is the digest of what else is known of the clip, `model` that of all parts of
# the pipeline, `rival` that of what a rival method needs beside it, `metric_clip` that of the CLIP
# that measures, where it is not the pipeline's; `solver` is left out where it is DDIM.
RUN = ("model", "dtype", "num_steps", "solver", "metric_clip")
CLIP = (
    "clip",
    "video",
    "prompt",
    "frames",
    "start",
    "stride",
    "height",
    "width",
    "pixels",
    "given",
)
# Two records are of the same cell if they agree in these fields.
KEY = ("method", "seed", *CONTROLS, *CLIP, *RUN, "rival")
# Earlier names of methods → the names now.
OLDER_METHODS = {"per_frame": "gen1-per-frame"}

Record = Mapping[str, object]


def record_key(record: Record) -> tuple:
    """Returns the fields of `KEY` that the record has. Numbers compare by value: 1 equals 1.0."""
    return tuple((name, record[name]) for name in KEY if name in record)


# ---- files


def records_path(folder: Path, process: int = 0) -> Path:
    """Returns the file that a process of a job appends to."""
    return folder / (f"records-{process:05d}.jsonl" if process else "records.jsonl")


def records_paths(folder: Path) -> list[Path]:
    """Returns the files of all processes that have written, the first process's first."""
    return sorted(folder.glob("records.jsonl")) + sorted(folder.glob("records-[0-9]*.jsonl"))


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keeps other evaluations from writing into a folder meanwhile; a job's first process does it.

    Raises:
      UserError: another one is writing there.
    """
    if not is_lead():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another evaluation is writing there; wait for it, or give another "
                "folder (--processes lets one job share its work)"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def read_all(folder: Path) -> tuple[list[dict], int]:
    """Returns the records of all processes, and the number of torn lines; see `read_records`."""
    records, torn = {}, 0
    for path in records_paths(folder):
        found, unfinished = read_records(path)
        for record in found:
            _add(records, record_key(record) or len(records), record)
        torn += unfinished
    return list(records.values()), torn


class Growth:
    """Reads what the other processes of a job append, from now on.

    Args:
      folder: of the records.
      own: number of this process, whose file is left out.
    """

    def __init__(self, folder: Path, own: int):
        self._folder, self._own = folder, records_path(folder, own)
        self._read = {path: path.stat().st_size for path in records_paths(folder)}

    def read(self, wait: float = 0) -> Iterator[dict]:
        """Yields the whole records that have been appended since the last call.

        Args:
          wait: seconds to sleep first.
        """
        time.sleep(wait)
        for path in records_paths(self._folder):
            if path == self._own:
                continue
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(lines)
            for line in lines.splitlines():
                with contextlib.suppress(ValueError):  # the end of a line that a killed job left
                    yield json.loads(line)


def append_records(path: str | os.PathLike, records: Iterable[Record]) -> int:
    """Appends records to a file. Each is written by one call, and all are on disk on return.

    A process killed in mid-write leaves a torn line. That line is ended first, so that it spoils
    no later record.

    Returns:
      The number of records written.

    Raises:
      UserError: the file cannot be written.
    """
    path = Path(path)
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                os.write(handle, b"\n")
            for record in records:
                line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
                _write_all(handle, line.encode())
                count += 1
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    return count


def read_records(path: str | os.PathLike) -> tuple[list[dict], int]:
    """Returns the records written so far and the number of torn lines; none if there is no file.

    Several records with the same key are of one edit, as when other measures were asked for later.
    They become one with all their measures; the last value counts.

    Raises:
      UserError: the file cannot be read, or holds no records.
    """
    path = Path(path)
    if not path.exists():
        return [], 0
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    records, torn = {}, 0
    for line in content.splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:  # JSON or UTF-8 that breaks off
            record = None
        if isinstance(record, dict):
            if record.get("method") in OLDER_METHODS:
                record["method"] = OLDER_METHODS[record["method"]]
            _add(records, record_key(record) or len(records), record)
        else:
            torn += 1
    # A process killed in its very first record leaves one line, which begins as a record does.
    first_torn = torn == 1 and content.startswith(b"{") and b"\n" not in content
    if torn and not records and not first_torn:
        raise UserError(f"{path}: holds no records; a file of one JSON object a line is accepted")
    return list(records.values()), torn


def _add(records: dict, key: Hashable, record: dict) -> None:
    """Adds a record to those by key; what an earlier one of the key holds beside it stays."""
    records[key] = {**records.get(key, {}), **record}


def _plain(value: object) -> object:
    """Returns what JSON can hold: Python's numbers for NumPy's and JAX's, null for NaN and inf."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write_all(handle: int, data: bytes) -> None:
    """Writes all of `data`, by one call unless the system takes only a part of it."""
    while data:
        data = data[os.write(handle, data) :]
