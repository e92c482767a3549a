"""The inputs of an ingest, listed in a fixed order: from folder trees, globs, files, manifests."""

from __future__ import annotations

import csv
import dataclasses
import glob
import itertools
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from gen1_jax.errors import UserError, one_line
from gen1_jax.text import decode_text, find_undecodable, mend_text
from gen1_jax.video.sources import natural_key

MANIFESTS = (".csv", ".jsonl", ".parquet")
CAPTION_SUFFIXES = (".txt", ".json")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".heic", ".heif", ".ppm", ".pgm", ".jp2"),
)
ACCEPTED = (
    "accepted: a folder, a glob, a file, or a manifest (CSV, JSONL or Parquet with a column `path`)"
)
OUTSIDE = "outside the source"  # a reason of `outcomes.REASONS`


@dataclasses.dataclass(frozen=True)
class Input:
    """A file or folder to ingest.

    Attributes:
      path: path relative to the source's root, with `/`.
      caption: caption from a manifest; None if it gives none.
      refused: reason not to read it, or None.
    """

    path: str
    caption: str | None = None
    refused: str | None = None


def find_inputs(
    *sources: str,
    frame_folders: bool,
    without: Collection[Path] = (),
    allow_outside: bool = False,
) -> tuple[Path, Iterator[Input]]:
    """Finds the inputs of one source or several.

    Hidden files are passed over. A text or JSON file beside an input of the same name is its
    caption, not an input. Files that a shell made of a glob give the inputs that the glob gives.

    Args:
      *sources: folders, globs, files or manifests. Their order does not matter, and what is named
        twice counts once, with the caption of a manifest that names it.
      frame_folders: whether a folder that holds numbered pictures and nothing else is one video.
      without: folders to pass over: those that ingest itself writes.
      allow_outside: whether a manifest may name files outside its own folder.

    Returns:
      The root to which paths are relative, and the inputs in a fixed order.

    Raises:
      UserError: there is nothing, or a manifest cannot be read.
    """
    walk = _Walk(frame_folders, frozenset(os.path.realpath(folder) for folder in without))
    if len(sources) == 1:
        return _find(sources[0], walk, allow_outside)
    ordered = sorted(dict.fromkeys(sources), key=natural_key)
    is_file = {each: os.path.isfile(each) and not _is_manifest(each) for each in ordered}
    files = [Path(each) for each in ordered if is_file[each]]
    others = sorted((each for each in ordered if not is_file[each]), key=_is_no_manifest)
    found = [_find(each, walk, allow_outside) for each in others]
    roots = [root.absolute() for root, _ in found] + [file.absolute().parent for file in files]
    root = Path(os.path.commonpath(roots))
    own = (Input(file.absolute().relative_to(root).as_posix()) for file in _inputs_of(files, walk))
    moved = (_move(each, own_root, root) for own_root, inputs in found for each in inputs)
    return root, _once(itertools.chain(moved, own))


def _find(source: str, walk: _Walk, allow_outside: bool) -> tuple[Path, Iterator[Input]]:
    """Returns root and inputs of one source; see `find_inputs`."""
    path = Path(source)
    if path.is_dir():
        return path, walk.below(path, path)
    if path.is_file() and _is_manifest(source):
        return path.parent, _read_manifest(path, allow_outside)
    if path.is_file():
        return path.parent, iter([Input(path.name)])
    if glob.has_magic(source):
        root = path
        while glob.has_magic(str(root)):
            root = root.parent
        return root, _expand(source, root, walk)
    raise UserError(f"{source}: no such file or folder; {ACCEPTED}")


def _is_manifest(source: str) -> bool:
    return Path(source).suffix.lower() in MANIFESTS


def _is_no_manifest(source: str) -> bool:
    return not _is_manifest(source)


def _move(each: Input, own_root: Path, root: Path) -> Input:
    """Returns an input with its path relative to a root above its own, where it lies below it."""
    whole = own_root.absolute() / each.path
    if each.refused == OUTSIDE or not whole.is_relative_to(root):
        return each
    return dataclasses.replace(each, path=whole.relative_to(root).as_posix())


def _once(inputs: Iterable[Input]) -> Iterator[Input]:
    """Yields inputs whose path did not come before."""
    seen = set()
    for each in inputs:
        if each.path not in seen:
            seen.add(each.path)
            yield each


def find_caption(path: Path) -> str:
    """Returns the caption in a `.txt` or `.json` file beside an input, or "" if there is none."""
    texts = {}
    for suffix in CAPTION_SUFFIXES:
        beside = _caption_file(path, suffix)
        if beside != path and beside.is_file():
            texts[suffix] = beside.read_bytes()
    return read_caption(texts)


