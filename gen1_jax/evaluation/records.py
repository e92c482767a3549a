"""The records of an evaluation, in a JSONL file that grows as they come and is read to resume.

A record is a flat dict, one for each clip and setting of the controls: `{"clip": "...", "video":
"...", "prompt": "...", "temporal_scale": 1.0, ..., "frame_consistency": 0.97, ...}`.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gen1_jax.errors import UserError

CONTROLS = ("temporal_scale", "structure_level", "guidance_scale")
METHODS = ("gen1", "per_frame")  # the second edits each frame alone: a baseline
METRICS = (
    "frame_consistency",
    "prompt_consistency",
    "structure_error",
    "structure_correlation",
    "colour_accuracy",
    "mask_iou",
    "flicker",
)
# What an edit depends on beside its clip and the controls. `start` and `stride` are of the frames
# taken from the video, and `pixels` is their digest, since another file may have the same name;
# `model` is the digest of all parts of the pipeline.
RUN = ("model", "dtype", "num_steps", "frames", "start", "stride", "height", "width", "pixels")
# Two records are of the same edit if they agree in these fields.
KEY = ("clip", "video", "prompt", "method", "seed", *CONTROLS, *RUN)

Record = Mapping[str, object]


def record_key(record: Record) -> tuple:
    """Returns the fields of `KEY` that the record has. Numbers compare by value: 1 equals 1.0."""
    return tuple((name, record[name]) for name in KEY if name in record)


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

    The last of several records with the same key counts, as when two sweeps wrote to one file.

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
            records[record_key(record) or len(records)] = record
        else:
            torn += 1
    # A process killed in its very first record leaves one line, which begins as a record does.
    first_torn = torn == 1 and content.startswith(b"{") and b"\n" not in content
    if torn and not records and not first_torn:
        raise UserError(f"{path}: holds no records; a file of one JSON object a line is accepted")
    return list(records.values()), torn


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
