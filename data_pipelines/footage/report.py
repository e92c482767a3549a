"""Counts what became of every input: `report.json`, `inputs.jsonl` and a table to print.

A later ingest into the same folder has `inputs_001.jsonl`, and so on.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.duplicates import read_final
from gen1_jax.data_pipelines.footage.keys import TRAIN, VALIDATION
from gen1_jax.data_pipelines.footage.outcomes import REASONS, UNWANTED, Outcome
from gen1_jax.files import replacing, write_json
from gen1_jax.text import name_of

REPORT = "report.json"


def inputs_file(folder: Path, number: int) -> Path:
    """Returns the place of the list of inputs of an ingest into a folder, the first being 0."""
    return folder / (f"inputs_{number:03d}.jsonl" if number else "inputs.jsonl")


def write_inputs(job: Job, num_chunks: int, file: Path) -> None:
    """Writes a line of JSON for each input, in order.

    A line holds the fields of an `Outcome` and its `reason`.
    """
    with replacing(file) as part, part.open("w", encoding="utf-8") as out:
        for _, final in read_final(job, num_chunks):
            for fields in final["outcomes"]:
                reason = Outcome.from_json(fields).reason
                path = name_of(fields["path"])  # strict readers refuse half a surrogate pair
                out.write(json.dumps({**fields, "path": path, "reason": reason}) + "\n")


def count(job: Job, num_chunks: int) -> dict:
    """Returns the numbers of a report.

    `inputs` is `used` plus the sum of `dropped`, because an input has at most one reason.
    `records_dropped` counts shots, clips and images that were read and are not wanted, including
    those of inputs that are used.
    """
    used = damaged = kept = mended = 0
    dropped: Counter[str] = Counter()
    unwanted: Counter[str] = Counter()
    splits: dict[str, Counter[str]] = {}
    for _, final in read_final(job, num_chunks):
        for fields in final["outcomes"]:
            outcome = Outcome.from_json(fields)
            kept += outcome.kept
            mended += outcome.caption_mended
            if outcome.kept:
                used += 1
                damaged += outcome.note.startswith("damaged")
            else:
                dropped[outcome.reason] += 1
            unwanted.update({r: n for r, n in outcome.dropped.items() if r in UNWANTED})
        for split, records in final["splits"].items():
            counter = splits.setdefault(split, Counter())
            counter["records"] += len(records)
            counter["bytes"] += sum(size for _, size in records)
    total = sum(counter["records"] for counter in splits.values())
    if total != kept:
        raise AssertionError(f"{kept} records are accounted for, {total} are there")
    return {
        "inputs": used + dropped.total(),
        "used": used,
        "used_though_damaged": damaged,
        "dropped": _in_order(dropped),
        "records": kept,
        "records_dropped": _in_order(unwanted),
        "captions_mended": mended,
        "splits": {split: dict(splits[split]) for split in sorted(splits)},
    }


def add_up(rounds: Sequence[dict]) -> dict:
    """Returns the report of a data set: the sums of its ingests, which it lists as `rounds`.

    `source` and `asked` are those of the last ingest.

    Args:
      rounds: the ingests, each with `kind`, `source`, the numbers of `count`, and `asked`.
    """
    return {**functools.reduce(_add, rounds), "rounds": list(rounds)}


def _add(one: dict, other: dict) -> dict:
    """Adds the numbers of two reports at every depth; what is no number is the other's."""
    added = {**one, **other}
    for key in one.keys() & other.keys() - {"asked"}:
        if isinstance(one[key], dict):
            added[key] = _add(one[key], other[key])
        elif isinstance(one[key], int):
            added[key] = one[key] + other[key]
    for key in added.keys() & {"dropped", "records_dropped"}:
        added[key] = _in_order(Counter(added[key]))
    return added


def write_report(report: dict, folder: Path) -> None:
    """Writes `report.json`."""
    write_json(folder / REPORT, report)


def format_report(report: dict, fresh: bool = True) -> str:
    """Returns a report as a table for people, below that of the last ingest if there were several.

    Args:
      report: the report of a data set.
      fresh: whether the last ingest was made just now; another one's table is left out.
    """
    lines = _table(report)
    if fresh and len(report["rounds"]) > 1:
        lines = [*_table(report["rounds"][-1]), "", "with what was there before:", *lines]
    return "\n".join([*lines, *notes(report["splits"], report)])


def _table(report: dict) -> list[str]:
    noun = report["kind"]
    rows = [("inputs", report["inputs"], ""), ("  used", report["used"], "")]
    if report["used_though_damaged"]:
        rows.append(("    of them damaged", report["used_though_damaged"], "what is whole is used"))
    for reason, number in report["dropped"].items():
        rows.append((f"  dropped: {reason}", number, REASONS[reason]))
    if report.get("captions_mended"):
        note = "characters that are no UTF-8 became U+FFFD; `inputs.jsonl` says where"
        rows.append(("captions mended", report["captions_mended"], note))
    rows.append((noun, report["records"], ""))
    for split, numbers in report["splits"].items():
        size = numbers["bytes"] / numbers["records"] / 1000
        rows.append((f"  {split}", numbers["records"], f"{size:.1f} kB each"))
    for reason, number in report["records_dropped"].items():
        rows.append((f"  not wanted: {reason}", number, ""))
    width = max(len(name) for name, _, _ in rows)
    return [f"{name:{width}}  {number:>9,}  {note}".rstrip() for name, number, note in rows]


def notes(splits: Collection[str], report: dict | None) -> list[str]:
    """Returns a line for each split that is missing because there are too few inputs.

    Args:
      splits: names of the splits that are there.
      report: the report of the ingest that made them, if it is known.
    """
    asked = (report or {}).get("asked", {}).get("validation_fraction")
    share = "" if asked is None else f" than {asked:g}"
    of = f" of {report['used']:,} inputs" if report and "used" in report else ""
    if asked != 0 and not any(split.startswith(VALIDATION) for split in splits):
        return [
            f"no validation split: the draw held out none{of}, so training would measure no "
            f"held-out loss; ingest into another --out with a --validation-fraction larger{share}"
        ]
    if not any(split.startswith(TRAIN) for split in splits):
        return [
            f"no training split: the draw held out all{of}; ingest into another --out with a "
            f"--validation-fraction smaller{share}"
        ]
    return []


def _in_order(counter: Counter[str]) -> dict[str, int]:
    return {reason: counter[reason] for reason in REASONS if counter[reason]}
