"""Our own prompt files: JSON lines, and CSV with the same columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import Document, write_csv
from gen1_jax.evaluation.prompts.rows import (
    Named,
    Row,
    Target,
    content_name,
    count_of,
    text_of,
)
from gen1_jax.text import check_text

FIELDS = (
    *("video", "prompt", "source_prompt", "image", "mask"),
    *("kind", "camera", "name", "start", "frames"),
)

_LONGEST = 48  # letters of a clip's name in that of a folder


class Lines:
    """A JSON object a line, `{"video": PATH, "prompt": TEXT}`, or a CSV with these columns.

    Optional are `source_prompt`, `image` (then the prompt may be left out), `mask`, `kind`,
    `camera`, `name`, `start` and `frames`. Paths are relative to the file's folder; since a user
    wrote them, they may lead anywhere.
    """

    name = "lines"
    form = "JSON lines or a CSV with video and prompt"
    up: Mapping[str, int] = {}

    def fits(self, document: Document) -> bool:
        if document.kind == "csv":
            return "video" in document.header
        return document.kind == "lines"

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        if document.kind == "csv":
            for number, record in document.records():
                yield f"{document.path}, line {number}", record
            return
        for number, line in enumerate(document.content, 1):
            if line.strip():
                yield f"{document.path}, line {number}", line

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        if isinstance(entry, str):
            entry = _parse(entry)
        if None in entry:
            raise UserError(f"has more cells than the header has columns: {entry[None]}")
        for key in ("video", "prompt", "image"):
            if isinstance(entry.get(key), str):
                check_text(entry[key], key)
        found, image = entry.get("video"), entry.get("image") or None
        prompt = entry.get("prompt", "" if image else None)
        if not isinstance(found, str) or not found or not isinstance(prompt, str):
            raise UserError("video and prompt must be texts, not empty")
        if not prompt.strip() and not image:
            raise UserError("video and prompt must be texts, not empty; or give an image")
        names = {key: text_of(entry, key, "") for key in ("image", "mask")}
        return [
            Row(
                place=place,
                name=text_of(entry, "name", ""),
                video=Named(found, roots[0] / found),
                prompt=prompt,
                source_prompt=text_of(entry, "source_prompt", ""),
                kind=text_of(entry, "kind", ""),
                camera=text_of(entry, "camera", ""),
                start=count_of(entry, "start", 0),
                frames=count_of(entry, "frames", 1),
                entry=entry,
                **{key: Named(x, roots[0] / x) if x else None for key, x in names.items()},
            )
        ]

    def unused(self, entry: Any) -> set[str]:
        """Returns the keys of an entry that mean nothing here."""
        try:
            keys = entry if isinstance(entry, Mapping) else json.loads(entry)
        except ValueError:
            return set()
        return {key for key in keys if key not in FIELDS and key} if keys else set()

    def target(self, row: Row) -> Target:
        name = row.name.partition("#")[0][-_LONGEST:]
        return Target(f"edits/{file_name(name)}_{content_name(row)}")

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        columns = ("name", "video", "prompt", "source_prompt", "kind", "edit")
        cells = [
            (row.name, row.video.name, row.prompt, row.source_prompt, row.kind, self.target(row)[0])
            for row in rows
        ]
        return {"edits.csv": write_csv(columns, cells)}


def _parse(line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or "video" not in entry or not {"prompt", "image"} & set(entry):
        raise UserError(f'{{"video": PATH, "prompt": TEXT}} is accepted, not {line[:60]!r}')
    return entry


def file_name(name: str) -> str:
    """Returns a name as one that a file can have."""
    return "".join(c if c.isalnum() or c in "-_.#" else "-" for c in name).strip("-.") or "-"
