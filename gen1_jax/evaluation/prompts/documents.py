"""The files that hold prompts, of any layout: JSON lines, JSON, CSV and YAML."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError, one_line
from gen1_jax.text import read_lines

SUFFIXES = (".jsonl", ".json", ".csv", ".yaml", ".yml")  # others are read as JSON lines
_WHAT = "a prompt file"
_MOST_BYTES = 64 * 2**20
_MOST_YAML = 4 * 2**20  # its parser takes about a second a megabyte
_DELIMITERS = ",;\t"


@dataclasses.dataclass(frozen=True)
class Document:
    """The content of a file.

    Attributes:
      path: the file.
      kind: lines, json, csv or yaml.
      content: the lines as texts; what the JSON or YAML holds; of a CSV the rows of cells, the
        header first.
      numbers: of a CSV, the line where each row begins.
    """

    path: Path
    kind: str
    content: Any
    numbers: tuple[int, ...] = ()

    @property
    def header(self) -> Sequence[str]:
        """The names of a CSV's columns; of another file none."""
        return self.content[0] if self.kind == "csv" and self.content else ()

    def records(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yields the rows of a CSV as column → cell, each with the number of its line.

        A row that is longer than the header has its further cells under None, as in `csv`.
        """
        for number, cells in zip(self.numbers[1:], self.content[1:], strict=True):
            record: dict = dict(zip(self.header, cells, strict=False))
            if len(cells) > len(self.header):
                record[None] = cells[len(self.header) :]
            yield number, record


# ---- reading


def read_document(path: Path) -> Document:
    """Reads a file by its suffix.

    Raises:
      UserError: it cannot be read, is too large, or is not what its suffix says.
    """
    suffix = path.suffix.lower()
    most = _MOST_YAML if suffix in (".yaml", ".yml") else _MOST_BYTES
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read as {_WHAT}: {one_line(error)}") from error
    if size > most:
        raise UserError(
            f"{path}: is of {size / 2**20:.0f} MiB; {_WHAT} of at most {most / 2**20:.0f} MiB is "
            "accepted"
        )
    if suffix == ".xlsx":
        raise UserError(f"{path}: save the sheet as CSV; an Excel file is not read")
    lines = read_lines(path, _WHAT)
    if suffix == ".csv":
        return _read_csv(path, "\n".join(lines))
    if suffix in (".yaml", ".yml"):
        return Document(path, "yaml", _read_yaml(path, "\n".join(lines)))
    if suffix == ".json":
        try:
            return Document(path, "json", json.loads("\n".join(lines)))
        except RecursionError:
            raise UserError(f"{path}: is nested too deeply for {_WHAT}") from None
        except ValueError as error:
            if not lines[0].strip().endswith("}"):  # else they are JSON lines under this name
                raise UserError(f"{path}: is no JSON: {one_line(error)}") from None
    return Document(path, "lines", lines)


def _read_csv(path: Path, text: str) -> Document:
    """Reads comma-separated values; semicolons and tabs are told by the first line.

    Cells may be quoted, with quotes doubled and line breaks inside.
    """
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    rows, numbers, before = [], [], 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append([cell.strip() for cell in cells])
                numbers.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is no CSV: {one_line(error)}") from None
    return Document(path, "csv", rows, tuple(numbers))


def _read_yaml(path: Path, text: str) -> Any:
    import yaml  # slow to import, and most prompts are in no YAML

    try:
        return yaml.safe_load(text)  # makes no objects
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply for {_WHAT}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"{path}{where}: is no YAML that is accepted: {why}") from None


# ---- writing


def write_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns the text of a CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def write_yaml(content: Any) -> str:
    """Returns the text of a YAML file of plain values, in their order."""
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6)
