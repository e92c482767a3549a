"""A clip that an evaluation edits; `prompts` reads those of users, `world_items` makes others."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np


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
        digest = hashlib.sha256(self.source_prompt.encode())
        digest.update(json.dumps([self.wanted, self.truth], sort_keys=True).encode())
        for array in (self.image, self.depth, self.mask):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]
