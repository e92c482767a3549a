"""Duplicates among all records, found on Beam, and the final version of every chunk.

A record is a duplicate if an earlier record of another input, in the order of the inputs, has a
fingerprint that differs from its own in at most `keys.DISTANCE` bits. This does not depend on the
order in which workers find duplicates, so every runner gives the same result. Equal fingerprints
are found by grouping records by fingerprint. Near ones are found by grouping records by each piece
of their fingerprints, because two near fingerprints have at least one piece in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.footage.chunks import Job, read_chunk
from gen1_jax.data_pipelines.footage.keys import DISTANCE, cut_fingerprint
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.files import read_json, write_json

# The place of a record in the order of the inputs: (chunk, outcome, record).
Place = tuple[int, int, int]
# Flat pictures share a piece by the hundred thousand. In such a group, each record is compared with
# so many records before it; records with equal fingerprints have been found already.
_MOST_COMPARED = 20_000


def resolve(pipeline: Any, job: Job, indices: Iterable[int]) -> Any:
    """Adds to a Beam pipeline the search for duplicates, which writes each chunk's `.final.json`.

    Args:
      pipeline: the pipeline.
      job: the ingest.
      indices: numbers of its chunks.

    Returns:
      The collection of the numbers of chunks that have been written.
    """
    import apache_beam as beam

    chunks = pipeline | "Chunks" >> beam.Create(list(indices)) | "Spread" >> beam.Reshuffle()
    groups = (
        chunks
        | "Fingerprints" >> beam.FlatMap(read_fingerprints, job)
        | "SameFingerprint" >> beam.GroupByKey()
        | "Equal" >> beam.FlatMap(split_equal).with_outputs("first", "duplicate")
    )
    near = (
        groups.first
        | "Pieces" >> beam.FlatMap(by_piece)
        | "SamePiece" >> beam.GroupByKey()
        | "Near" >> beam.FlatMap(find_near)
    )
    every_chunk = chunks | "EveryChunk" >> beam.Map(lambda index: (index, -1))
    return (
        (groups.duplicate, near, every_chunk)
        | "All" >> beam.Flatten()
        | "PerChunk" >> beam.GroupByKey()
        | "Final" >> beam.Map(write_final, job)
    )


def read_fingerprints(index: int, job: Job) -> Iterator[tuple[bytes, Place]]:
    """Yields the fingerprint and place of each record of a chunk."""
    for record, (outcome, _, fingerprint, _) in enumerate(read_chunk(job, index)["records"]):
        yield bytes.fromhex(fingerprint), (index, outcome, record)


def split_equal(item: tuple[bytes, Iterable[Place]]) -> Iterator[Any]:
    """Splits records of one fingerprint into those of the first input and their duplicates."""
    from apache_beam.pvalue import TaggedOutput

    fingerprint, places = item
    ordered = sorted(tuple(place) for place in places)
    for place in ordered:
        if place[:2] == ordered[0][:2]:
            yield TaggedOutput("first", (fingerprint, place))
        else:
            yield TaggedOutput("duplicate", (place[0], place[2]))


def by_piece(item: tuple[bytes, Place]) -> Iterator[tuple[bytes, tuple[bytes, Place]]]:
    """Yields a record once for each piece of its fingerprint."""
    fingerprint, place = item
    for piece in cut_fingerprint(fingerprint):
        yield piece, (fingerprint, place)


def find_near(item: tuple[bytes, Iterable[tuple[bytes, Place]]]) -> Iterator[tuple[int, int]]:
    """Yields (chunk, record) of each record to which an earlier one of the group is near."""
    _, members = item
    ordered = sorted((tuple(place), fingerprint) for fingerprint, place in members)
    if len(ordered) < 2:
        return
    table = np.frombuffer(b"".join(fingerprint for _, fingerprint in ordered), np.uint64)
    table = table.reshape(len(ordered), -1)
    inputs = np.array([place[:2] for place, _ in ordered])
    for row in range(1, len(ordered)):
        before = slice(max(0, row - _MOST_COMPARED), row)
        near = np.bitwise_count(table[before] ^ table[row]).sum(axis=1) <= DISTANCE
        if (near & (inputs[before] != inputs[row]).any(axis=1)).any():
            place = ordered[row][0]
            yield place[0], place[2]


def write_final(item: tuple[int, Iterable[int]], job: Job) -> int:
    """Writes what remains of a chunk once its duplicates are dropped.

    The file holds the outcomes, and for each split the records kept: [place in the chunk, bytes].

    Args:
      item: number of the chunk, and the numbers of its duplicates.
      job: the ingest.

    Returns:
      The number of the chunk.
    """
    index, found = item
    duplicates = set(found)
    content = read_chunk(job, index)
    outcomes = [Outcome.from_json(fields) for fields in content["outcomes"]]
    splits: dict[str, list] = {}
    for record, (outcome, split, _, size) in enumerate(content["records"]):
        if record in duplicates:
            outcomes[outcome].kept -= 1
            outcomes[outcome].drop("duplicate")
        else:
            splits.setdefault(split, []).append((record, size))
    final = {"outcomes": [outcome.to_json() for outcome in outcomes], "splits": splits}
    write_json(job.chunk(index, ".final.json"), final, indent=None)
    return index


def read_final(job: Job, count: int) -> Iterator[tuple[int, dict]]:
    """Yields the number of each chunk, in order, and what `write_final` wrote of it."""
    for index in range(count):
        yield index, read_json(job.chunk(index, ".final.json"))
