"""Gen-1 itself, and the same model with its temporal layers off."""

import numpy as np

from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting


class Gen1:
    """The pipeline as `gen1 edit` uses it."""

    name = "gen1"
    controls = ("temporal_scale", "structure_level", "guidance_scale")

    def __init__(self, solver: str = "ddim"):
        self._solver = solver

    def identity(self, item: Item) -> dict[str, str]:
        return {} if self._solver == "ddim" else {"solver": self._solver}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        edits = clips.editor.edit_batch(
            clips.frames,
            clips.content,
            structure=clips.structure_map,
            seed=clips.seeds,
            steps=num_steps,
            solver=self._solver,
            per_frame=self.name == Gen1PerFrame.name,
            **{name: setting[name] for name in self.controls},
        )
        return np.stack([edit.frames for edit in edits])


class Gen1PerFrame(Gen1):
    """The same model with its temporal layers off: each frame is edited alone."""

    name = "gen1-per-frame"
    controls = ("structure_level", "guidance_scale")
