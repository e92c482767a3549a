"""The first frame is edited, and carried on by the source's optical flow.

It stands for IVS and EbSynth, whose key frame is edited by an image model and carried on through
the clip. What comes into view later has no edit: the flow leads its pixels to the nearest edge.
"""

import numpy as np

from gen1_jax.distributed import FRAMES
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.gen1 import Gen1PerFrame
from gen1_jax.video.flow import warp


class PropagateFirstFrame(Gen1PerFrame):
    """The pipeline edits the first frame as a picture of its own."""

    name = "propagate-first-frame"

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        # Frames divide over the devices of a clip, so there are as many copies as these.
        copies = clips.editor.mesh.shape[FRAMES]
        edits = clips.editor.edit_batch(
            np.repeat(clips.frames[:, :1], copies, axis=1),
            clips.content,
            structure=np.repeat(clips.structure_map[:, :1], copies, axis=1),
            seed=clips.seeds,
            steps=num_steps,
            solver=self._solver,
            per_frame=True,
            **{name: setting[name] for name in self.controls},
        )
        first = np.stack([edit.frames[0] for edit in edits])
        return carry_on(first, clips.flow.backward)


def carry_on(first: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Moves a first frame along a flow.

    The flows are composed, so that every frame is interpolated once.

    Args:
      first: `[b h w 3]` uint8.
      backward: `[b n-1 h w 2]`, from each frame but the first to the one before it.

    Returns:
      `[b n h w 3]` uint8.
    """
    frames, to_first = [first], np.zeros_like(backward[:, 0])
    for flow in np.moveaxis(backward, 1, 0):
        to_first = flow + warp(to_first, flow)[0]
        moved, _ = warp(first, to_first)
        frames.append(np.clip(np.rint(moved), 0, 255).astype(np.uint8))
    return np.stack(frames, axis=1)
