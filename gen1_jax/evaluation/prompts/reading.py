"""Reads prompts of any layout, from a file or from a folder of files, to rows with unique names."""

import collections
import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import SUFFIXES, Document, read_document
from gen1_jax.evaluation.prompts.editboard import EditBoard
from gen1_jax.evaluation.prompts.editverse import EditVerse
from gen1_jax.evaluation.prompts.fatezero import FateZero
from gen1_jax.evaluation.prompts.five import Five
from gen1_jax.evaluation.prompts.ivebench import IveBench
from gen1_jax.evaluation.prompts.lines import Lines
from gen1_jax.evaluation.prompts.loveu import Loveu
from gen1_jax.evaluation.prompts.rows import Layout, Row, content_name, inside
from gen1_jax.evaluation.prompts.v2vbench import V2VBench
from gen1_jax.video.sources import natural_key

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        *(Loveu(), FateZero(), Five(), IveBench(), EditBoard(), EditVerse(), V2VBench()),
        Lines(),  # the last, because it takes any lines
    )
}
_DEPTH = 3  # levels of a folder that are looked through


@dataclasses.dataclass
class Prompts:
    """What a prompt file or folder holds.

    Attributes:
      layout: the layout of its files.
      rows: the edits that it asks for.
      left_out: what was wrong with entries that are left out, a line each.
      notes: what is not wrong, but not used either, a line each.
    """

    layout: Layout
    rows: list[Row]
    left_out: list[str]
    notes: list[str]


def read_prompts(
    path: Path,
    *,
    layout: str | None = None,
    root: Path | None = None,
    keep_going: bool = False,
    choices: Collection[str] = (),
) -> Prompts:
    """Reads the prompts of a file, or of all files of one layout in a folder.

    Args:
      path: the file or folder.
      layout: name of the layout; None: told from the content.
      root: the folder where the paths of videos start; None: as the layout has it.
      keep_going: whether a wrong entry is left out, and not an error.
      choices: keys of our own files that the caller reads from `Row.entry`.

    Raises:
      UserError: naming the entry that is wrong; no layout fits, or there is nothing to edit.
    """
    documents, notes = _find_documents(path, layout)
    found = LAYOUTS[layout] if layout else layout_of(documents[0])
    rows, left_out, unused, empty = [], [], set(), 0
    for document in documents:
        for place, entry in found.entries(document):
            try:
                roots = [root] if root else _roots(document, found)
                new = found.rows(entry, place, roots)
                for row in new:
                    _check(row)
                    inside(Path("results"), found.target(row).edit, "name")
            except UserError as error:
                line = f"{place}: {error}"
                if not keep_going:
                    raise UserError(line) from error
                left_out.append(line)
                continue
            rows += new
            empty += not new
            if isinstance(found, Lines):
                unused |= found.unused(entry) - set(choices)
    rows = _with_names(rows, left_out, keep_going)
    if unused:
        notes.append(f"{path}: not used: {', '.join(sorted(unused))}")
    if empty:
        notes.append(f"{path}: {empty} entries ask for no edit of a video, and are left out")
    if not rows:
        raise UserError(left_out[0] if left_out else f"{path}: holds no prompts")
    return Prompts(found, rows, left_out, notes)


def layout_of(document: Document) -> Layout:
    """Returns the layout of a file.

    Raises:
      UserError: there is none that fits.
    """
    for layout in LAYOUTS.values():
        if layout.fits(document):
            return layout
    raise UserError(f"{document.path}: fits no layout; accepted are {accepted()}")


def accepted() -> str:
    """Returns the accepted layouts in words."""
    return "; ".join(f"{layout.form} ({name})" for name, layout in LAYOUTS.items())


# ---- files


def _find_documents(path: Path, layout: str | None) -> tuple[list[Document], list[str]]:
    """Returns the files to read, and notes on those that are left out."""
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"no layout {layout!r}; accepted are {accepted()}")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        document = read_document(path)
        if layout and not LAYOUTS[layout].fits(document):
            raise UserError(f"{path}: is not in the form of {LAYOUTS[layout].form} ({layout})")
        return [document], []
    for level in range(_DEPTH):
        files = [
            file
            for file in sorted(path.glob("*/" * level + "*"), key=lambda x: natural_key(str(x)))
            if file.suffix.lower() in SUFFIXES and file.is_file() and file.name[0] != "."
        ]
        found = [(file, *_try(file, layout)) for file in files]
        fitting = {each.name for _, _, each in found if each}
        if len(fitting) > 1:
            raise UserError(
                f"{path}: holds files of several layouts, {' and '.join(sorted(fitting))}; "
                "--layout takes one of them, or give one file"
            )
        if fitting:
            notes = [
                f"{file}: fits no layout, and is not read" for file, _, each in found if not each
            ]
            return [document for _, document, each in found if each], notes
    raise UserError(f"{path}: holds no file of prompts; accepted are {accepted()}")


def _try(file: Path, layout: str | None) -> tuple[Document | None, Layout | None]:
    """Returns a file of a folder and its layout, or None where it is no prompt file."""
    try:
        document = read_document(file)
    except UserError:
        return None, None
    layouts = [LAYOUTS[layout]] if layout else LAYOUTS.values()
    return document, next((each for each in layouts if each.fits(document)), None)


def _roots(document: Document, layout: Layout) -> list[Path]:
    """Returns where paths of a layout may start: the file's folder, then its repository's."""
    folder, up = document.path.parent, layout.up.get(document.kind, 0)
    return [folder, *folder.absolute().parents[up - 1 : up]] if up else [folder]


# ---- entries


def _check(row: Row) -> None:
    """Refuses a row whose files are not there: a large model takes minutes to load."""
    for named in filter(None, (row.video, row.image, row.mask)):
        if not os.path.exists(named.path):
            raise UserError(f"{named.path}: no such file or folder")


def _with_names(rows: Sequence[Row], left_out: list[str], keep_going: bool) -> list[Row]:
    """Returns the rows with names that are unique, and follow from what the rows ask for.

    A row without a name has that of its video and letters of its content. Rows that share a name
    get such letters too. A row that repeats another is wrong.
    """
    contents = [content_name(row) for row in rows]
    names = [row.name or row.video.name for row in rows]
    shared = collections.Counter(row.name for row in rows)
    known: dict[tuple[str, str], Row] = {}
    named = []
    for row, name, content in zip(rows, names, contents, strict=True):
        first = known.setdefault((name, content), row)
        if first is not row:
            line = f"{row.place}: repeats {first.place.removeprefix(f'{_file_of(row)}, ')}"
            if not keep_going:
                raise UserError(f"{line}; edits that differ are accepted")
            left_out.append(line)
            continue
        alone = row.name and shared[row.name] == 1
        named.append(dataclasses.replace(row, name=name if alone else f"{name}#{content}"))
    return named


def _file_of(row: Row) -> str:
    return row.place.rpartition(", ")[0]
