"""A sweep: every clip is edited at every setting of the controls, and each edit is measured."""

import hashlib
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange
from tqdm import tqdm

from gen1_jax.distributed import batch_parts, clip_sharding, replicated
from gen1_jax.editing import Edit, VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.items import Item, Palette
from gen1_jax.evaluation.metrics.colour import flicker, mask_iou
from gen1_jax.evaluation.metrics.consistency import frame_consistency, prompt_consistency
from gen1_jax.evaluation.metrics.structure import structure_correlation, structure_error
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


def with_baseline(grid: Sequence[Setting]) -> list[Setting]:
    """Returns the settings, and then those in which each frame is edited alone."""
    alone = [{**setting, "temporal_scale": 1.0, "method": "per_frame"} for setting in grid]
    return [*grid, *{tuple(s.items()): s for s in alone}.values()]


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

    A record counts if it is of the same models, frames, number of steps and type. All settings of
    a batch of clips are edited one after another, from one depth and one content.

    Args:
      editor: the pipeline.
      items: clips of one size and length.
      grid: settings of the three controls, and of the `method` where it is not gen1.
      records_path: a JSONL file, to which each batch's records are appended once it is measured.
      num_steps: DDIM steps.
      batch_size: clips edited together, rounded up to what the editor's devices divide. The last
        batch is filled up with repeats.
      seed: the noise of an edit follows from it and the name of the video, the content of a prompt
        from it and the prompt. So a clip has the same noise in all settings and any batch.
      palette: judges colours, where items have truth.
      on_edit: called with every edit whose record is not there, or that is missing.
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
    settings = [{"method": "gen1"} | s | _guidance_of(s, editor) for s in grid]
    run = run_of(editor, num_steps)
    keys = {
        (i, k): key_of(item, run) | {"seed": seed} | setting
        for i, item in enumerate(items)
        for k, setting in enumerate(settings)
    }
    there = {record_key(record): record for record in found}
    records = {place: there.get(record_key(key)) for place, key in keys.items()}
    if found and not any(records.values()):
        tqdm.write(
            f"{records_path}: none of its {len(found)} records is of this model, these clips and "
            "these settings; they stay in the file, and do not count"
        )
    measure = _Measure(editor, palette)
    bar = tqdm(
        total=len(keys), desc="evaluate", unit="edit", disable=not progress, dynamic_ncols=True
    )
    wanted = {(i, k) for i, k in keys if not records[i, k] or is_missing(items[i], settings[k])}
    bar.update(len(keys) - len(wanted))
    clips, parts = sorted({i for i, _ in wanted}), batch_parts(editor.mesh)
    batch_size = -(-min(batch_size, len(items)) // parts) * parts
    for start in range(0, len(clips), batch_size):
        group = clips[start : start + batch_size]
        # Batches of one shape compile once.
        padded = group + group[-1:] * (batch_size - len(group))
        batch = _Batch(editor, [items[i] for i in padded], seed)
        for k, setting in enumerate(settings):
            places = [(i, k) for i in group]
            if wanted.isdisjoint(places):
                continue
            edits = batch.edit(setting, num_steps)
            with naming_what_to_lower("measuring edits", "the number of clips edited together"):
                measures = measure(batch, edits)
            made = {p: keys[p] | m for p, m in zip(places, measures, strict=False)}
            fresh = {place: record for place, record in made.items() if not records[place]}
            append_records(records_path, fresh.values())
            records |= fresh
            for (i, _), edit in zip(places, edits, strict=False):
                if (i, k) in wanted:
                    bar.update()
                    if on_edit is not None:
                        on_edit(items[i], setting, edit)
    bar.close()
    return [records[i, k] for k in range(len(settings)) for i in range(len(items))]


def noise_seed(seed: int, name: str) -> int:
    """Returns the seed of the noise of what has this name, in an evaluation of this seed."""
    return zlib.crc32(f"{seed} {name}".encode("utf-8", "surrogatepass"))


def _guidance_of(setting: Setting, editor: VideoEditor) -> Setting:
    own = editor.settings["guidance_scale"]
    return {"guidance_scale": own} if setting["guidance_scale"] is None else {}


def run_of(editor: VideoEditor, num_steps: int) -> dict[str, Any]:
    """Returns what all edits of an evaluation share; see `records.RUN`."""
    dtype = np.dtype(editor.unet.dtype or np.float32).name
    return {"model": editor.fingerprint, "dtype": dtype, "num_steps": num_steps}


def key_of(item: Item, run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what identifies the edits of a clip in an evaluation; see `records.KEY`."""
    frames, height, width = item.frames.shape[:3]
    return {
        "clip": item.clip,
        "video": item.video,
        "prompt": item.prompt,
        **run,
        "frames": frames,
        "start": item.start,
        "stride": item.stride,
        "height": height,
        "width": width,
        "pixels": hashlib.sha256(item.frames.tobytes()).hexdigest()[:16],
    }


class _Batch:
    """Clips that are edited together, with what all their settings share.

    Attributes:
      items: the clips.
      frames: `[b n H W 3]` uint8.
      depth: `[b n H W]`, estimated.
    """

    def __init__(self, editor: VideoEditor, items: Sequence[Item], seed: int):
        self.items, self._editor = items, editor
        self.frames = np.stack([item.frames for item in items])
        self._seeds = [noise_seed(seed, item.video) for item in items]
        prompts = [item.prompt for item in items]
        with naming_what_to_lower("reading clips and prompts", "the clips edited together"):
            self._content = editor.text_content(prompts, [noise_seed(seed, p) for p in prompts])
            self.depth = np.asarray(editor.estimate_depth(self.frames))
            self._structure = np.asarray(editor.conditioner.clip_depth(self.depth))

    def edit(self, setting: Setting, num_steps: int) -> list[Edit]:
        """Returns the edits of all clips at a setting."""
        controls = {**setting}
        per_frame = controls.pop("method") == "per_frame"
        return self._editor.edit_batch(
            self.frames,
            self._content,
            structure_map=self._structure,
            seed=self._seeds,
            steps=num_steps,
            per_frame=per_frame,
            **controls,
        )


class _Measure:
    """Takes all measures of a batch of edits, on the devices of the editor."""

    def __init__(self, editor: VideoEditor, palette: Palette | None):
        conditioner = editor.conditioner
        self._editor, self._palette = editor, palette
        self._clips = clip_sharding(editor.mesh)
        self._embed_text = jax.jit(conditioner.embed_text)

        def embed(params, frames):
            images = conditioner.embed_images(params, rearrange(frames, "b n h w c -> (b n) h w c"))
            return rearrange(images, "(b n) d -> b n d", b=len(frames))

        whole = replicated(editor.mesh)
        self._embed = jax.jit(embed, in_shardings=(whole, self._clips), out_shardings=self._clips)

    def __call__(self, batch: _Batch, edits: Sequence[Edit]) -> list[dict[str, Any]]:
        """Returns metric → value for each edit; a value that cannot be measured is None."""
        params, items = self._editor.params, batch.items
        frames = np.stack([edit.frames for edit in edits])
        images = np.asarray(self._embed(params, jax.device_put(frames, self._clips)))
        tokens = self._editor.tokenizer.encode([item.prompt for item in items])
        texts = np.asarray(self._embed_text(params, tokens))
        depth, truth = np.asarray(self._editor.estimate_depth(frames)), batch.depth
        if all(item.depth is not None for item in items):
            truth = np.stack([item.depth for item in items])
        columns = {
            "prompt_consistency": prompt_consistency(images, texts),
            "structure_error": structure_error(depth, truth),
            "structure_correlation": structure_correlation(depth, truth),
        }
        if frames.shape[1] > 1:
            columns["frame_consistency"] = frame_consistency(images)
            columns["flicker"] = flicker(frames, batch.frames)
        if self._palette and all(item.mask is not None and item.colour for item in items):
            masks = np.stack([item.mask for item in items])
            found = [self._palette.colour_of(f, m)[0] for f, m in zip(frames, masks, strict=True)]
            columns["colour_accuracy"] = [
                float(f == i.colour) for f, i in zip(found, items, strict=True)
            ]
            rgb = np.array([self._palette.rgb[item.colour] for item in items], np.uint8)
            columns["mask_iou"] = mask_iou(frames, masks, rgb)
        rows = [
            {name: float(values[i]) for name, values in columns.items()} for i in range(len(items))
        ]
        # JSON has no NaN; a flat depth, for example, has no correlation.
        return [{k: v if np.isfinite(v) else None for k, v in row.items()} for row in rows]
