"""A group of inputs -> one part: an ArrayRecord file of serialised records, and a JSON beside it.

The JSON says what became of every input, and of every record its split and likeness. It is written
last and at once: where it stands, the part is done, and what is done is not done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.footage.clips import ClipSettings, read_clips
from gen1_jax.data_pipelines.footage.images import ImageSettings, read_tar, store_image
from gen1_jax.data_pipelines.footage.inputs import Group, Input, find_caption, read_group
from gen1_jax.data_pipelines.footage.likeness import hash_clip, hash_image
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.data_pipelines.footage.splits import name_split
from gen1_jax.errors import WritingFailed, one_line
from gen1_jax.files import write_json
from gen1_jax.video.sources import Unreadable


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs to know.

    Attributes:
        work: the folder of lists and parts, which every worker sees under this name.
        root: the folder that the inputs' paths are relative to.
        settings: of clips or of images, which says which of the two is made.
        validation_fraction: share of the inputs whose records go to the validation split.
    """

    work: str
    root: str
    settings: ClipSettings | ImageSettings
    validation_fraction: float

    @property
    def inputs(self) -> Path:
        return Path(self.work) / "inputs.jsonl"

    def part(self, index: int, suffix: str) -> Path:
        return Path(self.work) / "parts" / f"{index:06d}{suffix}"


def is_done(job: Job, index: int) -> bool:
    return job.part(index, ".json").exists()


def make_part(group: Group, job: Job) -> int:
    """Reads a group's inputs and writes its part; a part that is there already stays."""
    if not is_done(job, group.index):
        with _PartWriter(job, group.index) as part:
            for each in read_group(job.inputs, group):
                _ingest(each, job, part)
    return group.index


def _ingest(each: Input, job: Job, part: _PartWriter) -> None:
    path = Path(job.root) / each.path
    images = isinstance(job.settings, ImageSettings)
    if images and path.suffix.lower() == ".tar" and not each.refused:
        _ingest_tar(each, path, job, part)
        return
    with part.outcome(each.path) as outcome:
        if each.refused:
            raise Unreadable(each.refused, "")
        if not os.path.lexists(path):
            raise Unreadable("missing", "")
        caption = find_caption(path) if each.caption is None else each.caption
        if images:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise Unreadable("cannot be opened", one_line(error)) from error
            _add_image(data, caption, each.path, job, part)
            return
        for clip in read_clips(path, job.settings, outcome):
            stored = records.encode_clip(
                clip.frames, clip.times, caption, each.path, clip.start, crf=job.settings.crf
            )
            # what readers will decode is decoded here once
            frames = records.decode_clip(stored)["frames"]
            split = name_split(each.path, job.validation_fraction)
            part.add(_serialize("clips", stored), split, hash_clip(frames))


def _ingest_tar(each: Input, path: Path, job: Job, part: _PartWriter) -> None:
    """Every sample is an input; the archive itself only where it cannot be read."""
    samples, empty = read_tar(path), True
    while True:
        try:
            key, image, caption, refused = next(samples)
        except StopIteration:
            break
        except Unreadable as error:
            with part.outcome(each.path):
                raise error
            return
        empty = False
        name = f"{each.path}/{key}"
        with part.outcome(name):
            if refused:
                raise Unreadable(refused, "")
            if image is None:
                raise Unreadable("not an image", "a sample without an image")
            _add_image(image, caption, name, job, part)
    if empty:
        with part.outcome(each.path):
            raise Unreadable("not an image", "an archive without images")


def _add_image(data: bytes, caption: str, name: str, job: Job, part: _PartWriter) -> None:
    stored, bucket, pixels = store_image(data, caption, name, job.settings)
    records.decode_image(stored)
    split = name_split(name, job.validation_fraction, bucket)
    part.add(_serialize("images", stored), split, hash_image(pixels))


def _serialize(kind: str, stored: dict) -> bytes:
    """As TFDS does it, but with the fields in one order: the same record, the same bytes."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(_features(kind).serialize_example(stored))
    return example.SerializeToString(deterministic=True)


@functools.cache
def _features(kind: str) -> Any:
    return records.clip_features() if kind == "clips" else records.image_features()


class _PartWriter:
    """Collects outcomes and records; a context manager that leaves a whole part or nothing."""

    def __init__(self, job: Job, index: int):
        self._job, self._index = job, index
        self._outcomes: list[Outcome] = []
        self._records: list[tuple] = []
        self._writer: Any = None
        self._temporary = job.part(index, f".{uuid.uuid4().hex}.tmp")

    def __enter__(self) -> _PartWriter:
        return self

    @contextlib.contextmanager
    def outcome(self, path: str) -> Iterator[Outcome]:
        """Takes down what becomes of an input; whatever it raises is that input's fault."""
        outcome = Outcome(path)
        self._outcomes.append(outcome)
        try:
            yield outcome
        except WritingFailed:
            raise
        except Unreadable as error:
            if outcome.kept:
                outcome.note = outcome.note or str(error)
            else:
                outcome.dropped.clear()
                note = str(error).rpartition(f"{path}: ")[2].partition(";")[0]
                outcome.drop(error.reason, "" if note == error.reason else _short(note))
        except Exception as error:  # no file, however broken, may stop the others
            outcome.dropped.clear()
            outcome.drop("damaged", _short(f"{type(error).__name__}: {one_line(error)}"))

    def add(self, serialized: bytes, split: str, likeness: bytes) -> None:
        """A record of the input whose outcome is open."""
        try:
            if self._writer is None:
                self._writer = ArrayRecordWriter(str(self._temporary), "group_size:1")
            self._writer.write(serialized)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._failed(error) from error
        self._outcomes[-1].kept += 1
        self._records.append((len(self._outcomes) - 1, split, likeness.hex(), len(serialized)))

    def __exit__(self, error_type, error, trace) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
                if error_type is None:
                    os.replace(self._temporary, self._job.part(self._index, ".array_record"))
        except (OSError, RuntimeError, ValueError) as failure:
            if error_type is None:
                raise self._failed(failure) from failure
        finally:
            self._temporary.unlink(missing_ok=True)
        if error_type is None:
            content = {
                "outcomes": [outcome.to_json() for outcome in self._outcomes],
                "records": self._records,
            }
            write_json(self._job.part(self._index, ".json"), content, indent=None)

    def _failed(self, error: Exception) -> WritingFailed:
        return WritingFailed(f"cannot write {self._job.work}: {one_line(error)}")


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"


def read_part(job: Job, index: int) -> dict:
    """What `make_part` took down: "outcomes", and "records": (outcome, split, likeness, bytes)."""
    return json.loads(job.part(index, ".json").read_text())
