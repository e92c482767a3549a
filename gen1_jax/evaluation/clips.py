"""A batch of clips to edit, with what all methods and all settings share: computed once."""

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from gen1_jax.data_pipelines.to_encode import make_structure_map
from gen1_jax.editing import VideoEditor
from gen1_jax.editing.structure import make_maps
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.stopwatch import apart
from gen1_jax.runtime import naming_what_to_lower
from gen1_jax.video.flow import Flow, estimate_flow


class Clips:
    """Clips of one size and length, all with prompts or all with pictures, edited together.

    What is computed of them is computed when a method first asks for it, and kept.

    Attributes:
      editor: the pipeline, whose encoders serve all methods.
      items: the clips.
      frames: `[b n H W 3]` uint8.
      seeds: the seed of each clip's noise, `[b]`. It follows from the seed of the evaluation and
        the name of the video, so that a clip has the same noise in all settings and any batch.
      kept: what methods compute of the clips once, by name.
    """

    def __init__(self, editor: VideoEditor, items: Sequence[Item], seed: int):
        self.editor, self.items, self._seed = editor, items, seed
        self.kept: dict[str, Any] = {}
        self.frames = np.stack([item.frames for item in items])
        self.seeds = [noise_seed(seed, item.video) for item in items]

    @cached_property
    def content(self) -> jax.Array:
        """The content of prompts, or of the pictures given in their place, `[b d]`."""
        images = [item.image for item in self.items]
        with _shared("reading prompts"):
            if all(image is None for image in images):
                prompts = [item.prompt for item in self.items]
                seeds = [noise_seed(self._seed, prompt) for prompt in prompts]
                return jax.block_until_ready(self.editor.text_content(prompts, seeds))
            # Pictures may have different sizes.
            found = [self.editor.image_content(image[None]) for image in images]
            return np.concatenate([np.asarray(each) for each in found])

    @cached_property
    def flow(self) -> Flow:
        """Optical flow of consecutive frames."""
        return estimate_flow(self.frames)

    @cached_property
    def depth(self) -> np.ndarray:
        """Estimated inverse depth, `[b n H W]`."""
        with _shared("estimating depth"):
            return np.asarray(self.editor.estimate_depth(self.frames))

    @cached_property
    def structure_map(self) -> np.ndarray:
        """What structure is made of, the depth as a rule, `[b n H W]`, or in colours.

        Raises:
          UserError: the model was trained on the truth of the world, and clips are not of it.
        """
        recipe = self.editor.conditioner.recipe
        if recipe.extractor == "depth":
            depth = self.depth
            with _shared("limiting depth"):
                return np.asarray(self.editor.conditioner.structure_map(self.frames, depth))
        with _shared("making structure"):
            if recipe.place == "world":
                known = [{"depth": item.depth, "mask": item.mask} for item in self.items]
                return np.stack([make_structure_map(recipe.extractor, each) for each in known])
            return np.asarray(make_maps(self.editor, self.frames))


@contextlib.contextmanager
def _shared(task: str) -> Iterator[None]:
    """What the block computes serves all settings, so that it is no edit's own time."""
    with apart(), naming_what_to_lower(task, "the clips edited together (--batch-size)"):
        yield


def noise_seed(seed: int, name: str) -> int:
    """Returns the seed of the noise of what has this name, in an evaluation of this seed."""
    return zlib.crc32(f"{seed} {name}".encode("utf-8", "surrogatepass"))
