"""Compares kinds of structure on the world, and edits without any.

    python benchmarks/structures.py runs/demo/world runs/demo/pipeline runs/edges/pipeline
        [--stage runs/demo/video/model] [--clips 32] [--steps 16]

Held-out clips of the world are recoloured by prompt, by each pipeline with the structure that it
was trained on; also without structure, where some of it was dropped in training. `--stage` samples
the UNet of the video stage, which never had structure. All have the same noise, prompts, guidance
and steps, and the first pipeline's networks measure. The last line is one JSON object.

- mask_iou, structure_correlation (of estimated depth), colour_accuracy, frame_consistency: as
  `gen1 evaluate` has them, means over clips.
- edge_correlation: of the edit's soft edges and the world's true outlines, both blurred by a pixel.
- *_ratio: frame consistency without structure over that of the video stage, of the same clips:
  mean and interval of the paired ratios.
"""

from pathlib import Path

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment

METRICS = ("colour_accuracy", "mask_iou", "structure_correlation", "frame_consistency")
GUIDANCE, BATCH = 2.0, 16


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("world", type=Path, help="folder of the world")
    parser.add_argument("pipelines", type=Path, nargs="+", help="pipeline folders")
    parser.add_argument("--stage", type=Path, help="model folder of the video stage")
    parser.add_argument("--clips", type=int, default=32, help="clips (%(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="sampling steps (%(default)s)")
    parser.add_argument("--pictures", type=Path, help="a folder for the first clips' edits")
    args = parser.parse_args()
    prepare_environment("")
    print_figures(compare(args))


def compare(args) -> dict:
    from tqdm import tqdm

    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.clips import Clips
    from gen1_jax.evaluation.evidence import Source
    from gen1_jax.evaluation.judges import Judges
    from gen1_jax.evaluation.methods.stage import Stage
    from gen1_jax.evaluation.world_items import world_items

    editors = {folder.parent.name: VideoEditor.load(folder) for folder in args.pipelines}
    judge = next(iter(editors.values()))
    stage = Stage(judge, args.stage, structured=False) if args.stage else None
    items = world_items(args.world, None, "test", args.clips)
    judges, found = Judges(judge), {}
    for start in tqdm(range(0, len(items), BATCH), desc="batches"):
        batch = items[start : start + BATCH]
        sources = Clips(judge, batch, 0)
        source, rows = Source(sources, judges), {"source": sources.frames}
        for name, editor in editors.items():
            clips = Clips(editor, batch, 0)
            rows[f"{name}_structure"] = shown(clips.structure_map)
            for way, frames in edits(editor, clips, sources, args.steps):
                rows[name + way] = frames
        if stage:
            rows["video_stage"] = stage.sample(
                sources, guidance_scale=GUIDANCE, num_steps=args.steps, per_frame=False
            )
        if args.pictures and start == 0:
            save(args.pictures, rows)
        for name, frames in rows.items():
            if name != "source" and not name.endswith("_structure"):
                for key, values in measures(frames, source, judges, batch).items():
                    found.setdefault(name, {}).setdefault(key, []).extend(values)
    return summarise(found)


def edits(editor, clips, sources, steps: int):
    """Yields the edits with structure and, where the model knows it, without."""
    import numpy as np

    options = {"seed": clips.seeds, "steps": steps, "guidance_scale": GUIDANCE}
    ways = {"": {"structure": clips.structure_map}}
    if editor.settings.get("structure_drop_rate"):
        ways["_without"] = {"no_structure": True}
    for way, own in ways.items():
        made = editor.edit_batch(clips.frames, sources.content, **own, **options)
        yield way, np.stack([edit.frames for edit in made])


def measures(frames, source, judges, items) -> dict[str, list[float]]:
    """Returns each measure's values."""
    import numpy as np

    from gen1_jax.evaluation.evidence import Evidence
    from gen1_jax.evaluation.metrics.table import measure

    records = measure(Evidence(frames, source, judges), METRICS)
    found = {name: [record[name] for record in records] for name in METRICS}
    found["edge_correlation"] = edge_correlation(frames, items)
    return {name: np.nan_to_num(np.array(x, float)).tolist() for name, x in found.items()}


def edge_correlation(frames, items) -> list[float]:
    import numpy as np
    from scipy.ndimage import gaussian_filter

    from gen1_jax.data_pipelines.moving_shapes.truth_maps import draw_truth
    from gen1_jax.diffusion.structure import find_edges
    from gen1_jax.evaluation.metrics.structure import structure_correlation

    def soft(maps):
        return gaussian_filter(np.asarray(maps, np.float32), (0, 1, 1))

    true = [soft(draw_truth("truth:edges", item.depth, item.mask)) for item in items]
    seen = [soft(clip) for clip in find_edges(frames)]
    return structure_correlation(np.stack(seen), np.stack(true)).tolist()


def summarise(found) -> dict:
    import numpy as np

    from gen1_jax.evaluation.statistics import confidence_interval

    figures: dict = {}
    for name, values in found.items():
        intervals = {key: confidence_interval(x) for key, x in values.items()}
        figures[name] = {
            key: [round(x.mean, 4), round(x.half_width, 4)] for key, x in intervals.items()
        }
        if name.endswith("_without") and "video_stage" in found:
            own, other = (
                np.array(found[way]["frame_consistency"]) for way in (name, "video_stage")
            )
            ratio = confidence_interval(own / other)
            figures[f"{name}_ratio"] = [round(x, 4) for x in (ratio.mean, ratio.low, ratio.high)]
    return figures


def shown(maps):
    """Returns maps [b n H W] or in colours as pictures."""
    import numpy as np

    from gen1_jax.video.pictures import colour_depth

    maps = np.asarray(maps)
    return maps if maps.ndim == 5 else np.stack([colour_depth(each) for each in maps])


def save(folder: Path, rows) -> None:
    """Writes a picture of each clip: a row for each way, a column for each frame."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.txt").write_text("\n".join(rows), encoding="utf-8")
    for number in range(min(6, len(rows["source"]))):
        lines = [np.concatenate(list(frames[number][::2]), axis=1) for frames in rows.values()]
        Image.fromarray(np.concatenate(lines)).save(folder / f"{number}.png")


if __name__ == "__main__":
    main()
