"""FiVE: fine-grained edits of 100 videos, six kinds, with masks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.evaluation.prompts.documents import Document
from gen1_jax.evaluation.prompts.rows import Row, Target, lists, locate, mapping_of, text_of

_KINDS = {  # editing_type_id → its name in the README
    "1": "object replacement (rigid)",
    "2": "object replacement (non-rigid)",
    "3": "color alteration",
    "4": "material modification",
    "5": "object addition",
    "6": "object removal",
}


class Five:
    """`edit_prompt/edit1_FiVE.json` to `edit6_FiVE.json`: a list of edits each.

    An edit has `video_name`, `editing_type_id`, `save_dir`, `source_prompt` and `target_prompt`,
    where brackets mark the words that differ. The folder above holds `images/NAME/*.jpg`,
    `videos/NAME.mp4` and the masks `bmasks/NAME/*.jpg`.

    Source: github.com/Harvard-AI-and-Robotics-Lab/FiVE-Bench (README.md, INSTALL.md,
    evaluation/evaluate.py, which reads results from `NAME/SAVE_DIR/*.png`, and sources and masks
    under the same names of pictures).
    """

    name = "five"
    form = "FiVE's JSON of edits"
    up: Mapping[str, int] = {"json": 1}

    def fits(self, document: Document) -> bool:
        keys = {"video_name", "save_dir", "target_prompt"}
        return document.kind == "json" and lists(document.content, keys)

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        for number, entry in enumerate(document.content):
            own = dict(entry) if isinstance(entry, Mapping) else entry
            yield f"{document.path}, entry {number}", (document.path.name, own)

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        file, edit = entry[0], mapping_of(entry[1], "the entry")
        video = text_of(edit, "video_name")
        prompts = {
            key: text_of(edit, f"{key}_prompt").replace("[", "").replace("]", "")
            for key in ("source", "target")
        }
        number = text_of(edit, "editing_type_id", "")
        return [
            Row(
                place=place,
                name=f"{video}/{text_of(edit, 'save_dir')}",
                video=locate(
                    roots[::-1], [f"images/{video}", f"videos/{video}.mp4"], "video"
                )._replace(name=video),
                prompt=prompts["target"],
                source_prompt=prompts["source"],
                mask=locate(roots[::-1], [f"bmasks/{video}"], "mask", needed=False),
                kind=_KINDS.get(number, number),
                entry={"file": file, "edit": edit},
            )
        ]

    def target(self, row: Row) -> Target:
        own = {"source": f"data/images/{row.video.name}", "mask": f"data/bmasks/{row.video.name}"}
        return Target(f"edits/{row.name}", **own)

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        files: dict[str, list] = {}
        for row in rows:
            files.setdefault(row.entry["file"], []).append(row.entry["edit"])
        return {
            f"data/edit_prompt/{name}": json.dumps(edits, indent=2) for name, edits in files.items()
        }
