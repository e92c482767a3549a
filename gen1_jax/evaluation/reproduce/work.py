"""What all parts of a reproduction share: folders, sizes, the run's models, and sweeps."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.cells import Setting
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.judges import Judges
from gen1_jax.evaluation.methods.base import Method
from gen1_jax.evaluation.methods.registry import make_methods
from gen1_jax.evaluation.records import holding
from gen1_jax.evaluation.reproduce.methods import FedText, Unedited
from gen1_jax.evaluation.sweep import run_sweep
from gen1_jax.files import making_folder, read_json, write_json
from gen1_jax.weights.digest import digest_model

RESULT = "result.json"
METRICS = (
    "frame_consistency",
    "prompt_consistency",
    "clip_success",
    "success",
    "colour_accuracy",
    "background_accuracy",
    "shape_accuracy",
    "structure_error",
    "structure_correlation",
    "wanted_structure_error",
    "flicker",
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      clips: of the test split, which no choice looks at.
      tuning_clips: of the validation split, on which each method's best setting is found.
      steps: DDIM steps of an edit.
      arm_seeds: seeds of training of each counterfactual.
      probe_clips: on which a linear probe is fitted; a quarter as many test it.
    """

    clips: int = 64
    tuning_clips: int = 16
    steps: int = 8
    arm_seeds: tuple[int, ...] = (0,)
    probe_clips: int = 1024


@dataclasses.dataclass(frozen=True)
class Work:
    """A reproduction.

    Attributes:
      run: a finished run of `configs/demo.py`, which is only read.
      output: where everything is written.
      sizes: how much is measured.
      progress: whether to show bars.
    """

    run: Path
    output: Path
    sizes: Sizes = Sizes()
    progress: bool = True

    @property
    def world(self) -> Path:
        return self.run / "world"

    @cached_property
    def editor(self) -> VideoEditor:
        return VideoEditor.load(self.run / "pipeline")

    @cached_property
    def judges(self) -> Judges:
        """The networks that measure, whose CLIP is not the one that the model is conditioned on."""
        return self.judges_of(self.editor)

    def judges_of(self, editor: VideoEditor) -> Judges:
        return Judges(editor, metric_clip=self.output / "metric_clip")

    def methods(self, names: Sequence[str]) -> list[Method]:
        """Returns methods by their names, those of `reproduce.methods` too."""
        extra = {each.name: each for each in (Unedited, FedText)}
        models = {
            name: self.output / f"rival_{name}" / "model" for name in ("image", "video", "depth")
        }
        made = make_methods([n for n in names if n not in extra], self.editor, models)
        return [*made, *(extra[name]() for name in names if name in extra)]

    def sweep(
        self,
        part: str,
        items: Sequence[Item],
        grid: Sequence[Setting],
        metrics: Sequence[str] = METRICS,
        editor: VideoEditor | None = None,
    ) -> list[dict[str, Any]]:
        """Edits and measures clips in the folder of a part, where it goes on from what is there."""
        folder = self.output / part
        names = list(dict.fromkeys(setting.get("method", "gen1") for setting in grid))
        with making_folder(folder), holding(folder):
            return run_sweep(
                editor or self.editor,
                items,
                grid,
                folder,
                methods=self.methods(names),
                judges=self.judges_of(editor) if editor else self.judges,
                metrics=metrics,
                num_steps=self.sizes.steps,
                batch_size=16,
                progress=self.progress,
            )

    # ---- results of parts

    def made_with(self, needs: Sequence[str]) -> dict[str, Any]:
        """Returns what a part's result depends on: sizes, the run, and the results of others."""
        run = digest_model(self.run / "pipeline" / "unet")[:16]
        needed = {name: _digest(self.output / name / RESULT) for name in needs}
        return {"sizes": dataclasses.asdict(self.sizes), "run": run, "needs": needed}

    def result(self, part: str) -> dict[str, Any]:
        """Returns what a finished part found.

        Raises:
          UserError: the part is not finished.
        """
        found = read_json(self.output / part / RESULT)
        if found is None:
            raise UserError(f"{self.output} has no result of {part}; --parts {part} makes it")
        return found

    def is_done(self, part: str, needs: Sequence[str]) -> bool:
        found = read_json(self.output / part / RESULT)
        made_with = json.loads(json.dumps(self.made_with(needs)))
        return found is not None and found["made_with"] == made_with

    def write_result(self, part: str, needs: Sequence[str], found: dict[str, Any]) -> None:
        folder = self.output / part
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, {"made_with": self.made_with(needs), **found}, indent=None)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""
