"""Chunks of an ingest: the records made of one group of inputs, and what became of each input.

A chunk is an ArrayRecord file of serialised records, a file of their prints and a JSON file beside
it. The JSON file lists the outcome of every input and the split of every record. It is written last
and atomically: where it exists, the chunk is finished and is not made again. The files are in the
work folder's `parts`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from gen1_jax.data_pipelines.footage import contents, records
from gen1_jax.data_pipelines.footage.archives import MAX_BYTES, find_bounds, read_tar
from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.groups import Group, is_archive, read_group
from gen1_jax.data_pipelines.footage.identity import identify, identify_path
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.inputs import Input, find_caption
from gen1_jax.data_pipelines.footage.isolation import make_clips, make_image
from gen1_jax.data_pipelines.footage.keys import in_bucket, name_split
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.errors import WritingFailed, one_line
from gen1_jax.files import read_json, replacing, write_json
from gen1_jax.text import REPLACED, mend_text
from gen1_jax.video.sources import Unreadable


@dataclasses.dataclass(frozen=True)
class Job:
    """The facts of an ingest that every worker needs.

    Attributes:
      work: work folder, which every worker sees under this name.
      root: folder to which the inputs' paths are relative.
      settings: settings of clips or of images; their type says which of the two is made.
      validation_fraction: share of the inputs whose records go to the validation split.
      before: folders that earlier ingests into the same data set left, by `history`.
    """

    work: str
    root: str
    settings: ClipSettings | ImageSettings
    validation_fraction: float
    before: tuple[str, ...] = ()

    @property
    def inputs(self) -> Path:
        """The file that lists all inputs."""
        return Path(self.work) / "inputs.jsonl"

    @property
    def chunks(self) -> Path:
        """The folder of all chunks; its name is that of work folders made by earlier versions."""
        return Path(self.work) / "parts"

    def chunk(self, index: int, suffix: str) -> Path:
        """Returns the place of a chunk's file."""
        return self.chunks / f"{index:06d}{suffix}"


def is_done(job: Job, index: int) -> bool:
    """Returns whether a chunk is finished."""
    return job.chunk(index, ".json").exists()


def make_chunk(group: Group, job: Job) -> int:
    """Reads a group of inputs and writes its chunk, unless it is finished; returns its number."""
    if not is_done(job, group.index):
        with _ChunkWriter(job, group.index) as chunk:
            for each, size in read_group(job.inputs, group):
                if isinstance(job.settings, ImageSettings) and is_archive(each.path):
                    _ingest_tar(each, size, group, job, chunk)
                else:
                    _ingest(each, job, chunk)
    return group.index


def read_chunk(job: Job, index: int) -> dict:
    """Returns the JSON of a chunk.

    It holds "outcomes", one for each input, and "records", each of them [number of its outcome,
    split, size in bytes].
    """
    return read_json(job.chunk(index, ".json"))


# ---- inputs


def _ingest(each: Input, job: Job, chunk: _ChunkWriter) -> None:
    path = Path(job.root) / each.path
    with chunk.outcome(each.path) as outcome:
        _check_there(each, path)
        caption = find_caption(path) if each.caption is None else mend_text(each.caption)
        outcome.caption_mended = REPLACED in caption
        if isinstance(job.settings, ImageSettings):
            _add_image(_read_image(path), caption, outcome, job, chunk)
            return
        try:
            content = identify_path(path)
        except OSError as error:
            raise Unreadable("cannot be opened", one_line(error)) from error
        _identify(outcome, content, job)
        for made in make_clips(path, job.settings, caption, outcome):
            chunk.add(_serialize("clips", made.record), outcome.split, made.prints)