def read_caption(texts: dict[str, bytes]) -> str:
    """Returns the content of a `.txt` file, or else `caption` of a `.json` file, or else "".

    U+FFFD stands for what is no Unicode.

    Args:
      texts: contents of the files beside an input, by suffix.
    """
    if ".txt" in texts:
        return decode_text(texts[".txt"]).strip()
    try:
        caption = json.loads(decode_text(texts.get(".json", b"{}")))["caption"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return mend_text(caption).strip() if isinstance(caption, str) else ""


# ---- folders


@dataclasses.dataclass(frozen=True)
class _Walk:
    """Finds the inputs in folders; `find_inputs` explains the attributes."""

    frame_folders: bool
    without: frozenset[str]

    def below(self, folder: Path, root: Path, above: tuple[str, ...] = ()) -> Iterator[Input]:
        """Yields the inputs in a folder, depth first and in natural order.

        Args:
          folder: the folder.
          root: folder to which paths are relative.
          above: real paths of the folders above it, by which a circle of links is found.
        """
        real = os.path.realpath(folder)
        if real in self.without:
            return
        try:
            if real in above:
                raise OSError("a link to a folder above it")
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            if folder == root:
                raise UserError(f"{root}: cannot be read: {one_line(error)}") from error
            yield Input(_relative(folder, root), refused="cannot be opened")
            return
        entries.sort(key=lambda entry: natural_key(entry.name))
        if self.frame_folders and _is_frame_folder(entries):
            yield Input(_relative(folder, root))
            return
        companions = _companions([entry.name for entry in entries])
        for entry in entries:
            if entry.is_dir():
                yield from self.below(Path(entry.path), root, (*above, real))
            elif entry.name not in companions:
                yield Input(_relative(Path(entry.path), root))


def _is_frame_folder(entries: list[os.DirEntry]) -> bool:
    numbered = re.compile(r".*[0-9]")
    return len(entries) > 1 and all(
        Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
        and numbered.fullmatch(Path(entry.name).stem)
        and entry.is_file()
        for entry in entries
    )


def _companions(names: list[str]) -> set[str]:
    """Returns names that are no inputs: captions, and img2dataset's files beside an archive."""
    stems = {Path(name).stem for name in names if Path(name).suffix not in CAPTION_SUFFIXES}
    stems |= {name for name in names if not Path(name).suffix}  # frame folders
    archives = {Path(name).stem for name in names if Path(name).suffix == ".tar"}
    found = set()
    for name in names:
        stem, suffix = Path(name).stem, Path(name).suffix
        if suffix in CAPTION_SUFFIXES and stem in stems:
            found.add(name)
        if suffix == ".parquet" and stem in archives:
            found.add(name)
        if name.endswith("_stats.json") and name.removesuffix("_stats.json") in archives:
            found.add(name)
    return found


def _caption_file(path: Path, suffix: str) -> Path:
    return path.parent / (path.name if path.is_dir() else path.stem + suffix)


def _expand(pattern: str, root: Path, walk: _Walk) -> Iterator[Input]:
    found = sorted(glob.glob(pattern, recursive=True), key=natural_key)
    if not found:
        raise UserError(f"{pattern}: matches nothing; {ACCEPTED}")
    inputs = set(_inputs_of([Path(each) for each in found], walk))
    for each in map(Path, found):
        if each.is_dir():
            # With `**`, the files within the folder match by themselves.
            if "**" not in pattern:
                yield from walk.below(each, root)
        elif each in inputs:
            yield Input(_relative(each, root))


def _inputs_of(paths: Sequence[Path], walk: _Walk) -> list[Path]:
    """Returns paths without captions beside others, and without what ingest itself wrote."""
    names: dict[Path, list[str]] = {}
    for each in paths:
        names.setdefault(each.parent, []).append(each.name)
    companions = {folder / name for folder in names for name in _companions(names[folder])}
    return [
        each
        for each in paths
        if each not in companions
        and not any(Path(os.path.realpath(each)).is_relative_to(f) for f in walk.without)
    ]


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


# ---- manifests


def _read_manifest(file: Path, allow_outside: bool) -> Iterator[Input]:
    root = Path(os.path.abspath(file.parent))
    number = 0
    for number, row in enumerate(_rows(file), 1):
        path, caption = row.get("path"), row.get("caption")
        if not isinstance(path, str) or not path.strip():
            raise UserError(f"{file}: row {number} has no `path`; {ACCEPTED}")
        if caption is not None and not isinstance(caption, str):
            raise UserError(f"{file}: the `caption` of row {number} is not text")
        whole = Path(os.path.normpath(root / path))
        if whole.is_relative_to(root):
            name = whole.relative_to(root).as_posix()
        elif allow_outside:
            name = whole.as_posix()
        else:
            yield Input(path, caption, OUTSIDE)
            continue
        yield Input(name, caption, None if os.path.exists(whole) else "missing")
    if not number:
        raise UserError(f"{file}: has no rows; {ACCEPTED}")


def _rows(file: Path) -> Iterator[dict]:
    kind = file.suffix.lower()
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            table = pq.ParquetFile(file)
            columns = [name for name in ("path", "caption") if name in table.schema_arrow.names]
            for batch in table.iter_batches(columns=columns):
                yield from batch.to_pylist()
            return
        # Without `newline`, a quoted field of CSV keeps its line ends.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if kind == ".csv":
                yield from csv.DictReader(lines)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{file}: line {number} is no JSON object; {ACCEPTED}")
                    yield row
    except UserError:
        raise
    except UnicodeDecodeError as error:
        where = "" if kind == ".parquet" else f", {find_undecodable(file)}; save it as UTF-8"
        raise UserError(f"{file}{where or f': {one_line(error)}'}; {ACCEPTED}") from error
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are these two
        raise UserError(f"{file}: not a manifest: {one_line(error)}; {ACCEPTED}") from error
