"""Duplicates among all records, found on Beam, and the last word on every part.

A record is a duplicate where an earlier one (in the order of the inputs) of another input differs
from it in at most `likeness.DISTANCE` bits. That says nothing of the order in which workers find
it, so every runner gives the same. Equal likenesses meet by a group of that likeness; near ones by
a group of a piece of it, which two that near must share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.footage.likeness import DISTANCE, bands
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.data_pipelines.footage.parts import Job, read_part
from gen1_jax.files import write_json

# (part, outcome, record): the place of a record in the order of the inputs
Place = tuple[int, int, int]
# Pieces that flat pictures share by the hundred thousand are compared with this many before them;
# their equals have met by then.
_MOST_COMPARED = 20_000


def resolve(pipeline: Any, job: Job, indices: Iterable[int]) -> Any:
    """Beam: finds duplicates among parts and writes each part's `.final.json`."""
    import apache_beam as beam

    parts = pipeline | "Parts" >> beam.Create(list(indices)) | "Spread" >> beam.Reshuffle()
    groups = (
        parts
        | "Likenesses" >> beam.FlatMap(read_likenesses, job)
        | "SameLikeness" >> beam.GroupByKey()
        | "Equal" >> beam.FlatMap(split_equal).with_outputs("first", "duplicate")
    )
    near = (
        groups.first
        | "Pieces" >> beam.FlatMap(by_piece)
        | "SamePiece" >> beam.GroupByKey()
        | "Near" >> beam.FlatMap(find_near)
    )
    everyone = parts | "EveryPart" >> beam.Map(lambda index: (index, -1))
    return (
        (groups.duplicate, near, everyone)
        | "All" >> beam.Flatten()
        | "PerPart" >> beam.GroupByKey()
        | "Final" >> beam.Map(write_final, job)
    )


def read_likenesses(index: int, job: Job) -> Iterator[tuple[bytes, Place]]:
    for record, (outcome, _, likeness, _) in enumerate(read_part(job, index)["records"]):
        yield bytes.fromhex(likeness), (index, outcome, record)


def split_equal(item: tuple[bytes, Iterable[Place]]) -> Iterator[Any]:
    """Of records of one likeness: those of the first input go on, the others are duplicates."""
    from apache_beam.pvalue import TaggedOutput

    likeness, places = item
    ordered = sorted(tuple(place) for place in places)
    for place in ordered:
        if place[:2] == ordered[0][:2]:
            yield TaggedOutput("first", (likeness, place))
        else:
            yield TaggedOutput("duplicate", (place[0], place[2]))


def by_piece(item: tuple[bytes, Place]) -> Iterator[tuple[bytes, tuple[bytes, Place]]]:
    likeness, place = item
    for piece in bands(likeness):
        yield piece, (likeness, place)


def find_near(item: tuple[bytes, Iterable[tuple[bytes, Place]]]) -> Iterator[tuple[int, int]]:
    """(part, record) of those that an earlier record of the group is near to."""
    _, members = item
    ordered = sorted((tuple(place), likeness) for likeness, place in members)
    if len(ordered) < 2:
        return
    table = np.frombuffer(b"".join(likeness for _, likeness in ordered), np.uint64)
    table = table.reshape(len(ordered), -1)
    inputs = np.array([place[:2] for place, _ in ordered])
    for row in range(1, len(ordered)):
        before = slice(max(0, row - _MOST_COMPARED), row)
        near = np.bitwise_count(table[before] ^ table[row]).sum(axis=1) <= DISTANCE
        if (near & (inputs[before] != inputs[row]).any(axis=1)).any():
            place = ordered[row][0]
            yield place[0], place[2]


def write_final(item: tuple[int, Iterable[int]], job: Job) -> int:
    """Writes what remains of a part: its outcomes, and by split the records kept with their bytes.

    A record is (its place in the part, bytes).
    """
    index, found = item
    duplicates = set(found)
    content = read_part(job, index)
    outcomes = [Outcome.from_json(fields) for fields in content["outcomes"]]
    splits: dict[str, list] = {}
    for record, (outcome, split, _, size) in enumerate(content["records"]):
        if record in duplicates:
            outcomes[outcome].kept -= 1
            outcomes[outcome].drop("duplicate")
        else:
            splits.setdefault(split, []).append((record, size))
    final = {"outcomes": [outcome.to_json() for outcome in outcomes], "splits": splits}
    write_json(job.part(index, ".final.json"), final, indent=None)
    return index


def read_final(job: Job, count: int) -> Iterator[tuple[int, dict]]:
    """The parts' last words, in order."""
    for index in range(count):
        yield index, json.loads(job.part(index, ".final.json").read_text())
