"""EditVerseBench: instructed edits of 100 videos, two each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.evaluation.prompts.documents import Document
from gen1_jax.evaluation.prompts.rows import Row, Target, lists, locate, mapping_of, text_of

_VIDEO = "<video1>"


class EditVerse:
    """`test.json`: id → `<text>`, `<video1>`, `target_prompt`, `source_prompt`, `type`.

    Paths are relative to the file. An entry whose `<video1>` is a depth map, a sketch, a pose or a
    masked video asks for a video that looks like no source; it is left out, and counted.

    Source: github.com/adobe-research/EditVerse (README.md; automatic_evaluation/__init__.py reads
    results from `ID/generate.mp4` and sources from `ID/video1.mp4`).
    """

    name = "editverse"
    form = "EditVerseBench's test.json"
    up: Mapping[str, int] = {}

    def fits(self, document: Document) -> bool:
        content = document.content
        return (
            document.kind == "json"
            and isinstance(content, Mapping)
            and lists([*content.values()], {"<text>", "target_prompt"})
        )

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        for key, entry in document.content.items():
            yield f"{document.path}, entry {key}", (key, entry)

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        key, edit = entry[0], mapping_of(entry[1], "the entry")
        video = text_of(edit, _VIDEO, "")
        if not video.startswith("videos/"):
            return []
        return [
            Row(
                place=place,
                name=key,
                video=locate(roots, [video], _VIDEO),
                prompt=text_of(edit, "target_prompt"),
                source_prompt=text_of(edit, "source_prompt", ""),
                kind=text_of(edit, "type", ""),
                entry=edit,
            )
        ]

    def target(self, row: Row) -> Target:
        folder = f"edits/{row.name}"
        return Target(f"{folder}/generate.mp4", f"{folder}/video1.mp4", picture="")

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        return {"test.json": json.dumps({row.name: dict(row.entry) for row in rows}, indent=2)}
