"""The clips that an evaluation edits; `prompts` reads those of users, here are the world's."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Item:
    """A clip to edit, with the truth about it where that is known.

    Attributes:
      clip: its name in the records.
      video: what it was taken from. Clips of one video are not independent of each other.
      frames: `[n H W 3]` uint8.
      prompt: what it should become; may be empty if there is an `image`.
      image: `[H W 3]` uint8, a picture to take the content from, in place of the prompt.
      source_prompt: what the source shows, in words; empty: not known.
      depth: `[n H W]` true inverse depth.
      mask: `[n H W]` bool, the object that the prompt changes.
      colour: the colour that the prompt names.
      kind: kind of edit, such as object, surface, environment or style; empty: not known.
      camera: how the camera moves: still, moving or shaky; empty: not known.
      wanted: on the world, what the edit should have: colour, texture, background, shape.
      truth: on the world, all that is known of the source.
      fps: frames per second.
      start: number of its first frame in the video, from 0 on.
      stride: frames of the video from one of its frames to the next.
      taken: what was left out of the video that the frames come from, in words; empty: nothing.
    """

    clip: str
    video: str
    frames: np.ndarray
    prompt: str
    image: np.ndarray | None = None
    source_prompt: str = ""
    depth: np.ndarray | None = None
    mask: np.ndarray | None = None
    colour: str | None = None
    kind: str = ""
    camera: str = ""
    wanted: Mapping[str, str] = dataclasses.field(default_factory=dict)
    truth: Mapping[str, Any] | None = None
    fps: float | Fraction = 8
    start: int = 0
    stride: int = 1
    taken: str = ""

    @functools.cached_property
    def pixels(self) -> str:
        """Sixteen letters that tell the frames apart from those of another clip of this name."""
        return hashlib.sha256(self.frames.tobytes()).hexdigest()[:16]

    @functools.cached_property
    def given(self) -> str:
        """Sixteen letters of all else that the edit and its measures depend on."""
        digest = hashlib.sha256(f"{self.source_prompt}\0{self.colour}".encode())
        digest.update(json.dumps([self.wanted, self.truth], sort_keys=True).encode())
        for array in (self.image, self.depth, self.mask):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colours that prompts name, and the judge of an object's colour.

    Attributes:
      rgb: name → RGB.
      colour_of: (frames, mask) → (name of the object's colour, distance to each colour).
    """

    rgb: dict[str, tuple[int, int, int]]
    colour_of: Callable[[np.ndarray, np.ndarray], tuple[str, dict]]


def world_items(
    folder: str | Path, builder: str | None, split: str, count: int, seed: int = 0
) -> tuple[list[Item], Palette]:
    """Returns clips of the world with the truth, and prompts that ask for another colour.

    Args:
      folder: of the data set.
      builder: its size: demo, tiny, …; None: the one that is in the folder.
      split: the split to take clips from.
      count: clips, from the split's first on.
      seed: of the colours asked for.

    Raises:
      UserError: the data set is not there, or has fewer clips.
    """
    from gen1_jax.data_pipelines.moving_shapes.builder import built_configs, load
    from gen1_jax.data_pipelines.moving_shapes.colour import colour_of
    from gen1_jax.data_pipelines.moving_shapes.records import decode_example
    from gen1_jax.data_pipelines.moving_shapes.vocabulary import COLOURS, edit_prompt

    if builder is None:
        found = built_configs(folder)
        if len(found) > 1:
            raise UserError(f"{folder} holds {' and '.join(found)}; name one: --builder {found[0]}")
        builder = found[0] if found else "demo"
    source = load(folder, builder, split)
    if count > len(source):
        raise UserError(
            f"{count} clips were asked for; the split {split} of moving_shapes/{builder} has "
            f"{len(source)}"
        )
    rng = np.random.default_rng(seed)
    items = []
    for i in range(count):
        clip = decode_example(source[i])
        truth = clip["truth"]
        colour = str(rng.choice([name for name in COLOURS if name != truth["colour"]]))
        items.append(
            Item(
                clip=f"{split}-{i:05d}",
                video=f"{split}-{i:05d}",
                frames=clip["frames"],
                prompt=edit_prompt(truth, colour),
                depth=clip["depth"],
                mask=clip["mask"],
                colour=colour,
            )
        )
    return items, Palette(COLOURS, colour_of)
