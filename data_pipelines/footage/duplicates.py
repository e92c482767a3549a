"""Duplicates among all records, and the final version of every chunk.

A record is a duplicate if an earlier record of another input, in the order of the inputs, holds the
same pixels or, by their prints, nearly the same. Records that a data set holds already come before
all others. The search has three steps, whose work items leave files in the work folder:

    prints of chunks → entries of a batch, sorted → candidates of a range of keys → final chunks

Every item is a pure function of the files before it and writes its own file whole or not at all. So
every runner gives the same result, an item may run twice, and finished items are not done again.
Nothing passes through a runner but the numbers of items.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gen1_jax.data_pipelines.footage import neighbours
from gen1_jax.data_pipelines.footage.chunks import Job, read_chunk
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.data_pipelines.footage.prints import ROW, are_same
from gen1_jax.data_pipelines.footage.runner import Runner
from gen1_jax.files import read_json, replacing, write_json

_BATCH = 2**17  # prints; their entries, 17 of each, are sorted in memory
_RANGE = 2**21  # entries
_AT_ONCE = 2**12  # prints that are read together
_MOST_NEAR = 4  # candidates of an entry
_MOST_TRIED = 16  # candidates of a record whose prints are compared

Piece = tuple[int, int, int]  # number of a file of prints, first row, end


@dataclasses.dataclass(frozen=True)
class Search:
    """A search for duplicates.

    Attributes:
      job: the ingest.
    """

    job: Job

    @property
    def folder(self) -> Path:
        return Path(self.job.work) / "duplicates"

    @property
    def known(self) -> Sequence[Path]:
        """The files of prints of records that the data set holds already."""
        return _read_known(self.known_list, self.known_list.stat().st_mtime_ns)

    @property
    def known_list(self) -> Path:
        """The file that lists `known`: a job graph would be too small for thousands of paths."""
        return self.folder / "known.json"

    def prints(self, number: int) -> Path:
        """Returns a file of prints: known ones come first, then those of the chunks."""
        own = number - len(self.known)
        return self.known[number] if own < 0 else self.job.chunk(own, ".prints")

    def entries(self, batch: int) -> Path:
        return self.folder / f"{batch:06d}.entries"

    def pairs(self, number: int) -> Path:
        return self.folder / f"{number:06d}.pairs"

    @property
    def bounds(self) -> Path:
        return self.folder / "bounds"


def resolve(job: Job, num_chunks: int, runner: Runner, known: Sequence[Path] = ()) -> None:
    """Finds duplicates and writes each chunk's `.final.json`.

    Args:
      job: the ingest.
      num_chunks: number of its chunks.
      runner: where the steps run.
      known: files of prints of records that the data set holds already; they come first.
    """
    search = Search(job)
    search.folder.mkdir(exist_ok=True)
    write_json(search.known_list, {"prints": [str(path) for path in known]}, indent=None)
    sizes = [_count(search.prints(number)) for number in range(len(known) + num_chunks)]
    batches = list(enumerate(_cut_batches(sizes)))
    samples = [neighbours.sample_of(search.entries(batch)) for batch, _ in batches]
    todo = [item for item, sample in zip(batches, samples, strict=True) if not sample.exists()]
    runner.each(todo, write_batch, search)

    bounds = neighbours.choose_bounds(
        [neighbours.read_sample(search.entries(batch)) for batch, _ in batches], _RANGE
    )
    with replacing(search.bounds) as part:
        part.write_bytes(bounds.tobytes())
    groups = _cut_groups(sizes[len(known) :])
    todo = [number for number in range(len(bounds)) if not search.pairs(number).exists()]
    runner.each(todo, write_pairs, search, len(batches), groups)
    todo = [
        group
        for group in range(len(groups) - 1)
        if not all(_final(job, i).exists() for i in range(groups[group], groups[group + 1]))
    ]
    runner.each(todo, write_finals, search, len(bounds), groups)


@functools.lru_cache(maxsize=2)
def _read_known(file: Path, written: int) -> Sequence[Path]:
    """Reads the list of known files, and again if it was written anew."""
    return [Path(path) for path in read_json(file)["prints"]]


def _count(path: Path) -> int:
    """Returns the number of prints of a file; a chunk without records has none."""
    return path.stat().st_size // ROW.itemsize if path.exists() else 0


def _cut_batches(sizes: Sequence[int]) -> list[list[Piece]]:
    batches: list[list[Piece]] = []
    room = 0
    for number, size in enumerate(sizes):
        start = 0
        while start < size:
            if not room:
                batches.append([])
                room = _BATCH
            end = min(size, start + room)
            batches[-1].append((number, start, end))
            room -= end - start
            start = end
    return batches


def _cut_groups(sizes: Sequence[int]) -> list[int]:
    """Returns the first chunks of groups of about as many prints as a batch, and their end."""
    starts, held = [0], 0
    for chunk, size in enumerate(sizes):
        if held and held + size > _BATCH:
            starts.append(chunk)
            held = 0
        held += size
    return [*starts, len(sizes)]


# ---- steps


def write_batch(item: tuple[int, list[Piece]], search: Search) -> None:
    """Writes the sorted entries of a batch of prints."""
    batch, pieces = item
    parts = [np.zeros(0, neighbours.ENTRY)]
    for number, start, end in pieces:
        for first in range(start, end, _AT_ONCE):
            rows = _read_rows(search.prints(number), first, min(end, first + _AT_ONCE))
            parts.append(neighbours.make_entries(rows, number, first))
    neighbours.write_entries(np.concatenate(parts), search.entries(batch))


def write_pairs(number: int, search: Search, batches: int, groups: Sequence[int]) -> None:
    """Writes the candidates that a range of keys shows: pairs of prints, in order of the later.

    The file begins with the number of pairs before each group of chunks.
    """
    bounds = np.frombuffer(search.bounds.read_bytes(), neighbours.BOUND)
    paths = [search.entries(batch) for batch in range(batches)]
    upper = bounds[number + 1] if number + 1 < len(bounds) else None
    entries, before = neighbours.read_range(paths, bounds[number], upper)
    own = neighbours.place_of(len(search.known), 0)  # known records come before it
    held = np.zeros(len(entries), np.uint8)
    parts = [np.zeros(0, neighbours.PAIR)]
    for later, pairs in neighbours.find_pairs(entries, before):
        useful = (held[later] < _MOST_NEAR) & (pairs["later"] >= own)
        held[later[useful]] += 1
        parts.append(pairs[useful])
    pairs = np.unique(np.concatenate(parts))
    starts = neighbours.place_of(len(search.known) + np.array(groups), 0)
    offsets = np.searchsorted(pairs["later"], starts).astype("<u8")
    with replacing(search.pairs(number)) as part:
        part.write_bytes(offsets.tobytes() + pairs.tobytes())


def write_finals(group: int, search: Search, ranges: int, groups: Sequence[int]) -> None:
    """Compares the candidates of a group of chunks, and writes what remains of the group."""
    parts, header, size = [], 8 * len(groups), neighbours.PAIR.itemsize
    for number in range(ranges):
        with search.pairs(number).open("rb") as file:
            offsets = np.frombuffer(file.read(header), "<u8")
            file.seek(header + size * int(offsets[group]))
            data = file.read(size * int(offsets[group + 1] - offsets[group]))
            parts.append(np.frombuffer(data, neighbours.PAIR))
    found = _compare_pairs(search, np.unique(np.concatenate(parts)))
    known = len(search.known)
    chunks, records = neighbours.chunk_and_row(found["later"])
    others = neighbours.chunk_and_row(found["first"])[0]
    others = np.where(others < known, -1 - others, others - known).tolist()
    for index in range(groups[group], groups[group + 1]):
        own = np.flatnonzero(chunks == index + known)
        inputs = found["input"][own].tolist()
        repeats = ((others[at], put) for at, put in zip(own, inputs, strict=True))
        write_final(index, dict(zip(records[own].tolist(), repeats, strict=True)), search.job)


def _compare_pairs(search: Search, pairs: np.ndarray) -> np.ndarray:
    """Returns the pairs that hold the same; `later` is changed to the place of a record.

    A record has one such pair at most: its nearest candidates are compared until one is the same.
    """
    frames = 1
    if len(pairs):
        number, row = (int(part[0]) for part in neighbours.chunk_and_row(pairs["later"][:1]))
        frames = int(_read_rows(search.prints(number), row, row + 1)["frames"][0])
    chunks, rows = neighbours.chunk_and_row(pairs["later"])
    records = neighbours.place_of(chunks, rows // frames)
    order = np.lexsort((pairs["first"], pairs["distance"], records))
    pairs, records = pairs[order], records[order]
    starts = np.flatnonzero(np.concatenate([[True], records[1:] != records[:-1]])[: len(records)])
    ends = np.append(starts[1:], len(records)).astype(int)
    found = [np.zeros(0, int)]
    for turn in range(_MOST_TRIED):
        left = starts + turn < ends
        starts, ends = starts[left], ends[left]
        now = starts + turn
        same = pairs["distance"][now] == neighbours.EXACT
        same[~same] = _compare(search, pairs["first"][now[~same]], pairs["later"][now[~same]])
        found.append(now[same])
        starts, ends = starts[~same], ends[~same]
    at = np.sort(np.concatenate(found))
    pairs = pairs[at]
    pairs["later"] = records[at]
    return pairs


def write_final(index: int, duplicates: dict[int, tuple[int, int]], job: Job) -> None:
    """Writes what remains of a chunk once its duplicates are dropped.

    The file holds the outcomes; for each split the records kept, [place in the chunk, bytes]; and
    in "same" for each duplicate [its input, the other's chunk, the other's input], where chunk
    -1 - i is the known file number i.

    Args:
      index: number of the chunk.
      duplicates: number of each duplicate → chunk and input of the first record that it repeats.
      job: the ingest.
    """
    content = read_chunk(job, index)
    outcomes = [Outcome.from_json(fields) for fields in content["outcomes"]]
    splits: dict[str, list] = {}
    same = []
    for record, (outcome, split, size) in enumerate(content["records"]):
        if record in duplicates:
            outcomes[outcome].kept -= 1
            outcomes[outcome].drop("duplicate")
            same.append((outcome, *duplicates[record]))
        else:
            splits.setdefault(split, []).append((record, size))
    outcomes = [outcome.to_json() for outcome in outcomes]
    write_json(
        _final(job, index), {"outcomes": outcomes, "splits": splits, "same": same}, indent=None
    )


def _final(job: Job, index: int) -> Path:
    return job.chunk(index, ".final.json")


def read_final(job: Job, count: int) -> Iterator[tuple[int, dict]]:
    """Yields the number of each chunk, in order, and what `write_final` wrote of it."""
    for index in range(count):
        yield index, read_chunk_final(job, index)


def read_chunk_final(job: Job, index: int) -> dict:
    """Returns what `write_final` wrote of a chunk."""
    return read_json(_final(job, index))


# ---- prints


def _compare(search: Search, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Returns whether pairs of places show the same; of two clips, all frames are compared."""
    same = np.zeros(len(one), bool)
    for start in range(0, len(one), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        rows = _gather(search, one[part]), _gather(search, two[part])
        alike = are_same(rows[0][:, None], rows[1][:, None])
        clips = np.flatnonzero(alike & (rows[0]["frames"] > 1) & (rows[1]["frames"] > 1))
        if len(clips):
            both = []
            for places, row in zip((one[part], two[part]), rows, strict=True):
                first = places[clips] - row["frame"][clips]
                steps = np.arange(row["frames"][clips[0]], dtype=np.uint64)
                every = (first[:, None] + steps).ravel()
                both.append(_gather(search, every).reshape(len(clips), -1))
            alike[clips] = are_same(*both)
        same[part] = alike
    return same


def _gather(search: Search, places: np.ndarray) -> np.ndarray:
    """Returns the prints of places, in their order."""
    unique, back = np.unique(places, return_inverse=True)
    numbers, rows = neighbours.chunk_and_row(unique)
    gathered = np.empty(len(unique), ROW)
    for number in np.unique(numbers):
        own = np.flatnonzero(numbers == number)
        with search.prints(int(number)).open("rb") as file:
            for index in own:
                file.seek(int(rows[index]) * ROW.itemsize)
                gathered[index] = np.frombuffer(file.read(ROW.itemsize), ROW)[0]
    return gathered[back.reshape(-1)]


def _read_rows(path: Path, start: int, end: int) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(start * ROW.itemsize)
        return np.frombuffer(file.read((end - start) * ROW.itemsize), ROW)
