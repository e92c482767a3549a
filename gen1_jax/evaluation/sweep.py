"""A sweep: every clip is edited at every setting of the controls, and each edit is measured."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange
from tqdm import tqdm

from gen1_jax.editing import Edit, VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation import metrics
from gen1_jax.evaluation.items import Item, Palette
from gen1_jax.evaluation.records import append_records, read_records, record_key
from gen1_jax.runtime import naming_what_to_lower

Setting = dict[str, Any]  # control → value


def make_grid(
    structure_level: Sequence[int] = (0,),
    temporal_scale: Sequence[float] = (1.0,),
    guidance_scale: Sequence[float | None] = (None,),
) -> list[Setting]:
    """Returns settings in which one control varies while the others keep their first value."""
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


def full_grid(**controls: Sequence[Any]) -> list[Setting]:
    """Returns every combination of the controls' values, each once."""
    settings = dict.fromkeys(itertools.product(*controls.values()))
    return [dict(zip(controls, values, strict=True)) for values in settings]


def run_sweep(
    editor: VideoEditor,
    items: Sequence[Item],
    grid: Sequence[Setting],
    records_path: Path,
    *,
    num_steps: int = 50,
    batch_size: int = 8,
    seed: int = 0,
    palette: Palette | None = None,
    on_edit: Callable[[Item, Setting, Edit], None] | None = None,
    is_missing: Callable[[Item, Setting], bool] = lambda item, setting: False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Edits and measures every clip at every setting, except those whose records are there.

    A record of another model or another number of steps does not count: it is replaced.

    Args:
      editor: the pipeline.
      items: clips of one size and length.
      grid: settings of the three controls.
      records_path: a JSONL file, to which each batch's records are appended once it is measured.
      num_steps: DDIM steps.
      batch_size: clips edited together. The last batch is filled up with repeats.
      seed: clip i has the same noise in all settings, so that they are compared on equal terms.
      palette: judges colours, where items have truth.
      on_edit: called with every edit that is made.
      is_missing: whether an edit is made again for `on_edit` although its record is there.
      progress: whether to show a bar.

    Returns:
      The records of these items and settings, in the order of the grid.

    Raises:
      UserError: there are no items, or the records cannot be read or written.
    """
    if not items:
        raise UserError("no clips to evaluate")
    found, torn = read_records(records_path)
    if torn:
        tqdm.write(f"{records_path}: one unfinished line is made again")
    run = {"model": editor.fingerprint, "num_steps": num_steps}
    done = {record_key(record): record for record in found if record.items() >= run.items()}
    measure = _Measure(editor, palette)
    bar = tqdm(
        total=len(items) * len(grid),
        desc="evaluate",
        unit="edit",
        disable=not progress,
        dynamic_ncols=True,
    )
    records = []
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
            known = [done.get(record_key(key)) for key in keys]
            if all(known) and not any(is_missing(item, named) for item in group):
                records += known
                continue
            # A clip's noise follows from its place in the batch, so a batch is edited as a whole
            # even if only some of its records are missing. Batches of one shape compile once.
            padded = group + [group[-1]] * (batch_size - len(group))
            edits = editor.edit_batch(
                np.stack([item.frames for item in padded]),
                editor.text_content([item.prompt for item in padded], seed + start),
                seed=seed + start,
                steps=num_steps,
                **named,
            )
            with naming_what_to_lower("measuring edits", "the number of clips edited together"):
                measures = measure(padded, edits)
            made = [key | run | m for key, m in zip(keys, measures, strict=False)]
            append_records(records_path, [n for n, k in zip(made, known, strict=True) if not k])
            records += [k or n for k, n in zip(known, made, strict=True)]
            if on_edit is not None:
                for item, edit in zip(group, edits, strict=False):
                    on_edit(item, named, edit)
    bar.close()
    return records


class _Measure:
    """Takes all measures of a batch of edits."""

    def __init__(self, editor: VideoEditor, palette: Palette | None):
        conditioner = editor.conditioner
        self._editor, self._palette = editor, palette
        self._embed_images = jax.jit(conditioner.embed_images)
        self._embed_text = jax.jit(conditioner.embed_text)
        self._depth = jax.jit(conditioner.estimate_depth)

    def __call__(self, items: Sequence[Item], edits: Sequence[Edit]) -> list[dict[str, Any]]:
        """Returns metric → value for each edit; a value that cannot be measured is None."""
        params = self._editor.params
        frames = np.stack([edit.frames for edit in edits])
        source = np.stack([item.frames for item in items])
        b = len(items)
        images = np.asarray(
            self._embed_images(params, rearrange(frames, "b n h w c -> (b n) h w c"))
        )
        images = rearrange(images, "(b n) d -> b n d", b=b)
        tokens = self._editor.tokenizer.encode([item.prompt for item in items])
        texts = np.asarray(self._embed_text(params, tokens))
        depth = np.asarray(self._depth(params, frames))
        if all(item.depth is not None for item in items):
            truth = np.stack([item.depth for item in items])
        else:
            truth = np.asarray(self._depth(params, source))
        columns = {
            "prompt_consistency": metrics.prompt_consistency(images, texts),
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
            columns["mask_iou"] = metrics.mask_iou(frames, masks, rgb)
        rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(b)]
        # JSON has no NaN; a flat depth, for example, has no correlation.
        return [{k: v if np.isfinite(v) else None for k, v in row.items()} for row in rows]
