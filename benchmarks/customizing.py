"""Teaches the world's model a subject that it never saw, and measures whether it is drawn.

    python benchmarks/customizing.py --run runs/demo --output runs/customizing

--run is a finished run of configs/demo.py. The subject is a yellow heart with a dark disc in its
middle; no clip of the world shows a heart or such a disc. The model is customised to 20 rendered
pictures of it, by all weights and by a LoRA, for each number of steps.

- Clips of the test split are edited with pictures of the subject that training did not see, at each
  structure level. An exact line-up of rendered edits names colour, texture and shape of what is
  drawn. `drawn` is the share of clips whose colour and texture are the subject's. `mask_iou` is the
  overlap of what looks like the object and the driving object, and `heart_iou` that with a heart in
  the driving object's place.
- The same clips are edited towards another colour by prompts, as in the demo's evaluation.
  `colour_accuracy` must not fall. `leaked` is the share that shows the subject's texture.

The models of the most steps are compared with the model before, clip by clip, with a bootstrap
interval (95 %) over the clips. table.png shows all models as the paper's figure 10 does: steps of
customisation × structure level. A run that was stopped goes on where it was.

The last line is one JSON object: all figures by model.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import make_parser, print_figures

import numpy as np

from gen1_jax.config import load_config
from gen1_jax.customizing import customize
from gen1_jax.data_pipelines.moving_shapes.builder import split_seed
from gen1_jax.data_pipelines.moving_shapes.lineup import Lineup
from gen1_jax.data_pipelines.moving_shapes.renderer import render
from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.metrics.world import mask_iou
from gen1_jax.evaluation.statistics import compare, interval_of
from gen1_jax.evaluation.world_items import world_items
from gen1_jax.files import read_json, write_json
from gen1_jax.programs import keep_programs
from gen1_jax.runtime import keep_freed_memory
from gen1_jax.video.pictures import contact_sheet, save_image

SUBJECT = {"colour": "yellow", "texture": "target", "shape": "heart"}
PICTURES, SHOWN = 20, 8  # pictures to learn from; others, which are the prompts
FIRST = 9_000_000  # number of the first picture in its split; no data set has so many clips
TABLE_LEVELS = (0, 2, 4, 6)  # structure levels of the table
TABLE_CLIP = 2  # number of the driving clip of the table
BEFORE, WORDS = "before", "words"
SUBJECT_METRICS = ("drawn", "colour", "texture", "heart", "mask_iou", "heart_iou")
PROMPT_METRICS = ("colour_accuracy", "leaked")


def add_arguments(parser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="a finished run of the demo")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300], help="of training")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRA (%(default)s)")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[0, 4], help="structure levels (%(default)s)"
    )
    parser.add_argument("--clips", type=int, default=64, help="driving clips (%(default)s)")
    parser.add_argument("--sampling-steps", type=int, default=16, help="DDIM steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="clips together (%(default)s)")


def main() -> None:
    parser = make_parser(__doc__)
    add_arguments(parser)
    args = parser.parse_args()
    keep_freed_memory()
    keep_programs()
    models = {BEFORE: args.run / "pipeline", **train(args)}
    measured = (BEFORE, *(name for name in models if name.endswith(f"_{max(args.steps)}")))
    items = world_items(args.run / "world", None, "test", args.clips)
    records, table, done = {}, {}, args.output / "edits"
    done.mkdir(parents=True, exist_ok=True)
    for name, folder in models.items():
        load = functools.cache(functools.partial(VideoEditor.load, folder))
        cells = done / f"{name}.npy"
        if not cells.exists():
            np.save(cells, edit_table(load(), items[TABLE_CLIP], args))
        table[name] = np.load(cells)
        if name not in measured:
            continue
        records[name] = []
        for what in (*args.levels, WORDS):
            path = done / f"{name}_{what}.json"
            if not path.exists():
                measure = measure_prompts if what == WORDS else measure_subject
                write_json(path, {"records": measure(load(), items, args, what)})
            records[name] += read_json(path)["records"]
    save_image(args.output / "table.png", draw_table(items[TABLE_CLIP], table))
    figures = {name: summarise(records[BEFORE], own) for name, own in records.items()}
    for name, values in figures.items():
        print(f"{name}: {json.dumps(values)}")
    write_json(args.output / "figures.json", figures)
    print_figures(figures)


def train(args) -> dict[str, Path]:
    """Customises the run's pipeline in each way; returns the new pipelines by name."""
    pictures = args.output / "subject"
    for number in range(PICTURES):
        path = pictures / f"{number:02d}.png"
        if not path.exists():
            save_image(path, subject_picture("train", number))
    models = {}
    for kind, part in (("full", "customize"), ("lora", "customize_lora")):
        for steps in args.steps:
            name = f"{kind}_{steps}"
            changes = [f"num_steps={steps}", f"sample_every={steps}", "eval_every=0"]
            changes += [f"lora.rank={args.rank}"] if kind == "lora" else []
            models[name] = args.output / name
            if not (models[name] / "gen1.json").exists():
                customize(
                    load_config(f"demo:{part}", changes),
                    pictures,
                    args.run / "pipeline",
                    models[name],
                    args.run / "encoded",
                )
    return models


