"""Frame after frame: the last output is moved along the source's flow, noised, and denoised.

It stands for deforum and the like. Where the flow finds nothing in the last frame, the source's own
pixels stand in. The image model edits without structure.
"""

import numpy as np

from gen1_jax.distributed import FRAMES
from gen1_jax.errors import UserError
from gen1_jax.evaluation.clips import Clips, noise_seed
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.stage import Stage, encode
from gen1_jax.video.flow import find_occluded, warp


class WarpAndRenoise:
    """The image model without structure, from the last output in place of the source."""

    name = "warp-and-renoise"
    controls = ("guidance_scale", "strength")

    def __init__(self, stage: Stage):
        if stage.editor.mesh.shape[FRAMES] > 1:
            raise UserError(f"{self.name} edits frame by frame; --mesh frames=1 is accepted")
        self._stage = stage

    def identity(self, item: Item) -> dict[str, str]:
        return {"rival": self._stage.digest}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        controls = {name: setting[name] for name in self.controls}
        backward = clips.flow.backward
        hidden = find_occluded(backward, clips.flow.forward)
        outputs, start = [], clips.frames[:, 0]
        for number in range(clips.frames.shape[1]):
            if number:
                moved, _ = warp(outputs[-1], backward[:, number - 1])
                start = np.where(hidden[:, number - 1, ..., None], clips.frames[:, number], moved)
                start = np.clip(np.rint(start), 0, 255).astype(np.uint8)
            frames = self._stage.sample(
                clips,
                source=encode(clips.editor, start[:, None]),
                num_steps=num_steps,
                seeds=[noise_seed(seed, str(number)) for seed in clips.seeds],
                **controls,
            )
            outputs.append(frames[:, 0])
        return np.stack(outputs, axis=1)
