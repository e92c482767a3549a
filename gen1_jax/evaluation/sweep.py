"""A sweep: every clip edited at every setting of the controls, measured, written as it goes."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange
from tqdm import tqdm

from gen1_jax.editing import Edit, VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation import metrics, report


@dataclasses.dataclass(frozen=True)
class Item:
    """A clip to edit. `depth`, `mask` and `colour` are the truth, where it is known."""

    clip: str  # its name in the records
    frames: np.ndarray  # [n H W 3] uint8
    prompt: str
    depth: np.ndarray | None = None  # [n H W] inverse depth
    mask: np.ndarray | None = None  # [n H W] bool, the object that the prompt recolours
    colour: str | None = None  # the colour that the prompt names


@dataclasses.dataclass(frozen=True)
class Palette:
    """Truth about colours: names → RGB, and (frames, mask) → (an object's colour, distances)."""

    rgb: dict[str, tuple[int, int, int]]
    colour_of: Callable[[np.ndarray, np.ndarray], tuple[str, dict]]


def make_grid(
    structure_level: Sequence[int] = (0,),
    temporal_scale: Sequence[float] = (1.0,),
    guidance_scale: Sequence[float | None] = (None,),
) -> list[dict[str, Any]]:
    """Settings around the first value of each control: one control varies at a time."""
    base = {
        "structure_level": structure_level[0],
        "temporal_scale": temporal_scale[0],
        "guidance_scale": guidance_scale[0],
    }
    varied = (structure_level, temporal_scale, guidance_scale)
    settings = [
        {**base, name: value} for name, values in zip(base, varied, strict=True) for value in values
    ]
    return list({tuple(s.items()): s for s in settings}.values())


def full_grid(**controls: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination, each once."""
    settings = dict.fromkeys(itertools.product(*controls.values()))
    return [dict(zip(controls, values, strict=True)) for values in settings]


def run_sweep(
    editor: VideoEditor,
    items: Sequence[Item],
    grid: Sequence[dict[str, Any]],
    records_path: Path,
    *,
    num_steps: int = 50,
    batch_size: int = 8,
    seed: int = 0,
    palette: Palette | None = None,
    on_edit: Callable[[Item, dict[str, Any], Edit], None] | None = None,
    remade: Collection[str] = (),
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Edits and measures; records already in `records_path` are not made again.

    Unless they are of another model or number of steps: those are replaced.

    Args:
      editor: the pipeline.
      items: clips of one size and length.
      grid: settings of the three controls.
      records_path: JSONL, one record a clip and setting, appended as they come.
      num_steps: DDIM steps.
      batch_size: clips edited together; the last batch is filled up with repeats.
      seed: noise of clip i is that of its place i in every setting, so that settings are compared
        on the same noise.
      palette: judges colours, where items have truth.
      on_edit: called with every edit that is made.
      remade: clips whose edits `on_edit` wants, so made again where there are records of them.
      progress: whether to show a bar.

    Returns:
      The records of these items and settings, in the order of the grid.
    """
    if not items:
        raise UserError("no clips to evaluate")
    found, torn = report.read_jsonl(records_path)
    if torn:
        tqdm.write(f"{records_path}: {torn} unfinished line dropped")
    of_all = {"model": editor.fingerprint, "num_steps": num_steps}
    done = {report.record_key(r): r for r in found if r.items() >= of_all.items()}
    records = []
    measure = _Measure(editor, palette)
    bar = tqdm(
        total=len(items) * len(grid),
        desc="evaluate",
        unit="edit",
        disable=not progress,
        dynamic_ncols=True,
    )
    for setting in grid:
        named = {**setting}
        if named["guidance_scale"] is None:
            named["guidance_scale"] = editor.settings["guidance_scale"]
        for start in range(0, len(items), batch_size):
            group = list(items[start : start + batch_size])
            keys = [
                {"clip": i.clip, "prompt": i.prompt, "method": "gen1", "seed": seed, **named}
                for i in group
            ]
            bar.update(len(group))
            known = [done.get(report.record_key(key)) for key in keys]
            if all(known) and not any(item.clip in remade for item in group):
                records += known
                continue
            padded = group + [group[-1]] * (batch_size - len(group))
            frames = np.stack([item.frames for item in padded])
            content = editor.text_content([item.prompt for item in padded], seed + start)
            edits = editor.edit_batch(
                frames, content, seed=seed + start, num_steps=num_steps, **named
            )
            measures = measure(padded, edits)  # of one shape always, compiled once
            made = [key | of_all | m for key, m in zip(keys, measures, strict=False)]
            # Noise goes by the place in the batch, so a batch is made whole; only what was missing
            # is new.
            made = [old or new for old, new in zip(known, made, strict=True)]
            new = [record for record, old in zip(made, known, strict=True) if not old]
            report.write_jsonl(records_path, new)
            records += made
            for item, edit in zip(group, edits, strict=False):
                if on_edit is not None:
                    on_edit(item, named, edit)
    bar.close()
    return records


class _Measure:
    """All measures of a batch of edits."""

    def __init__(self, editor: VideoEditor, palette: Palette | None):
        conditioner = editor.conditioner
        self._editor, self._palette = editor, palette
        self._embed_images = jax.jit(conditioner.embed_images)
        self._embed_text = jax.jit(conditioner.embed_text)
        self._depth = jax.jit(conditioner.estimate_depth)

    def __call__(self, items: Sequence[Item], edits: Sequence[Edit]) -> list[dict[str, Any]]:
        params = self._editor.params
        frames = np.stack([edit.frames for edit in edits])
        source = np.stack([item.frames for item in items])
        b = len(items)
        images = np.asarray(
            self._embed_images(params, rearrange(frames, "b n h w c -> (b n) h w c"))
        )
        images = rearrange(images, "(b n) d -> b n d", b=b)
        tokens = self._editor.tokenizer.encode([item.prompt for item in items])
        depth = np.asarray(self._depth(params, frames))
        if all(item.depth is not None for item in items):
            truth = np.stack([item.depth for item in items])
        else:
            truth = np.asarray(self._depth(params, source))
        columns = {
            "prompt_consistency": metrics.prompt_consistency(
                images, np.asarray(self._embed_text(params, tokens))
            ),
            "structure_error": metrics.structure_error(depth, truth),
            "structure_correlation": metrics.structure_correlation(depth, truth),
        }
        if frames.shape[1] > 1:
            columns["frame_consistency"] = metrics.frame_consistency(images)
            columns["flicker"] = metrics.flicker(frames, source)
        if self._palette and all(item.mask is not None and item.colour for item in items):
            masks = np.stack([item.mask for item in items])
            found = [self._palette.colour_of(f, m)[0] for f, m in zip(frames, masks, strict=True)]
            columns["colour_accuracy"] = [
                float(f == i.colour) for f, i in zip(found, items, strict=True)
            ]
            rgb = np.array([self._palette.rgb[item.colour] for item in items], np.uint8)
            columns["mask_iou"] = metrics.mask_colour_iou(frames, masks, rgb).iou
        rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(b)]
        # As JSON holds them: what cannot be measured (a flat depth has no correlation) is None.
        return [{k: v if np.isfinite(v) else None for k, v in row.items()} for row in rows]
