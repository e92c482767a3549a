"""Pictures of clips and images for `gen1 inspect`: a contact sheet, and a mosaic that moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.video import pictures
from gen1_jax.video.io import fit_size, resize_frame, write_video

HEIGHT = 128  # height of an item in the pictures, in pixels
_WIDTH = 1900  # width of the contact sheet, about
_FRAMES = 4  # frames of a clip on the contact sheet
_SECONDS = 6  # least duration of the mosaic


class Item(NamedTuple):
    """An item to look at.

    Attributes:
      label: what is written under it.
      frames: [n h w 3] uint8.
      fps: frames per second, or None for an image.
    """

    label: str
    frames: np.ndarray
    fps: float | None = None


def show(items: Sequence[Item], out: Path) -> list[Path]:
    """Writes `out/contact_sheet.png` and `out/mosaic.mp4`, replacing what is there.

    Raises:
      UserError: there are no items, or the files cannot be written.
    """
    if not items:
        raise UserError("no item can be shown: all that were drawn are damaged")
    small = [item._replace(frames=_to_height(item.frames)) for item in items]
    sheet, film = out / "contact_sheet.png", out / "mosaic.mp4"
    pictures.save_image(sheet, pictures.contact_sheet(_rows(small), _FRAMES, scale=1))
    rates = [item.fps for item in small if item.fps]
    fps = float(np.median(rates)) if rates else 1.0
    frames = pictures.mosaic([item.frames for item in small])
    again = max(1, round(_SECONDS * fps / len(frames)))
    write_video(film, np.concatenate([frames] * again), fps, overwrite=True)
    return [sheet, film]


def _rows(items: Sequence[Item]) -> list[dict[str, np.ndarray]]:
    """Returns rows of as many items as fit; a number in front makes each label unique."""
    rows: list[dict[str, np.ndarray]] = []
    room = 0
    for number, item in enumerate(items, 1):
        width = item.frames.shape[2] * min(_FRAMES, len(item.frames))
        if width > room:
            rows.append({})
            room = _WIDTH
        rows[-1][f"{number} · {item.label}"] = item.frames
        room -= width
    return rows


def _to_height(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    size = (HEIGHT, fit_size(HEIGHT, width * HEIGHT / height, 1)[1])
    return np.stack([resize_frame(frame, size) for frame in frames])
