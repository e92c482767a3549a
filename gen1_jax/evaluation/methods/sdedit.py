"""SDEdit (Meng et al. 2021): the source is noised to a strength, and denoised towards the content.

Strength is the share of the noise: near 0 the source stays as it is, at 1 nearly nothing of it
does.
"""

import numpy as np

from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.stage import Stage, source_latents


class SDEditPerFrame:
    """Each frame alone, by the image model without structure; every frame has its own noise."""

    name = "sdedit-per-frame"
    controls = ("guidance_scale", "strength")
    per_frame, fixed_noise = True, False

    def __init__(self, stage: Stage):
        self._stage = stage

    def identity(self, item: Item) -> dict[str, str]:
        return {"rival": self._stage.digest}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        return self._stage.sample(
            clips,
            source=source_latents(clips),
            num_steps=num_steps,
            per_frame=self.per_frame,
            fixed_noise=self.fixed_noise,
            **{name: setting[name] for name in self.controls},
        )


class SDEditPerFrameFixed(SDEditPerFrame):
    """The same, with one noise for all frames of a clip, which makes them more alike."""

    name = "sdedit-per-frame-fixed"
    fixed_noise = True


class SDEditVideo(SDEditPerFrame):
    """Whole clips, by the video model without structure; guidance is the plain one, ω_t = 1."""

    name = "sdedit-video"
    per_frame = False
