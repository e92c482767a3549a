"""What every layout of prompts is read to: rows, and where the results of a row belong."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import Document
from gen1_jax.settings import show
from gen1_jax.text import check_text


class Named(NamedTuple):
    """A file or folder that a prompt file names.

    Attributes:
      name: as the prompt file names it.
      path: where it is.
    """

    name: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Row:
    """A video and what it should become, as one entry of a prompt file says it.

    Attributes:
      place: where the entry stands, for messages: the file and the line or entry.
      name: the layout's own name of the edit; empty: it has none.
      video: the source.
      prompt: what the video should become; may be empty if there is an image.
      source_prompt: what the source shows, in words; empty: not known.
      image: a picture to take the content from, in place of the prompt.
      mask: a video, a picture or a folder of pictures that shows what the prompt changes.
      kind: kind of edit, in the words of the layout; empty: not known.
      camera: how the camera moves; empty: not known.
      start: first frame to take; None: as for all.
      frames: number of frames to take; None: as for all.
      entry: what the prompt file says, for the results.
    """

    place: str
    name: str
    video: Named
    prompt: str
    source_prompt: str = ""
    image: Named | None = None
    mask: Named | None = None
    kind: str = ""
    camera: str = ""
    start: int | None = None
    frames: int | None = None
    entry: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Target(NamedTuple):
    """Where a benchmark's own scripts look for what belongs to an edit.

    Paths are relative to the folder of the results.

    Attributes:
      edit: the edited video.
      source: the frames that were edited; None: the scripts need none.
      mask: their mask; None: the scripts need none.
      picture: name of a picture by its number from 0 on, of results that are folders of pictures;
        empty: they are videos.
    """

    edit: str
    source: str | None = None
    mask: str | None = None
    picture: str = "{:05d}.png"


class Layout(Protocol):
    """A form in which prompts are published.

    Attributes:
      name: the name that `--layout` takes.
      form: what files of this layout look like, in a few words.
      up: kind of file → so many folders above the file's, paths of the layout may start too.
    """

    name: str
    form: str
    up: Mapping[str, int]

    def fits(self, document: Document) -> bool:
        """Returns whether a file is of this layout."""

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        """Yields the entries of a file, each with its place in words."""

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        """Returns the rows of an entry; roots are the folders where its paths may start."""

    def target(self, row: Row) -> Target:
        """Returns where the results of a row belong."""

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        """Returns name → text of the files that tell the layout's scripts what there is."""


def content_name(row: Row) -> str:
    """Returns letters that follow from what a row asks for, and not from where it stands."""
    files = [named.name if named else "" for named in (row.video, row.image, row.mask)]
    said = [*files, row.prompt, row.source_prompt, row.start, row.frames]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]


# ---- reading values


def text_of(entry: Mapping, key: str, default: str | None = None) -> str:
    """Returns a text of an entry; of a number, such as an id, its digits.

    Raises:
      UserError: it is missing without a default, empty without a default, or no text.
    """
    value = entry.get(key, default)
    if value is None:
        value = default
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (default is None and not value.strip()):
        said = f"is {show(value)}" if key in entry else "is missing"
        raise UserError(f"{key} {said}; a text is accepted, not empty")
    return check_text(value, key).strip()


def count_of(entry: Mapping, key: str, least: int) -> int | None:
    """Returns a whole number of an entry, or None where there is none.

    Raises:
      UserError: it is no whole number, or below `least`.
    """
    value = entry.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key} is {show(value)}; a whole number, {least} or more, is accepted")
    return value


def mapping_of(value: Any, what: str) -> Mapping:
    """Returns a mapping, or refuses what is none."""
    if not isinstance(value, Mapping):
        raise UserError(f"{what} is {show(value)}; keys and values are accepted")
    return value


def lists(content: Any, keys: set[str]) -> bool:
    """Returns whether something is a list of entries, of which some have these keys."""
    return isinstance(content, list) and any(
        isinstance(entry, Mapping) and keys <= set(entry) for entry in content
    )


# ---- paths


def inside(root: Path, name: str, what: str) -> Path:
    """Returns the path of what a published layout names, which must not lead out of its folder.

    Raises:
      UserError: the path is absolute, holds `..`, or leads out by a link.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts:
        raise UserError(f"{what} {name!r} leads out of {root}; a path inside of it is accepted")
    path = root / pure
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{what} {name!r} leads out of {root} by a link; --root DIR names the folder where the "
            "files are"
        )
    return path


def locate(
    roots: Sequence[Path], names: Sequence[str], what: str, needed: bool = True
) -> Named | None:
    """Returns the first of several places that is there.

    Args:
      roots: folders, the likeliest first.
      names: paths below a root, the likeliest first.
      what: what is looked for, for the message.
      needed: whether it is an error that none is there.

    Raises:
      UserError: none is there, or a path leads out of its root.
    """
    for root in roots:
        for name in names:
            path = inside(root, name, what)
            if os.path.exists(path):  # of a name that is no file's name, too
                return Named(PurePosixPath(name).as_posix(), path)
    if not needed:
        return None
    where = " or ".join(map(str, roots))
    raise UserError(
        f"{what}: no {' or '.join(names)} in {where}; --root DIR names the folder where they are"
    )
