"""Writes a few rendered clips as films and images, and a picture of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.records import decode_example
from gen1_jax.video import pictures
from gen1_jax.video.io import write_video

_FPS = 8
_MOST_PICTURED = 16  # rows of the preview


def write_previews(
    splits: Mapping[str, Sequence[dict]], folder: Path, count: int
) -> list[tuple[Path, str]]:
    """Writes `clips/clip_NN.mp4`, `masks/mask_NN.mp4`, `images/image_NN.png` and `preview.png`.

    A mask is white where its clip shows the object. An image is the first frame of a further clip,
    which is not among the films: `gen1 ingest` drops images that are frames of clips. A text file
    beside each film and image holds its caption, where `gen1 ingest` looks for it. The preview
    shows the clips' depth and masks too.

    Args:
      splits: stored records of each split.
      folder: folder to write to.
      count: number of clips: the first of the test split and, after all of these, of training. As
        many clips after them give the images, as far as there are more.

    Returns:
      The path and the caption of each film.
    """
    places = [(name, i) for name in ("test", "train") for i in range(len(splits[name]))]
    clips, further = (
        [decode_example(splits[name][i]) for name, i in some]
        for some in (places[:count], places[count : 2 * count])
    )
    rows = [
        {
            clip["caption"]: clip["frames"],
            "depth": pictures.colour_depth(clip["depth"]),
            "mask": _white(clip["mask"]),
        }
        for clip in clips
    ]
    pictures.save_image(folder / "preview.png", pictures.contact_sheet(rows[:_MOST_PICTURED]))
    films = []
    for i, clip in enumerate(clips):
        path = folder / "clips" / f"clip_{i:02d}.mp4"
        write_video(path, clip["frames"], fps=_FPS, overwrite=True)
        mask = folder / "masks" / f"mask_{i:02d}.mp4"
        write_video(mask, _white(clip["mask"]), fps=_FPS, overwrite=True)
        _write_caption(path, clip)
        films.append((path, clip["caption"]))
    for i, clip in enumerate(further):
        image = folder / "images" / f"image_{i:02d}.png"
        image.parent.mkdir(exist_ok=True)
        pictures.save_image(image, clip["frames"][0])
        _write_caption(image, clip)
    return films


def _write_caption(path: Path, clip: Mapping[str, Any]) -> None:
    path.with_suffix(".txt").write_text(clip["caption"] + "\n", encoding="utf-8")


def _white(mask: np.ndarray) -> np.ndarray:
    """Returns a mask [n h w] bool as pictures [n h w 3] uint8."""
    return np.repeat(mask[..., None], 3, axis=-1).astype(np.uint8) * 255
