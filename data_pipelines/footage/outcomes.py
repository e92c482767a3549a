"""The outcome of an input: it is used, or dropped for one of the reasons listed here."""

from __future__ import annotations

import dataclasses
from collections import Counter

from gen1_jax.errors import UserError

# The tables, reason → meaning, are the whole vocabulary of `report.json`.
# Reasons why an input cannot be read:
UNREADABLE = {
    "missing": "a manifest names it, and it is not there",
    "outside the source": "it leads out of its archive or of its manifest's folder; "
    "--allow-outside accepts the second",
    "cannot be opened": "the operating system refuses it",
    "empty file": "0 bytes",
    "not a video": "no container or image that PyAV or Pillow knows",
    "not an image": "no image that Pillow knows, or a sample of an archive without one",
    "no video stream": "a container of sound only",
    "unfinished file": "an mp4 without its index: cut off, or never finished",
    "unsupported codec": "this build of ffmpeg has no decoder for it",
    "damaged": "too little can be decoded",
    "too many pixels": "a picture that would fill the memory: a decompression bomb",
    "playlist": "it names other files to be read, which is refused",
    "too many frames": "it has more pictures than is accepted, and none before gave a clip",
    "took too long": "its decoder was ended, because it gave nothing for a minute",
    "too much memory": "its decoder was refused more memory",
    "crashed": "its decoder crashed",
}
# Reason why an input is not read again:
KNOWN = {"there already": "an earlier ingest into this data set read the same content"}
# Reasons why a shot, clip or image that was read is not wanted:
UNWANTED = {
    "too short": "a shot has fewer frames than a clip",
    "too small": "it would have to be enlarged by more than --max-upscale",
    "too little kept": "cropping to the size would keep less of it than --min-kept",
    "too dark": "its mean luma is below --min-luma",
    "near-still": "its frames hardly change: below --min-motion",
    "duplicate": "another input holds nearly the same, and came first",
}
REASONS = UNREADABLE | KNOWN | UNWANTED


def check_min_kept(value: float) -> None:
    """Raises UserError for a share that is not accepted."""
    if not 0 <= value <= 1:
        raise UserError(f"--min-kept {value}: 0 to 1 is accepted")


@dataclasses.dataclass
class Outcome:
    """The outcome of one input.

    Attributes:
      path: path of the input, relative to the source.
      content: hash of its content, by `identity`; "" if it was not read.
      split: split of its records; "" if it was not read.
      kept: number of records made of it.
      dropped: for each reason, the number of shots, clips or images dropped for it. An input that
        cannot be read has one reason, with the number 1.
      note: a few words on what else there is to know.
      caption_mended: whether its caption holds U+FFFD, which stands for what is no Unicode.
    """

    path: str
    content: str = ""
    split: str = ""
    kept: int = 0
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    note: str = ""
    caption_mended: bool = False

    @property
    def reason(self) -> str | None:
        """The reason why nothing of the input is used, or None.

        It is the most frequent reason, or the last in `REASONS` of equally frequent ones.
        """
        if self.kept:
            return None
        order = list(REASONS)
        return max(self.dropped, key=lambda reason: (self.dropped[reason], order.index(reason)))

    def drop(self, reason: str, note: str = "") -> None:
        """Notes that a shot, clip, image or the whole input is dropped."""
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        self.dropped[reason] += 1
        self.note = self.note or note

    def to_json(self) -> dict:
        return {**vars(self), "dropped": dict(self.dropped)}

    @classmethod
    def from_json(cls, fields: dict) -> Outcome:
        return cls(**{**fields, "dropped": Counter(fields["dropped"])})
