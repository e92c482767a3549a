"""EditBoard: a CSV of source videos, masks and prompts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gen1_jax.evaluation.prompts.documents import Document, write_csv
from gen1_jax.evaluation.prompts.rows import Row, Target, locate, text_of

_SOURCE, _EDIT, _MASK = "original_video_path", "edited_video_path", "semantic_mask_path"
_COLUMNS = (_SOURCE, _EDIT, _MASK, "source_prompt", "target_prompt")


class EditBoard:
    """The CSV that `evaluate.py --script` takes; a video is a folder of frames.

    Paths are relative to the repository, which is the file's folder or the one above. Where a
    result belongs, `edited_video_path` says.

    Source: github.com/Samchen2003/EditBoard (README.md, sample/script.csv, editboard/__init__.py,
    preprocess.py; source, edit and mask must have equal numbers of pictures).
    """

    name = "editboard"
    form = "EditBoard's CSV"
    up: Mapping[str, int] = {"csv": 1}

    def fits(self, document: Document) -> bool:
        return {_SOURCE, _EDIT, "target_prompt"} <= set(document.header)

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        for number, record in document.records():
            yield f"{document.path}, line {number}", record

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        mask = text_of(entry, _MASK, "")
        return [
            Row(
                place=place,
                name=PurePosixPath(text_of(entry, _EDIT)).as_posix(),
                video=locate(roots, [text_of(entry, _SOURCE)], _SOURCE),
                prompt=text_of(entry, "target_prompt"),
                source_prompt=text_of(entry, "source_prompt", ""),
                mask=locate(roots, [mask], _MASK) if mask else None,
            )
        ]

    def target(self, row: Row) -> Target:
        mask = f"masks/{row.mask.name}" if row.mask else None
        return Target(
            f"edits/{row.name}", f"sources/{row.video.name}", mask, picture="frame_{:04d}.png"
        )

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        cells = []
        for row in rows:
            edit, source, mask, _ = self.target(row)
            own = [f"./{path}" if path else "" for path in (source, edit, mask)]
            cells.append([*own, row.source_prompt, row.prompt])
        return {"script.csv": write_csv(_COLUMNS, cells)}
