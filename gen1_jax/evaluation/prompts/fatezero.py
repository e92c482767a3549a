"""FateZero's configs: a video, a source prompt and edit prompts in each YAML."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import Document, write_yaml
from gen1_jax.evaluation.prompts.rows import Row, Target, locate, text_of
from gen1_jax.settings import show

_DATA, _PROMPTS = "train_dataset", "validation_sample_logger_config"


class FateZero:
    """A config: `train_dataset.path` and `.prompt`, `validation_sample_logger_config.prompts`.

    Paths are relative to the repository, two folders above the config. The first of the prompts
    repeats the source's, and is no edit.

    Source: github.com/ChenyangQiQi/FateZero (config/*/*.yaml; CLIP/bench_clean_prompt.yaml and
    CLIP/frame_acc_tem_con.py, which reads results from `NAME/*.png` and the prompts by NAME).
    """

    name = "fatezero"
    form = "FateZero's YAML configs"
    up: Mapping[str, int] = {"yaml": 2}

    def fits(self, document: Document) -> bool:
        content = document.content
        return (
            document.kind == "yaml"
            and isinstance(content, Mapping)
            and isinstance(content.get(_DATA), Mapping)
            and "path" in content[_DATA]
            and isinstance(content.get(_PROMPTS), Mapping)
        )

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        config = f"{document.path.parent.name}_{document.path.stem}"
        yield str(document.path), {**document.content, "config": config}

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        data, prompts = entry[_DATA], entry[_PROMPTS].get("prompts")
        if not isinstance(prompts, list):
            raise UserError(f"{_PROMPTS}.prompts is {show(prompts)}; a list of texts is accepted")
        offset = data.get("offset") or {}
        if isinstance(offset, Mapping) and any(offset.values()):
            raise UserError(
                f"{_DATA}.offset is {show(dict(offset))}; videos are taken whole, so 0 is accepted"
            )
        source = text_of(data, "prompt")
        edits = [text_of({"prompt": each}, "prompt") for each in prompts]
        video = locate(roots, [text_of(data, "path")], f"{_DATA}.path")
        return [
            Row(
                place=place,
                name=f"{entry['config']}_{number}",
                video=video,
                prompt=prompt,
                source_prompt=source,
            )
            for number, prompt in enumerate(edits)
            if prompt.rstrip(", ") != source.rstrip(", ")
        ]

    def target(self, row: Row) -> Target:
        return Target(f"edits/{row.name}")

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        content = {row.name: {"source": row.source_prompt, "target": row.prompt} for row in rows}
        return {"bench_clean_prompt.yaml": write_yaml(content)}
