"""The result of an edit."""

from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gen1_jax.video.fitting import Size
from gen1_jax.video.pixels import resize_frame
from gen1_jax.video.streams import Stream


class Streams(NamedTuple):
    """What an edit gives, frame by frame, made when it is asked for.

    Attributes:
      frames: `[h w 3]` uint8, the edited frames; latents are decoded anew each time.
      structure: `[h w]` in [−1, 1], the blurred structure map that the model saw; bright is near.
      source: `[h w 3]` uint8, the frames that were edited.
    """

    frames: Stream
    structure: Stream
    source: Stream


class Edit:
    """The result of an edit.

    Attributes:
      streams: the frames one after another, for videos of any length.
      fps: frames per second, where the input has a rate: that of the frames that were edited.
    """

    def __init__(
        self, streams: Streams, fps: Fraction | None = None, full_size: Size | None = None
    ):
        """Args: streams, fps: see the class. full_size: height and width in the input's pixels."""
        self.streams, self.fps, self._full_size = streams, fps, full_size

    @classmethod
    def of(cls, frames: np.ndarray, structure: np.ndarray, source: np.ndarray) -> "Edit":
        """Returns an edit that is in memory, of arrays `[n ...]`."""
        edit = cls(Streams(*map(Stream.of, (frames, structure, source))))
        edit.frames, edit.structure, edit.source = frames, structure, source
        return edit

    def __len__(self) -> int:
        return self.streams.frames.count

    def at(self, size: Size | str = "model") -> Stream:
        """Returns the edited frames, scaled smoothly.

        Args:
          size: height and width; "model" keeps the size of the edit, "source" gives that which its
            part of the input has there.
        """
        if size == "source":
            size = self._full_size or "model"
        if size == "model":
            return self.streams.frames
        return self.streams.frames.map(lambda frame: resize_frame(frame, size))

    @cached_property
    def frames(self) -> np.ndarray:
        """All edited frames at once, [n h w 3] uint8."""
        return self.streams.frames.array()

    @cached_property
    def structure(self) -> np.ndarray:
        """The structure map that the model saw, of all frames at once, [n h w] in [−1, 1]."""
        return self.streams.structure.array()

    @cached_property
    def source(self) -> np.ndarray:
        """All frames that were edited at once, [n h w 3] uint8."""
        return self.streams.source.array()
