"""IVEBench: 600 videos with one edit each, in eight categories."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gen1_jax.evaluation.prompts.documents import Document
from gen1_jax.evaluation.prompts.rows import Row, Target, lists, locate, mapping_of, text_of


class IveBench:
    """The data set's JSON: a list of `id`, `src_video_name`, `category`, `subcategory`, prompts.

    `source_prompt` and `target_prompt` describe the two videos; `edit_prompt` is an instruction,
    which a model that takes descriptions does not use. `ivebenchdb_prompt_short.json` goes with the
    videos in `ivebenchdb_mp4_short/`, and the long ones likewise. The metrics take folders of
    frames, named as the video without its suffix; they may lie beside the file.

    Source: github.com/RyanChenYN/IVEBench (README.md; metrics/ivebench_utils.py has the keys, and
    the metrics read source and result from `NAME/*.png`, of equal names), and the data set
    Coraxor/IVEBench on Hugging Face (its folders).
    """

    name = "ivebench"
    form = "IVEBench's JSON"
    up: Mapping[str, int] = {}

    def fits(self, document: Document) -> bool:
        keys = {"src_video_name", "target_prompt"}
        return document.kind == "json" and lists(document.content, keys)

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        for number, entry in enumerate(document.content):
            yield f"{document.path}, entry {number}", (document.path.stem, entry)

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        subset = "long" if entry[0].endswith("long") else "short"
        entry = mapping_of(entry[1], "the entry")
        video = text_of(entry, "src_video_name")
        stem = PurePosixPath(video).with_suffix("").as_posix()
        return [
            Row(
                place=place,
                name=stem,
                video=locate(roots, [stem, video, f"ivebenchdb_mp4_{subset}/{video}"], "video"),
                prompt=text_of(entry, "target_prompt"),
                source_prompt=text_of(entry, "source_prompt", ""),
                kind=text_of(entry, "category", ""),
                entry=entry,
            )
        ]

    def target(self, row: Row) -> Target:
        return Target(f"edits/{row.name}", source=f"sources/{row.name}")

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        return {"info.json": json.dumps([dict(row.entry) for row in rows], indent=2)}
