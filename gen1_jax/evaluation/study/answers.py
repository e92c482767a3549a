"""Reads the files that participants of a study send back, and says what is wrong with a wrong line.

A file may have been edited by hand, sent twice, or be of another study. Each line is checked
against the study's key and against what its participant was shown; see `drawing`.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen1_jax.errors import UserError, one_line
from gen1_jax.evaluation.study.drawing import PARTICIPANT, draw
from gen1_jax.files import read_json
from gen1_jax.text import find_undecodable

COLUMNS = ("study", "participant", "pair", "side", "choice", "seconds", "check")
NONE = "none"  # the choice where a video could not be played


@dataclass(frozen=True)
class Answer:
    """A participant's choice.

    Attributes:
      participant: the id.
      pair: id of a pair or of a check.
      choice: a, b or none.
      seconds: from the first start of the videos on.
    """

    participant: str
    pair: str
    choice: str
    seconds: float


def read_key(path: Path) -> dict:
    """Returns the key of a study.

    Raises:
      UserError: there is none, or it is no key of `gen1 study make`.
    """
    key = read_json(path)
    if key is None:
        raise UserError(f"{path}: no such file; the key.json of `gen1 study make` is accepted")
    names = {"study": str, "seed": int, "each": int, "ours": str, "pairs": dict, "checks": dict}
    if not all(isinstance(key.get(name), kind) for name, kind in names.items()):
        raise UserError(f"{path}: not the key.json of `gen1 study make`")
    return key


def read_answers(paths: Sequence[Path], key: Mapping) -> tuple[list[Answer], list[str], list[str]]:
    """Returns the answers that are right in form, the problems of all others, and notes.

    Answers of one file that are equal to those of another are counted once; a note says so.

    Raises:
      UserError: a file cannot be read.
    """
    answers, problems, notes = [], [], []
    seen: dict[tuple[str, str], tuple[Path, str, tuple]] = {}
    sides: dict[str, dict[str, str]] = {}
    for path in paths:
        strangers, repeats = Counter(), Counter()
        for place, row in _rows(path):
            fault = row if isinstance(row, str) else _fault(row, key, sides)
            if isinstance(row, dict) and row.get("study") not in (None, key["study"]):
                strangers[row["study"]] += 1
                continue
            if fault:
                problems.append(f"{path}, {place}: {fault}")
                continue
            values = tuple(row[name] for name in COLUMNS)
            own = row["participant"], row["pair"]
            if own in seen:
                other, earlier, before = seen[own]
                if other != path and before == values:
                    repeats[other] += 1
                    continue
                problems.append(
                    f"{path}, {place}: participant {own[0]} has answered {own[1]} before: "
                    f"{other}, {earlier}"
                )
                continue
            seen[own] = path, place, values
            answers.append(Answer(*own, row["choice"], float(row["seconds"])))
        for study, count in strangers.items():
            problems.append(
                f"{path}: {count} lines are of study {study[:40]!r}; {key['study']} is accepted"
            )
        for other, count in repeats.items():
            notes.append(f"{path}: {count} lines repeat those of {other}; they count once")
    return answers, problems, notes


def _rows(path: Path) -> Iterator[tuple[str, dict | str]]:
    """Yields each row with its place, or with what is wrong about its form."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    except UnicodeDecodeError:
        yield find_undecodable(path).partition(":")[0], "holds bytes that are no UTF-8"
        return
    if path.suffix.lower() == ".json":
        yield from _json_rows(text)
        return
    header = text.partition("\n")[0]
    # Some spreadsheets write semicolons where a comma is the decimal sign.
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=max(",;\t", key=header.count))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        yield "line 1", f"columns {', '.join(missing)} are missing; accepted: {','.join(COLUMNS)}"
        return
    empty = True
    for row in reader:
        empty, place = False, f"line {reader.line_num}"
        if None in row:
            yield place, f"more values than the {len(reader.fieldnames)} columns"
        elif None in row.values():
            yield place, f"fewer values than the {len(reader.fieldnames)} columns"
        else:
            yield place, {name: row[name].strip() for name in COLUMNS}
    if empty:
        yield "line 1", "no answers follow"


def _json_rows(text: str) -> Iterator[tuple[str, dict | str]]:
    try:
        rows = json.loads(text)["answers"]
        assert isinstance(rows, list)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        yield "line 1", "not the JSON of a study's page"
        return
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict) and row.keys() >= set(COLUMNS):
            yield f"answer {number}", {name: str(row[name]) for name in COLUMNS}
        else:
            yield f"answer {number}", f"not an object of {', '.join(COLUMNS)}"


def _fault(row: Mapping[str, str], key: Mapping, sides: dict[str, dict[str, str]]) -> str | None:
    """Returns what is wrong with a row, or None.

    Args:
      row: of a file.
      key: of the study.
      sides: participant → pair → what stood left; filled as participants come.
    """
    participant, pair = row["participant"], row["pair"]
    if not PARTICIPANT.fullmatch(participant):
        return f"participant {participant[:40]!r}; letters, digits, - and _ are accepted"
    if pair not in key["pairs"] and pair not in key["checks"]:
        return f"the study has no pair {pair[:40]!r}"
    if participant not in sides:
        sides[participant] = {p: left for p, left in draw(key, participant)}
    left = sides[participant].get(pair)
    if left is None:
        return f"pair {pair} was not shown to participant {participant}"
    other = {"a": "b", "b": "a"}[left]
    shown = {("left", left), ("right", other), (NONE, NONE)}
    if row["choice"] not in ("a", "b", NONE):
        return f"choice {row['choice'][:40]!r}; a, b or {NONE} is accepted"
    if (row["side"], row["choice"]) not in shown:
        return (
            f"side {row['side'][:40]!r} does not go with choice {row['choice']}: "
            f"{left} stood left and {other} right"
        )
    if row["check"] != str(int(pair in key["checks"])):
        return f"check {row['check'][:40]!r}; for pair {pair} it is {int(pair in key['checks'])}"
    try:
        seconds = float(row["seconds"])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        return f"seconds {row['seconds'][:40]!r}; a number of 0 or more is accepted"
    return None