def _read_image(path: Path) -> bytes:
    """Returns the bytes of an image's file.

    Raises:
      Unreadable: it cannot be read, is no file, such as a pipe, or holds more than an image may.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise Unreadable("cannot be opened", "is no file")
        if state.st_size > MAX_BYTES:
            raise Unreadable("too many pixels", f"{state.st_size:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable("cannot be opened", one_line(error)) from error


def _ingest_tar(each: Input, size: int, group: Group, job: Job, chunk: _ChunkWriter) -> None:
    """Adds the images of an archive, or of the range of it that the group is.

    Each sample has an outcome of its own. The archive has one only if it cannot be read.
    """
    path, empty = Path(job.root) / each.path, group.part == 0
    try:
        _check_there(each, path)
        for key, image, caption, refused in read_tar(path, *_range(path, size, group, job)):
            empty = False
            name = f"{each.path}/{key}"
            with chunk.outcome(name) as outcome:
                outcome.caption_mended = REPLACED in caption
                if refused:
                    raise Unreadable(refused, "")
                if image is None:
                    raise Unreadable("not an image", "a sample without an image")
                _add_image(image, caption, outcome, job, chunk)
        if empty:
            raise Unreadable("not an image", "an archive without images")
    except Unreadable as error:
        with chunk.outcome(each.path):
            raise error


def _range(path: Path, size: int, group: Group, job: Job) -> tuple[int, int | None]:
    """Returns where the group's range of an archive begins and ends, in bytes.

    The worker that comes first to an archive finds the bounds of all ranges for the others.
    """
    if group.parts == 1:
        return 0, None
    file = Path(job.work) / "archives" / f"{group.index - group.part:06d}.json"
    found = read_json(file)
    if found is None:
        found = {"bounds": find_bounds(path, size, group.parts)}
        write_json(file, found, indent=None)
    begin, end = (*found["bounds"], None)[group.part : group.part + 2]
    return (0, 0) if begin is None else (begin, end)


def _check_there(each: Input, path: Path) -> None:
    """Raises Unreadable for an input that is refused or missing."""
    if each.refused:
        raise Unreadable(each.refused, "")
    if not os.path.lexists(path):
        raise Unreadable("missing", "")


def _add_image(data: bytes, caption: str, outcome: Outcome, job: Job, chunk: _ChunkWriter) -> None:
    _identify(outcome, identify(data), job)
    made = make_image(data, job.settings, caption, outcome)
    split = in_bucket(outcome.split, made.bucket)
    chunk.add(_serialize("images", made.record), split, made.prints)


def _identify(outcome: Outcome, content: str, job: Job) -> None:
    """Notes the content of an input, and the split that follows from it.

    Raises:
      Unreadable: the data set was given the same content before.
    """
    if contents.hold(job.before, content):
        raise Unreadable("there already", "")
    outcome.content = content
    outcome.split = name_split(content, job.validation_fraction)


def _serialize(kind: str, stored: dict) -> bytes:
    """Serialises a record as TFDS does, with the fields in a fixed order, so that bytes repeat."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(_features(kind).serialize_example(stored))
    return example.SerializeToString(deterministic=True)


@functools.cache
def _features(kind: str) -> Any:
    return records.clip_features() if kind == "clips" else records.image_features()


# ---- files


class _ChunkWriter:
    """Collects outcomes and records; a context manager that writes a whole chunk or none.

    Raises:
      WritingFailed: the chunk cannot be written.
    """

    def __init__(self, job: Job, index: int):
        self._job, self._index = job, index
        self._outcomes: list[Outcome] = []
        self._records: list[tuple] = []
        self._writer: Any = None
        self._prints: Any = None
        self._file = contextlib.ExitStack()

    def __enter__(self) -> _ChunkWriter:
        return self

    @contextlib.contextmanager
    def outcome(self, path: str) -> Iterator[Outcome]:
        """Yields the outcome of an input; any error of the block is noted as the input's fault."""
        outcome = Outcome(path)
        self._outcomes.append(outcome)
        try:
            yield outcome
        except WritingFailed:
            raise
        except Unreadable as error:
            if outcome.kept:
                outcome.note = f"damaged: {error.reason}: {_short(str(error))}"
            else:
                outcome.dropped.clear()
                note = str(error).rpartition(f"{path}: ")[2].partition(";")[0]
                outcome.drop(error.reason, "" if note == error.reason else _short(note))
        except Exception as error:  # no file, however broken, may stop the others
            outcome.dropped.clear()
            outcome.drop("damaged", _short(f"{type(error).__name__}: {one_line(error)}"))

    def add(self, serialized: bytes, split: str, prints: np.ndarray) -> None:
        """Adds a record, and its prints, of the input whose outcome is open."""
        prints["input"] = len(self._outcomes) - 1
        with self._writing():
            if self._writer is None:
                path = self._job.chunk(self._index, ".array_record")
                part = self._file.enter_context(replacing(path))
                self._writer = ArrayRecordWriter(str(part), "group_size:1")
                part = self._file.enter_context(replacing(path.with_suffix(".prints")))
                self._prints = self._file.enter_context(part.open("wb"))
            self._writer.write(serialized)
            self._prints.write(prints.tobytes())
        self._outcomes[-1].kept += 1
        self._records.append((len(self._outcomes) - 1, split, len(serialized)))

    def __exit__(self, error_type, error, trace) -> None:
        with self._file:
            try:
                if self._writer is not None:
                    with self._writing():
                        self._writer.close()
            finally:
                if error is not None:
                    raise error  # also through `replacing`, which then discards the file
        content = {
            "outcomes": [outcome.to_json() for outcome in self._outcomes],
            "records": self._records,
        }
        write_json(self._job.chunk(self._index, ".json"), content, indent=None)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except WritingFailed:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise WritingFailed(f"cannot write {self._job.work}: {one_line(error)}") from error


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"
