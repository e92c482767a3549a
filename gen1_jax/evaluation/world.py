"""The evaluation part of a config: held-out clips of the world, edited, measured and pictured."""

import hashlib
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.cells import make_grid
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.pictures import picture_edits
from gen1_jax.evaluation.records import holding
from gen1_jax.evaluation.report import write_summary
from gen1_jax.evaluation.sweep import key_of, run_of, run_sweep
from gen1_jax.evaluation.world_items import world_items
from gen1_jax.files import read_json, write_json
from gen1_jax.video.pictures import colour_depth

PICTURES = "pictures.json"  # the digest of the edits that the pictures show


def evaluate_world(config, workdir: Path, progress: bool) -> None:
    """Edits held-out clips at every setting, measures the edits and pictures the first clips.

    Args:
      config: the evaluation part's; see configs/tiny.py.
      workdir: the part's folder. Records that are there are not made again.
      progress: whether to show a bar.
    """
    editor = VideoEditor.load(config.pipeline)
    items = world_items(config.world, config.builder, config.split, config.num_clips, config.seed)
    grid = make_grid(
        structure_level=tuple(config.structure_level),
        temporal_scale=tuple(config.temporal_scale),
        guidance_scale=tuple(config.guidance_scale),
    )
    (workdir / "videos").mkdir(parents=True, exist_ok=True)
    pictured = {item.clip for item in items[: config.num_pictured]}
    run = run_of(editor, config.num_steps) | {"seed": config.seed}
    edits = [key_of(item, run) | s for item in items[: config.num_pictured] for s in grid]
    shown = {"edits": hashlib.sha256(json.dumps(edits).encode()).hexdigest()}
    done = read_json(workdir / PICTURES) == shown
    rows: dict[str, dict[str, np.ndarray]] = {}  # clip → title → frames

    def on_edit(item: Item, setting: dict, frames: np.ndarray) -> None:
        if item.clip in pictured:
            source = {"source": item.frames, "depth": colour_depth(item.depth)}
            row = rows.setdefault(item.clip, source)
            row[_edit_title(setting, grid[0], item.prompt)] = frames

    with holding(workdir):
        records = run_sweep(
            editor,
            items,
            grid,
            workdir,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            seeds=(config.seed,),
            on_edit=on_edit,
            # An evaluation that was stopped has records of its edits, but no pictures of them; one
            # of another model or other settings has pictures, but not of these edits.
            is_missing=lambda item, setting: not done and item.clip in pictured,
            progress=progress,
            alone=True,  # the first process of a job keeps the frames of all pictures
        )
    tqdm.write(write_summary(records, workdir))
    if rows.keys() == pictured and all(len(row) == 2 + len(grid) for row in rows.values()):
        picture_edits(list(rows.values()), workdir)
        write_json(workdir / PICTURES, shown)
    tqdm.write(f"pictures, table and metrics are in {workdir}")


def _edit_title(setting: dict, base: dict, prompt: str) -> str:
    """Returns the prompt for the base setting, else the controls that differ from it."""
    symbols = {"structure_level": "t_s", "temporal_scale": "ω_t", "guidance_scale": "ω"}
    changed = [
        f"{symbol}={setting[k]:g}"
        for k, symbol in symbols.items()
        if base[k] is not None and setting[k] != base[k]
    ]
    return ", ".join(changed) or prompt
