"""What an opened input is: pictures with presentation times, on a grid of constant rate.

`gen1_jax.video.opening` opens inputs. `gen1_jax.video.io` documents which inputs are accepted and
how odd ones are treated.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from gen1_jax.errors import UserError

DEFAULT_FPS = Fraction(24)  # of folders and stills, which state no rate
IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
)
ACCEPTED = "accepted are video files, GIF, WebP, APNG, images and folders of images"

# A list, because Pillow would also "open" an MPEG.
IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")


class Unreadable(UserError):
    """An input cannot be read as a video; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # worker processes pickle the error to send it back
        return Unreadable, (self.reason, str(self))


REASONS = (
    "cannot be opened", "empty file", "not a video", "no video stream",
    "unfinished file",  # an mp4 without its index
    "unsupported codec", "damaged", "too many pixels", "too much memory",
    "playlist",  # or another list of other files
)  # fmt: skip


@dataclass
class Picture:
    """One decoded picture, whose pixels are converted on demand.

    Attributes:
      time: when it is shown, in seconds.
      duration: how long it is shown, in seconds.
      rgb: `rgb(cover=None)` returns upright `[h w 3]` uint8 RGB. With `cover = (h, w)` the picture
        may come scaled down, with its aspect kept, to the least size that covers it.
      thumbnail: `thumbnail(side)` returns a cheap small copy whose longer side is at most `side`,
        to compare pictures of one source. It is neither turned upright nor colour-managed.
      follows_gap: whether pictures just before it were lost; set only by `open_file(strict=True)`.
    """

    time: Fraction
    duration: Fraction
    rgb: Callable[..., np.ndarray]
    thumbnail: Callable[[int], np.ndarray]
    follows_gap: bool = False


@dataclass
class Source:
    """An opened input.

    Attributes:
      rate: pictures per second.
      pictures: the pictures in order of presentation.
      lost: number of damaged pictures so far; it grows while `pictures` is consumed.
      count: number of slots on the grid of `rate`, as the input states it; None where it does not.
      count_is_exact: whether `count` was counted, and not derived from a stated duration.
      has_sound: whether the input holds sound, too.
    """

    rate: Fraction
    pictures: Iterator[Picture]
    lost: int = 0
    count: int | None = None
    count_is_exact: bool = False
    has_sound: bool = False


def on_grid(source: Source) -> Iterator[tuple[Picture, int, int]]:
    """Yields each picture with the slots `[begin, end)` that it fills on the grid of `source.rate`.

    A picture fills the slots from its own up to the next picture's. If several pictures fall into
    one slot, the last is shown, and the others have begin = end. A picture before a gap fills one.
    """
    held, slot = None, 0
    for picture in source.pictures:
        exact = picture.time * source.rate
        if held is None:
            slot = max(0, round(exact))
        else:
            # Hysteresis keeps jitter of the time stamps (whole milliseconds in Matroska) from
            # dropping or repeating pictures.
            following = slot + 1
            at = following if abs(exact - following) < Fraction(3, 4) else max(slot, round(exact))
            yield held, slot, min(at, following) if picture.follows_gap else at
            slot = at
        held = picture
    if held is not None:
        yield held, slot, slot + max(1, round(held.duration * source.rate))


def natural_key(name: str) -> list[str | int]:
    """Returns the sort key of natural order, in which `2.png` comes before `10.png`."""
    parts = re.split(r"([0-9]+)", name)  # text and digits alternate
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
