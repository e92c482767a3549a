"""Pictures of edits beside their sources: a contact sheet, a GIF, a video of each clip."""

from pathlib import Path

import numpy as np

from gen1_jax.video import pictures
from gen1_jax.video.io import write_video


def picture_edits(rows: list[dict[str, np.ndarray]], folder: Path) -> None:
    """Writes a contact sheet, a side-by-side mp4 of each clip, and a GIF of the first six clips.

    Args:
      rows: one for each clip: title → clip `[n h w 3]`; the source, its depth, and the edits.
      folder: where to write.
    """
    brief = [dict(list(row.items())[:3]) for row in rows]  # source, depth, first edit
    pictures.save_image(folder / "contact_sheet.png", pictures.contact_sheet(brief))
    if len(rows[0]) > 3:
        pictures.save_image(folder / "controls.png", pictures.contact_sheet(rows, 2))
    for i, row in enumerate(rows):
        clip = _to_and_fro(pictures.side_by_side(row))
        write_video(folder / "videos" / f"edit_{i:02d}.mp4", clip, fps=8, overwrite=True)
    scale = max(1, 128 // brief[0]["source"].shape[1])
    panels = [pictures.side_by_side(row, scale=scale) for row in brief[:6]]
    width, height = (max(panel.shape[axis] for panel in panels) for axis in (2, 1))
    panels = [
        np.pad(p, ((0, 0), (0, height - p.shape[1]), (0, width - p.shape[2]), (0, 0)), mode="edge")
        for p in panels
    ]
    half = -(-len(panels) // 2)
    panels += [np.zeros_like(panels[0])] * (2 * half - len(panels))
    columns = [np.concatenate(column, axis=1) for column in (panels[:half], panels[half:])]
    write_video(folder / "edits.gif", np.concatenate(columns, axis=2), fps=8, overwrite=True)


def _to_and_fro(clip: np.ndarray, times: int = 4) -> np.ndarray:
    """Returns the clip played forward and backward several times, since it is short."""
    return np.concatenate([clip, clip[-2:0:-1]] * times)
