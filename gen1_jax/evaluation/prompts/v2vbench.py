"""V2VBench: 50 videos with three edit prompts each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import Document, write_yaml
from gen1_jax.evaluation.prompts.rows import Row, Target, lists, locate, mapping_of, text_of
from gen1_jax.settings import show


class V2VBench:
    """`config.yaml`: in `data` a list of `video_id`, `prompt` (of the source) and `edit`.

    Each of `edit` has a `prompt`. Videos are `frames/ID/*.png` or `videos/ID.mp4` beside the file.

    Source: github.com/wenhao728/awesome-diffusion-v2v (doc/README.md; v2vbench/base_evaluator.py
    reads results from `ID/NUMBER` and sources from `ID`, folders of pictures or .mp4), and the data
    set Wenhao-Sun/V2VBench on Hugging Face (config.yaml, frames/).
    """

    name = "v2vbench"
    form = "V2VBench's config.yaml"
    up: Mapping[str, int] = {}

    def fits(self, document: Document) -> bool:
        content = document.content
        data = content.get("data") if isinstance(content, Mapping) else None
        return document.kind == "yaml" and lists(data, {"video_id", "edit"})

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        for number, entry in enumerate(document.content["data"]):
            yield f"{document.path}, entry {number}", entry

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        entry = mapping_of(entry, "the entry")
        name, edits = text_of(entry, "video_id"), entry.get("edit")
        if not isinstance(edits, list):
            raise UserError(f"edit is {show(edits)}; a list of prompts is accepted")
        places = [f"frames/{name}", f"videos/{name}.mp4", name, f"{name}.mp4"]
        video = locate(roots, places, "video")._replace(name=name)
        return [
            Row(
                place=place,
                name=f"{name}/{number}",
                video=video,
                prompt=text_of(mapping_of(edit, f"edit {number}"), "prompt"),
                source_prompt=text_of(entry, "prompt", ""),
                kind=text_of(edit, "type", ""),
                entry=entry,
            )
            for number, edit in enumerate(edits)
        ]

    def target(self, row: Row) -> Target:
        return Target(f"edits/{row.name}", source=f"sources/{row.video.name}")

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        entries = {row.video.name: dict(row.entry) for row in rows}
        return {"config.yaml": write_yaml({"data": list(entries.values())})}
