"""Films that repeat one another are kin, and kin are in one split.

A film may lie in the source twice, once recoded or cut differently. Its repeated clips are dropped
as duplicates. The clips that remain of the second film show the same scenes, so they may not be
held out while the first film's are trained on. Two inputs are kin if at least half of the clips of
one of them repeat clips of the other; a logo that a thousand films share makes no kin. The split of
kin follows from their contents alone, whatever their order; kin of a film that a data set holds
already get its split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from gen1_jax.data_pipelines.footage.chunks import Job, read_chunk
from gen1_jax.data_pipelines.footage.duplicates import read_final
from gen1_jax.data_pipelines.footage.history import read_outcomes
from gen1_jax.files import read_json, write_json

_SHARE = 0.5  # least share of repeated clips
Place = tuple[int, int]  # chunk and number of an input; chunk -1 - i is the known file number i


def unite_kin(job: Job, num_chunks: int, known: Sequence[Path]) -> None:
    """Gives kin one split, in the final version of the chunks.

    Args:
      job: the ingest.
      num_chunks: number of its chunks.
      known: files of prints of records that other ingests made.
    """
    shared: Counter[tuple[Place, Place]] = Counter()
    for index, final in read_final(job, num_chunks):
        shared.update(((index, own), (chunk, other)) for own, chunk, other in final["same"])
    if not shared:
        return
    facts = _read_facts(job, num_chunks, known, {place for pair in shared for place in pair})
    parents = {place: place for place in facts}
    for (one, other), count in shared.items():
        if count >= _SHARE * min(facts[one]["records"], facts[other]["records"]):
            parents[_root(one, parents)] = _root(other, parents)
    families: dict[Place, list[Place]] = defaultdict(list)
    for place in facts:
        families[_root(place, parents)].append(place)
    moves: dict[int, dict[int, str]] = defaultdict(dict)
    for family in families.values():
        there = sorted((facts[place] for place in family), key=lambda fact: fact["rank"])
        for chunk, number in family:
            if chunk >= 0 and facts[chunk, number]["split"] != there[0]["split"]:
                moves[chunk][number] = there[0]["split"]
    for index in sorted(moves):
        _move(job, index, moves[index])


def _move(job: Job, index: int, moves: dict[int, str]) -> None:
    """Writes the final version of a chunk anew, in which some inputs have another split."""
    final = read_json(job.chunk(index, ".final.json"))
    for number, split in moves.items():
        final["outcomes"][number]["split"] = split
    before = {record: split for split, kept in final["splits"].items() for record, _ in kept}
    splits: dict[str, list] = {}
    for record, (number, *_, size) in enumerate(read_chunk(job, index)["records"]):
        if record in before:
            split = moves.get(number, before[record])
            splits.setdefault(split, []).append((record, size))
    write_json(job.chunk(index, ".final.json"), {**final, "splits": splits}, indent=None)


def _read_facts(
    job: Job, num_chunks: int, known: Sequence[Path], places: set[Place]
) -> dict[Place, dict]:
    """Returns the split of inputs, the number of records that they gave, and who comes first."""
    wanted: dict[int, list[int]] = defaultdict(list)
    for chunk, number in places:
        wanted[chunk].append(number)
    facts = {}
    for chunk in sorted(wanted):
        outcomes = read_outcomes(known[-1 - chunk] if chunk < 0 else job.chunk(chunk, ".prints"))
        for number in wanted[chunk]:
            fields = outcomes[number]
            facts[chunk, number] = {
                "split": fields["split"],
                "records": fields["kept"] + fields["dropped"].get("duplicate", 0),
                "rank": (chunk >= 0, fields["content"]),
            }
    return facts


def _root(place: Place, parents: dict[Place, Place]) -> Place:
    while parents[place] != place:
        parents[place] = place = parents[parents[place]]
    return place
