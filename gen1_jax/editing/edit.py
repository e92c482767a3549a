"""The result of an edit."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gen1_jax.editing.redo import Redo, Section
from gen1_jax.video.fitting import Size
from gen1_jax.video.footage import Footage
from gen1_jax.video.masks import Mask, composite
from gen1_jax.video.pixels import resize_frame
from gen1_jax.video.streams import Stream


class Streams(NamedTuple):
    """What an edit gives, frame by frame, made when it is asked for.

    Attributes:
      frames: `[h w 3]` uint8, the edited frames; latents are decoded anew each time.
      structure: `[h w]` in [−1, 1], the blurred structure map that the model saw; bright is near.
        One in colours is `[h w 3]`.
      source: `[h w 3]` uint8, the frames that were edited.
    """

    frames: Stream
    structure: Stream
    source: Stream


class Edit:
    """The result of an edit.

    Attributes:
      decoded: the frames as the model made them; `streams.frames` are these, with the source's own
        pixels put back outside the mask, where there is one.
      streams: the frames one after another, for videos of any length.
      fps: frames per second, where the input has a rate: that of the frames that were edited.
    """

    def __init__(
        self,
        streams: Streams,
        fps: Fraction | None = None,
        footage: Footage | None = None,
        mask: Mask | None = None,
        redo: Redo | None = None,
    ):
        """Makes the result.

        Args:
          streams: what the model made and saw, with `frames` as they are decoded.
          fps: see the class.
          footage: the input, whose size and pixels a result can have.
          mask: what was edited of it; None: everything.
          redo: sections that were made anew of an earlier edit, whose other frames stay.
        """
        self.decoded, self.fps, self._footage = streams.frames, fps, footage
        self._mask, self._redo = mask, redo
        self.streams = streams._replace(frames=self._finished(streams.frames, streams.source))

    @classmethod
    def of(cls, frames: np.ndarray, structure: np.ndarray, source: np.ndarray) -> "Edit":
        """Returns an edit that is in memory, of arrays `[n ...]`."""
        edit = cls(Streams(*map(Stream.of, (frames, structure, source))))
        edit.frames, edit.structure, edit.source = frames, structure, source
        return edit

    def __len__(self) -> int:
        return self.decoded.count

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections of an earlier edit that were made anew."""
        return () if self._redo is None else self._redo.sections

    def at(self, size: Size | str = "model") -> Stream:
        """Returns the edited frames, scaled smoothly.

        Args:
          size: height and width; "model" keeps the size of the edit, "source" gives that which its
            part of the input has there. What a mask keeps has the input's own pixels.
        """
        if size == "source":
            size = "model" if self._footage is None else self._footage.full_size
        if size == "model":
            return self.streams.frames

        def to_size(frame: np.ndarray) -> np.ndarray:
            return resize_frame(frame, size)

        source = None if self._footage is None else self._footage.originals.map(to_size)
        return self._finished(self.decoded.map(to_size), source)

    def _finished(self, decoded: Stream, source: Stream | None) -> Stream:
        """Returns decoded frames with what is kept: pixels outside the mask, and other sections."""
        made = decoded if self._mask is None else self._composite(decoded, source)
        return made if self._redo is None else self._redo.join(made)

    def _composite(self, decoded: Stream, source: Stream) -> Stream:
        """Returns decoded frames with the source's pixels outside the mask."""

        def make() -> Iterator[np.ndarray]:
            frames = iter(decoded)
            first = next(frames)
            shares = self._mask.on_result(first.shape[:2])
            parts = itertools.chain([first], frames), source, shares
            return map(composite, *parts)

        return Stream(decoded.count, make)

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
