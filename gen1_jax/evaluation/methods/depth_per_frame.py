"""The image model with depth: it keeps the structure, and edits each frame alone."""

import numpy as np

from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.stage import Stage


class DepthPerFrame:
    """An image model that was trained with depth, without temporal layers."""

    name = "depth-per-frame"
    controls = ("structure_level", "guidance_scale")

    def __init__(self, stage: Stage):
        self._stage = stage

    def identity(self, item: Item) -> dict[str, str]:
        return {"rival": self._stage.digest}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        return self._stage.sample(
            clips, num_steps=num_steps, **{name: setting[name] for name in self.controls}
        )
