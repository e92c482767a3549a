"""Evaluation of a pipeline, on the world or a prompt file: records, table, plot, pictures."""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation import report
from gen1_jax.evaluation.sweep import Item, Palette, make_grid, run_sweep
from gen1_jax.files import replacing, write_json
from gen1_jax.video import pictures
from gen1_jax.video.io import read_video, write_video

LAST_PICTURE = "edits.gif"  # written after all others
HEADLINE = ("colour_accuracy", "structure_correlation", "frame_consistency", "prompt_consistency")


def world_items(
    folder: str | Path, builder: str, split: str, count: int, seed: int = 0
) -> tuple[list[Item], Palette]:
    """Held-out clips of the world with prompts that ask for another colour, and the truth."""
    from gen1_jax.data_pipelines.moving_shapes.builder import load
    from gen1_jax.data_pipelines.moving_shapes.records import decode_example
    from gen1_jax.data_pipelines.moving_shapes.renderer import COLOURS, colour_of, edit_prompt

    source = load(folder, builder, split)
    if count > len(source):
        raise UserError(
            f"{count} clips asked; {split} of moving_shapes/{builder} has {len(source)}"
        )
    rng = np.random.default_rng(seed)
    items = []
    for i in range(count):
        clip = decode_example(source[i])
        truth = clip["truth"]
        colour = str(rng.choice([name for name in COLOURS if name != truth["colour"]]))
        items.append(
            Item(
                clip=f"{split}-{i:05d}",
                frames=clip["frames"],
                prompt=edit_prompt(truth, colour),
                depth=clip["depth"],
                mask=clip["mask"],
                colour=colour,
            )
        )
    return items, Palette(COLOURS, colour_of)


def file_items(path: Path, size: tuple[int, int], num_frames: int, stride: int) -> list[Item]:
    """Items of a prompt file: a JSON object a line, {"video": PATH, "prompt": TEXT}.

    Paths are relative to the file.

    Raises:
      UserError: naming the line that is wrong.
    """
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a prompt file: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            video, prompt = entry["video"], entry["prompt"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(
                f'{path}, line {number}: {{"video": PATH, "prompt": TEXT}} is accepted, '
                f"not {line[:60]!r}"
            ) from None
        if not isinstance(video, str) or not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{path}, line {number}: video and prompt must be texts, not empty")
        try:
            source = path.parent / video
            frames = read_video(source, num_frames=num_frames, stride=stride, size=size).frames
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        items.append(Item(clip=f"{video}#{number}", frames=frames, prompt=prompt))
    if not items:
        raise UserError(f"{path}: holds no prompts")
    return items


def summarise(records: list[dict], workdir: Path, grid: list[dict]) -> None:
    """Prints the table; writes table.md, metrics.json and, if a control varies, trends.png."""
    rows = report.summarise(records)
    print(report.format_table(rows))
    with replacing(workdir / "table.md") as part:
        part.write_text(report.format_table(rows, markdown=True) + "\n", encoding="utf-8")
    base = [
        r
        for r in records
        if all(r[name] == value for name, value in grid[0].items() if value is not None)
    ]
    values = {name: [r[name] for r in base if r.get(name) is not None] for name in HEADLINE}
    headline = {name: float(np.clip(np.mean(v), 0, 1)) for name, v in values.items() if v}
    write_json(workdir / "metrics.json", headline)
    # Clips of one frame have no consistency between frames to plot.
    if len(grid) > 1 and any("frame_consistency" in record for record in records):
        report.plot_trends(records, workdir / "trends.png")


def evaluate_world(config, workdir: Path, progress: bool) -> None:
    """Edits held-out clips at every setting, and measures.

    Pictures of the first setting's edits and of all controls.
    """
    editor = VideoEditor.load(config.pipeline)
    items, palette = world_items(
        config.world, config.builder, config.split, config.num_clips, config.seed
    )
    grid = make_grid(
        tuple(config.structure_level), tuple(config.temporal_scale), tuple(config.guidance_scale)
    )
    (workdir / "videos").mkdir(parents=True, exist_ok=True)
    shown = {item.clip for item in items[: config.num_pictured]}
    sheet: dict[str, dict[str, np.ndarray]] = {}

    def on_edit(item: Item, setting: dict, edit) -> None:
        if item.clip not in shown:
            return
        row = sheet.setdefault(
            item.clip, {"source": item.frames, "depth": pictures.colour_depth(item.depth)}
        )
        row[setting_label(setting, grid[0], item.prompt)] = edit.frames

    records = run_sweep(
        editor,
        items,
        grid,
        workdir / "records.jsonl",
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        seed=config.seed,
        palette=palette,
        on_edit=on_edit,
        # Records of a stopped evaluation are there already, its pictures are not.
        remade=() if (workdir / LAST_PICTURE).exists() else shown,
        progress=progress,
    )
    summarise(records, workdir, grid)
    if sheet.keys() == shown and all(len(row) == 2 + len(grid) for row in sheet.values()):
        picture_edits(list(sheet.values()), workdir)
    tqdm.write(f"pictures, table and metrics are in {workdir}")


def setting_label(setting: dict, base: dict, prompt: str) -> str:
    """The prompt for the base setting, else the control that differs from it."""
    symbols = {"structure_level": "t_s", "temporal_scale": "ω_t", "guidance_scale": "ω"}
    changed = [
        f"{symbols[k]}={v:g}" for k, v in setting.items() if base[k] is not None and v != base[k]
    ]
    return ", ".join(changed) or prompt


def picture_edits(rows: list[dict[str, np.ndarray]], workdir: Path) -> None:
    """A contact sheet, a side-by-side mp4 a clip, and one GIF of the first six clips."""
    brief = [dict(list(row.items())[:3]) for row in rows]  # source, depth, first edit
    pictures.save_image(workdir / "contact_sheet.png", pictures.contact_sheet(brief))
    if len(rows[0]) > 3:
        pictures.save_image(workdir / "controls.png", pictures.contact_sheet(rows, 2))
    for i, row in enumerate(rows):
        clip = _to_and_fro(pictures.side_by_side(row))
        write_video(workdir / "videos" / f"edit_{i:02d}.mp4", clip, fps=8, overwrite=True)
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
    write_video(workdir / "edits.gif", np.concatenate(columns, axis=2), fps=8, overwrite=True)


def _to_and_fro(clip: np.ndarray, times: int = 4) -> np.ndarray:
    """Short clips are over before one has looked: played forth and back, again and again."""
    return np.concatenate([clip, clip[-2:0:-1]] * times)