def subject_picture(split: str, number: int) -> np.ndarray:
    """Renders the subject over some background, [32 32 3] uint8."""
    seed = split_seed(split, FIRST + number)
    return render(seed, num_frames=1, size=32, changes=SUBJECT).frames[0]


def shown_background(number: int) -> str:
    return render(split_seed("test", FIRST + number), num_frames=1, size=32).truth["background"]


# ---- measuring one model


def measure_subject(editor: VideoEditor, items: list[Item], args, level: int) -> list[dict]:
    """Edits each clip with a picture of the subject, and judges what is drawn."""
    pictures = np.stack([subject_picture("test", number) for number in range(SHOWN)])
    shown = [number % SHOWN for number in range(len(items))]
    content = np.asarray(editor.image_content(pictures))[shown]
    records = []
    edits = edit_all(editor, items, content, level, args)
    for item, number, frames in zip(items, shown, edits, strict=True):
        lineup = make_lineup(item, {**SUBJECT, "background": shown_background(number)})
        found = lineup.find(frames)
        right = {key: float(found.values[key] == value) for key, value in SUBJECT.items()}
        masks = (item.mask, lineup.wanted.mask)
        driving, heart = (float(mask_iou(found.mask[None], m[None])[0]) for m in masks)
        records.append(
            {
                "clip": item.clip,
                "prompt": f"t_s={level}",
                "drawn": right["colour"] * right["texture"],
                "colour": right["colour"],
                "texture": right["texture"],
                "heart": right["shape"],
                "mask_iou": driving,
                "heart_iou": heart,
            }
        )
    return records


def measure_prompts(editor: VideoEditor, items: list[Item], args, what: str) -> list[dict]:
    """Edits each clip towards another colour by its prompt, and judges the colour."""
    content = np.asarray(editor.text_content([item.prompt for item in items]))
    edits = edit_all(editor, items, content, 0, args)
    records = []
    for item, frames in zip(items, edits, strict=True):
        found = make_lineup(item, item.wanted).find(frames).values
        records.append(
            {
                "clip": item.clip,
                "prompt": what,
                "colour_accuracy": float(found["colour"] == item.wanted["colour"]),
                "leaked": float(found["texture"] == SUBJECT["texture"]),
            }
        )
    return records


def make_lineup(item: Item, wanted: Mapping[str, str]) -> Lineup:
    size = item.frames.shape[1:3]
    options = {"num_frames": len(item.frames), "size": size, "unseen": True}
    return Lineup(item.truth["seed"], item.truth, wanted, **options)


def edit_all(editor: VideoEditor, items, content, level: int, args) -> list[np.ndarray]:
    edited = []
    for start in range(0, len(items), args.batch_size):
        group = slice(start, start + args.batch_size)
        frames = np.stack([item.frames for item in items[group]])
        seeds = list(range(start, start + len(frames)))
        options = {"structure_level": level, "steps": args.sampling_steps, "seed": seeds}
        edits = editor.edit_batch(frames, content[group], **options)
        edited += [edit.frames for edit in edits]
    return edited


# ---- the table


def edit_table(editor: VideoEditor, item: Item, args) -> np.ndarray:
    """Returns one clip edited at every level of the table, [levels n h w 3]."""
    content = np.asarray(editor.image_content(subject_picture("test", 0)[None]))
    frames = np.repeat(item.frames[None], len(TABLE_LEVELS), axis=0)
    content = np.repeat(content, len(TABLE_LEVELS), axis=0)
    options = {"steps": args.sampling_steps, "seed": 0}
    edits = editor.edit_batch(frames, content, structure_level=np.array(TABLE_LEVELS), **options)
    return np.stack([edit.frames for edit in edits])


def draw_table(item: Item, table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a picture: a row for each model, a column for each structure level."""
    rows = [{"driving clip": item.frames, "the subject": subject_picture("test", 0)[None]}]
    for name, cells in table.items():
        title = name.replace("_", ", ") + ("" if name == BEFORE else " steps")
        labels = [f"{title}: t_s = {level}" for level in TABLE_LEVELS]
        rows.append(dict(zip(labels, cells, strict=True)))
    return contact_sheet(rows, frames_per_clip=3, scale=3)


# ---- figures


def summarise(before: list[dict], own: list[dict]) -> dict[str, Any]:
    """Returns each measure's mean, and its change to the model before with the interval."""
    figures = {}
    for prompt in dict.fromkeys(record["prompt"] for record in own):
        metrics = PROMPT_METRICS if prompt == WORDS else SUBJECT_METRICS
        mine, theirs = ([r for r in each if r["prompt"] == prompt] for each in (own, before))
        changes = compare(theirs, mine, metrics)
        figures[prompt] = {
            metric: {
                "mean": round(interval_of(mine, metric).mean, 4),
                "change": [round(x, 4) for x in (change.mean, change.low, change.high)],
            }
            for metric, change in changes.items()
        }
    return figures


if __name__ == "__main__":
    main()
