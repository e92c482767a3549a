"""A sweep: every clip is edited by every method at every setting, and each edit is measured.

A cell is a clip, a setting of a method, and a seed. Cells whose records are there are not made
again. Clips of one kind are edited in batches of one shape, so each program is compiled once. The
processes of a job share the work: each takes a part of the list, in which all settings of a batch
stand together, and works on its own devices.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from gen1_jax.distributed import batch_parts, is_lead
from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.cells import DEFAULTS, Setting
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.evidence import Evidence, Source
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.judges import Judges
from gen1_jax.evaluation.methods.base import Method
from gen1_jax.evaluation.methods.gen1 import Gen1
from gen1_jax.evaluation.metrics.table import DEFAULT, measure, metrics_for
from gen1_jax.evaluation.records import (
    Growth,
    append_records,
    read_all,
    record_key,
    records_path,
)
from gen1_jax.evaluation.stopwatch import Stopwatch
from gen1_jax.runtime import naming_what_to_lower

OnEdit = Callable[[Item, Setting, np.ndarray], Mapping[str, Any] | None]


def run_sweep(
    editor: VideoEditor,
    items: Sequence[Item],
    grid: Sequence[Setting],
    folder: Path,
    *,
    methods: Sequence[Method] = (Gen1(),),
    judges: Judges | None = None,
    metrics: Sequence[str] = DEFAULT,
    num_steps: int = 50,
    batch_size: int = 8,
    seeds: Sequence[int] = (0,),
    on_edit: OnEdit | None = None,
    is_missing: Callable[[Item, Setting], bool] = lambda item, setting: False,
    progress: bool = True,
    alone: bool = False,
) -> list[dict[str, Any]]:
    """Edits and measures every clip at every setting, except those whose records are there.

    A record counts if it is of the same models, frames, number of steps and type, and holds all
    measures that would be taken now.

    Args:
      editor: the pipeline.
      items: clips to edit.
      grid: settings of the methods; one without `method` is of gen1.
      folder: of the records; see `records.records_path`.
      methods: those that the grid names.
      judges: the networks that measure; None: the pipeline's own.
      metrics: what to measure, of `metrics.table`, where a clip has what the metric needs.
      num_steps: DDIM steps.
      batch_size: clips edited together, rounded up to what the editor's devices divide. The last
        batch is filled up with repeats.
      seeds: the noise of an edit follows from the seed and the name of the video, the content of a
        prompt from the seed and the prompt. So a clip has the same noise in all settings and in
        any batch.
      on_edit: called with every edit whose record is not there, or that is missing, and with its
        setting and seed; what it returns is added to a new record.
      is_missing: whether an edit is made again for `on_edit` although its record is there.
      progress: whether to show a bar.
      alone: whether only this process of a job is at work.

    Returns:
      The records of all cells, in the order of seeds, grid and items; on all processes of a job.

    Raises:
      UserError: there are no items, or the records cannot be read or written.
    """
    if not items:
        raise UserError("no clips to evaluate")
    judges = judges or Judges(editor)
    by_name = {method.name: method for method in methods}
    settings = [
        _complete(setting, by_name, editor) | {"seed": seed}
        for seed in dict.fromkeys(seeds)
        for setting in grid
    ]
    run = run_of(editor, num_steps) | judges.identity
    keys = {
        (i, k): key_of(item, run) | setting | by_name[setting["method"]].identity(item)
        for k, setting in enumerate(settings)
        for i, item in enumerate(items)
    }
    kinds = [(item.frames.shape, metrics_for(item, metrics), item.image is None) for item in items]
    others = Growth(folder, jax.process_index())
    records = _find_records(folder, keys, [kind[1] for kind in kinds], judges.weights)
    places = {record_key(key): place for place, key in keys.items()}
    missing = {place for place in keys if is_missing(items[place[0]], settings[place[1]])}
    count, own = (1, 0) if alone else (jax.process_count(), jax.process_index())
    wanted = [place for place in keys if not records[place] or place in missing]
    wanted = set(wanted) if count == 1 else _agree(wanted)
    units = list(share_out(kinds, wanted, batch_size, batch_parts(editor.mesh)))
    units = units[own * len(units) // count : (own + 1) * len(units) // count]
    bar = tqdm(
        total=len(keys),
        initial=len(keys) - len(wanted),
        desc="evaluate",
        unit="edit",
        disable=not progress or not is_lead(),
        dynamic_ncols=True,
    )
    batch: tuple = (None,)
    for group, padded, k in units:
        setting, cells = settings[k], [(i, k) for i in group if (i, k) in wanted]
        if all(records[i, k] and not is_missing(items[i], setting) for i, _ in cells):
            bar.update(len(cells))  # videos have filled their room meanwhile
            continue
        if batch[0] != (group, setting["seed"]):  # its conditions serve all settings
            clips = Clips(editor, [items[i] for i in padded], setting["seed"])
            batch = ((group, setting["seed"]), clips, Source(clips, judges))
        _, clips, source = batch
        with Stopwatch() as watch:
            frames = by_name[setting["method"]].edit(clips, setting, num_steps)
        seconds = watch.seconds / len(padded)
        with naming_what_to_lower("measuring edits", "the number of clips edited together"):
            measures = measure(Evidence(frames, source, judges, seconds), kinds[group[0]][1])
        fresh = {}
        for i, edit, found in zip(group, frames, measures, strict=False):
            if (i, k) not in cells:
                continue
            more = on_edit(items[i], setting, edit) if on_edit else None
            if not records[i, k]:
                said = judges.names | judges.weights | {"seconds": seconds}
                fresh[i, k] = keys[i, k] | said | found | dict(more or {})
        append_records(records_path(folder, own), fresh.values())
        records |= fresh
        bar.update(len(cells))
        bar.update(_take(others.read(), places, records))
    if count > 1:  # if one fails, the cluster or jax ends this one too
        while not all(records.values()):
            bar.update(_take(others.read(wait=0.5), places, records))
        multihost_utils.sync_global_devices("evaluated")  # the others' videos are there too
    bar.close()
    return [records[i, k] for k in range(len(settings)) for i in range(len(items))]


def _complete(setting: Setting, methods: Mapping[str, Method], editor: VideoEditor) -> Setting:
    """Returns a setting with its method, and a value of every control that the method takes."""
    name = setting.get("method", Gen1.name)
    controls = {c: setting.get(c, DEFAULTS[c][0]) for c in methods[name].controls}
    if controls.get("guidance_scale", 0) is None:
        controls["guidance_scale"] = editor.settings["guidance_scale"]
    return {"method": name, **controls}


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
        **({"kind": item.kind} if item.kind else {}),
        **({"camera": item.camera} if item.camera else {}),
        **run,
        "frames": frames,
        "start": item.start,
        "stride": item.stride,
        "height": height,
        "width": width,
        "pixels": item.pixels,
        "given": item.given,
    }


# ---- what is there, and what is left to do


def _find_records(
    folder: Path, keys: Mapping, metrics: Sequence[Sequence[str]], weights: Mapping[str, str]
) -> dict:
    """Returns the record of each cell, or None where there is none with all of its measures.

    Nor does a record count that holds another value of `weights`.
    """
    found, torn = read_all(folder)
    there = {record_key(record): record for record in found}
    records = {place: there.get(record_key(key)) for place, key in keys.items()}
    # The kind of edit and the camera are as they are said to be now.
    records |= {place: {**record, **keys[place]} for place, record in records.items() if record}
    lacks = {
        place: set(metrics[place[0]]) - set(record) for place, record in records.items() if record
    }
    short = [
        place
        for place, names in lacks.items()
        if names or not weights.items() <= records[place].items()
    ]
    known = sum(record is not None for record in records.values())
    records |= dict.fromkeys(short)
    if is_lead():
        if torn:
            lines = "one unfinished line is" if torn == 1 else f"{torn} unfinished lines are"
            tqdm.write(f"{folder}: {lines} made again")
        if found and not known:
            tqdm.write(
                f"{folder}: none of its {len(found)} records is of this model, these clips and "
                "these settings; they stay in the file, and do not count"
            )
        if short:
            lacking = sorted({name for place in short for name in lacks[place]})
            named = f" ({', '.join(lacking)})" if lacking else ""
            tqdm.write(
                f"{folder}: {len(short)} records lack measures that are taken now{named}, and are "
                "made again"
            )
    return records


def _agree(wanted: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Returns the cells that the first process wants, on all processes of a job.

    All must share out the same list, and a fast process may have written a record by now.
    """
    number = multihost_utils.broadcast_one_to_all(np.int32(len(wanted)))
    own = np.resize(np.array(wanted, np.int32).reshape(-1, 2), (int(number), 2))
    return {(int(i), int(k)) for i, k in multihost_utils.broadcast_one_to_all(own)}


def share_out(
    kinds: Sequence, wanted: set[tuple[int, int]], batch_size: int, parts: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Yields what is edited together: items, the same filled up to a whole batch, and a setting.

    Items of one kind (frames' shape, measures, prompt or picture) go together, and all settings of
    a batch follow one another. The batches depend on the items alone: whatever is left to do, by
    however many processes, a clip stands at its place beside the same others. So its edit is the
    same to the last bit.
    """
    settings = sorted({k for _, k in wanted})
    for kind in dict.fromkeys(kinds):
        alike = [i for i, each in enumerate(kinds) if each == kind]
        size = -(-min(batch_size, len(alike)) // parts) * parts
        for start in range(0, len(alike), size):
            group = tuple(alike[start : start + size])
            padded = group + group[-1:] * (size - len(group))  # batches of one shape compile once
            for k in settings:
                if any((i, k) in wanted for i in group):
                    yield group, padded, k


def _take(found: Iterable[dict], places: Mapping[tuple, tuple[int, int]], records: dict) -> int:
    """Puts what other processes have written to its place; returns the number of new records."""
    count = 0
    for record in found:
        place = places.get(record_key(record))
        if place is not None and not records[place]:
            records[place] = record
            count += 1
    return count
