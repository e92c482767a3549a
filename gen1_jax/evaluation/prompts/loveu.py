"""LOVEU-TGVE 2023: text-guided video editing, 76 videos with four prompts each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import Document
from gen1_jax.evaluation.prompts.rows import Row, Target, locate, mapping_of, text_of

_VIDEO, _CAPTION = "Video name", "Our GT caption"
_PROMPTS = {  # kind → column, as scripts/run_eval.py names them
    "style": "Style Change Caption",
    "object": "Object Change Caption",
    "background": "Background Change Caption",
    "multiple": "Multiple Changes Caption",
}
_SECTION = " Videos:"  # a row "DAVIS Videos:" begins the videos of the folder DAVIS_480p


class Loveu:
    """The data set's `LOVEU-TGVE-2023_Dataset.csv`, or the baseline's configs, one YAML a video.

    Of the CSV, rows "DAVIS Videos:", "Youtube Videos:" and "Videvo Videos:" begin a part. A part's
    videos are `DAVIS_480p/480p_frames/NAME/*.jpg` or `DAVIS_480p/480p_videos/NAME.mp4`. In a config
    (`configs/loveu-tgve-2023/DAVIS_480p/NAME.yaml`), `train_data.video_path` is relative to the
    repository. Tune-A-Video's own configs have the same form, with a list of prompts.

    Source: github.com/showlab/loveu-tgve-2023 (README.md, configs/, scripts/create_configs.py and
    scripts/run_eval.py, which reads results from `PART/NAME/KIND/*.jpg`).
    """

    name = "loveu"
    form = "LOVEU-TGVE 2023's CSV, or its YAML configs"
    up: Mapping[str, int] = {"yaml": 3}

    def fits(self, document: Document) -> bool:
        if document.kind == "csv":
            return _VIDEO in document.header and _PROMPTS["style"] in document.header
        content = document.content
        return (
            document.kind == "yaml"
            and isinstance(content, Mapping)
            and isinstance(content.get("train_data"), Mapping)
            and "video_path" in content["train_data"]
            and isinstance(content.get("validation_data"), Mapping)
        )

    def entries(self, document: Document) -> Iterator[tuple[str, Any]]:
        if document.kind == "yaml":
            yield str(document.path), {**document.content, "config": document.path}
            return
        part = ""
        for number, record in document.records():
            name = record.get(_VIDEO, "")
            if name.endswith(_SECTION):
                part = name.removesuffix(_SECTION)
                part = f"{part if part == 'DAVIS' else part.lower()}_480p"
            elif name:
                yield f"{document.path}, line {number}", {**record, "part": part}

    def rows(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        if "config" in entry:
            return self._rows_of_config(entry, place, roots)
        if not entry["part"]:
            raise UserError("stands before any part; a row such as 'DAVIS Videos:' begins one")
        name = f"{entry['part']}/{text_of(entry, _VIDEO)}"
        folder, _, own = name.partition("/")
        places = [f"{folder}/480p_frames/{own}", f"{folder}/480p_videos/{own}.mp4"]
        video = locate(roots, places, "video")._replace(name=name)
        return [
            Row(
                place=place,
                name=f"{name}/{kind}",
                video=video,
                prompt=text_of(entry, column),
                source_prompt=text_of(entry, _CAPTION, ""),
                kind=kind,
            )
            for kind, column in _PROMPTS.items()
        ]

    def _rows_of_config(self, entry: Any, place: str, roots: Sequence[Path]) -> list[Row]:
        data = entry["train_data"]
        prompts = entry["validation_data"].get("prompts")
        if isinstance(prompts, list):
            prompts = {str(number): prompt for number, prompt in enumerate(prompts)}
        prompts = mapping_of(prompts, "validation_data.prompts")
        video = locate(roots, [text_of(data, "video_path")], "video_path")
        config: Path = entry["config"]
        name = f"{config.parent.name}/{config.stem}" if set(prompts) <= set(_PROMPTS) else ""
        name = name or config.stem
        return [
            Row(
                place=place,
                name=f"{name}/{kind}",
                video=video._replace(name=name),
                prompt=text_of(prompts, kind),
                source_prompt=text_of(data, "prompt", ""),
                kind=kind if kind in _PROMPTS else "",
            )
            for kind in prompts
        ]

    def target(self, row: Row) -> Target:
        return Target(f"edits/{row.name}", picture="{:05d}.jpg")

    def index(self, rows: Sequence[Row]) -> dict[str, str]:
        return {}  # scripts/run_eval.py reads the data set's own table
