"""Sections of an earlier edit that are made anew: a mask over time.

Outside the sections, the latents are those of the earlier result's frames. Windows that reach over
a section's ends therefore see what it must join.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.fitting import Size
from gen1_jax.video.footage import Footage, open_footage
from gen1_jax.video.inputs import to_frames
from gen1_jax.video.pixels import resize_frame
from gen1_jax.video.streams import Stream

Section = tuple[int, int]  # the first frame, and the one after the last

_TIMES = re.compile(r"(\d+(?:\.\d*)?|\.\d+)s?-(\d+(?:\.\d*)?|\.\d+)s")
_FRAMES = re.compile(r"(\d+)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Redo:
    """Sections that are made anew.

    Attributes:
      earlier: the frames of the earlier result, in its own size.
      sections: those to make anew, in order.
    """

    earlier: Stream
    sections: tuple[Section, ...]

    @property
    def anew(self) -> np.ndarray:
        """Whether each frame is made anew, [n] bool."""
        flags = np.zeros(len(self.earlier), bool)
        for first, stop in self.sections:
            flags[first:stop] = True
        return flags

    def fitted(self, size: Size, fit: str) -> Stream:
        """Returns the earlier frames in the size of an edit."""
        return self.earlier.map(lambda frame: resize_frame(frame, size, fit))

    def fill(self, new: Stream, size: Size, fit: str) -> Stream:
        """Returns the frames of a whole video, of which `new` holds the sections alone."""

        def make() -> Iterator[np.ndarray]:
            made = iter(new)
            for is_new, old in zip(self.anew, self.fitted(size, fit), strict=True):
                yield next(made) if is_new else old

        return Stream(len(self.earlier), make)

    def join(self, made: Stream) -> Stream:
        """Returns the frames of `made` in the sections, and the earlier ones elsewhere."""

        def make() -> Iterator[np.ndarray]:
            for is_new, old, new in zip(self.anew, self.earlier, made, strict=True):
                yield new if is_new else resize_frame(old, new.shape[:2])

        return Stream(len(made), make)


def make_redo(sections: Any, earlier: Any, footage: Footage) -> Redo:
    """Returns what a caller wants to have made anew.

    Args:
      sections: one section or several, as `read_section` takes them.
      earlier: the earlier result: a path, or frames as `VideoEditor.edit` takes them.
      footage: what was edited.

    Raises:
      UserError: the earlier result has another number of frames, or a section is none.
    """
    is_path = isinstance(earlier, str | os.PathLike)
    frames = (open_footage(earlier) if is_path else to_frames(earlier)).frames
    where = str(earlier) if is_path else "earlier"
    if len(frames) != len(footage):
        raise UserError(
            f"{where}: has {len(frames)} frames, and {len(footage)} are edited; the result of an "
            "edit of the same frames is accepted"
        )
    is_one = isinstance(sections, str) or (
        len(sections) == 2 and all(isinstance(x, int | np.integer) for x in sections)
    )
    found = [
        read_section(each, footage.fps, len(frames))
        for each in ([sections] if is_one else sections)
    ]
    return Redo(frames, merge_sections(found))


def read_section(section: Any, rate: Fraction | None, count: int) -> Section:
    """Returns the first frame of a section, and the one after its last.

    Args:
      section: a text such as "2.0-3.5s" or "48-84", where the frame or the time after the dash is
        the first that is left; or two numbers of frames.
      rate: frames per second, for times.
      count: frames of the video.

    Raises:
      UserError: it is none, ends before it begins, or lies beyond the end.
    """
    begin, end, is_time = check_section(section)
    text = section if isinstance(section, str) else f"{begin}-{end}"
    if is_time and rate is None:
        raise UserError(f"redo {text}: the frames have no rate; numbers of frames are accepted")
    first, stop = (round(each * (rate if is_time else 1)) for each in (begin, end))
    if stop > count:
        last = f"{count / float(rate):g}s" if is_time else f"frame {count}"
        raise UserError(f"redo {text}: is beyond the end, which is at {last}")
    if first == stop:
        raise UserError(f"redo {text}: holds no frame")
    return first, stop


def check_section(section: Any) -> tuple[Fraction, Fraction, bool]:
    """Returns where a section begins and ends, and whether these are times.

    Raises:
      UserError: it is no section, or ends before it begins.
    """
    text = section
    is_pair = isinstance(section, list | tuple) and len(section) == 2
    if is_pair and all(isinstance(x, int | np.integer) for x in section):
        text = f"{section[0]}-{section[1]}"
    times = _TIMES.fullmatch(text) if isinstance(text, str) else None
    found = times or (_FRAMES.fullmatch(text) if isinstance(text, str) else None)
    if not found:
        raise UserError(
            f"redo is {show(section)}; a section such as 2.0-3.5s is accepted, or frames such as "
            "48-84 (48 to 83)"
        )
    begin, end = map(Fraction, found.groups())
    if begin >= end:
        raise UserError(f"redo {text}: ends before it begins")
    return begin, end, times is not None


def merge_sections(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Returns sections in order; those that touch become one."""
    merged: list[Section] = []
    for first, stop in sorted(sections):
        if merged and first <= merged[-1][1]:
            first, stop = merged[-1][0], max(stop, merged.pop()[1])
        merged.append((first, stop))
    return tuple(merged)
