"""Compares choices of training and editing on the moving-shapes world, by paired differences.

    python benchmarks/choices.py --run runs/demo --output runs/choices
    python benchmarks/choices.py --run runs/demo --output runs/choices --choices latents_drawn

--run is a finished run of configs/demo.py; its encoders, its prior and its video stage serve all.
For each choice and each seed the UNet's stages structure and blur are trained by `gen1 all`, with
fewer steps than the demo's and without batches of images. Then the clips of the world's test
split are edited towards another colour. Two models are compared clip by clip: differences are
averaged over the seeds, and the interval (95 %) is a bootstrap over the clips. It says how sure the
difference is for these trained models; the differences of the single seeds, which are shown too,
say how much training varies.

A comparison that was stopped goes on where it was. The last line is one JSON object: for each
choice its means, and for each measure the change to the baseline with its interval.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import GEN1, make_parser, print_figures, run_command

from gen1_jax.evaluation.statistics import compare, interval_of
from gen1_jax.evaluation.tables import format_table
from gen1_jax.programs import keep_programs
from gen1_jax.runtime import keep_freed_memory

STAGES = {"structure": 80, "blur": 30}  # steps
GIVEN = ("autoencoder", "clip", "depth", "prior", "tokenizer", "world", "encoded", "video")
METRICS = (
    "colour_accuracy",
    "structure_correlation",
    "frame_consistency",
    "prompt_consistency",
    "flicker",
)
# The baseline of all comparisons. It stays, although the demo's own settings have changed.
BASE = {"loss.latents_drawn": False, "loss.random_positions": False, "ema_share": 0.1}
BASELINE = "baseline"
LONG = 16  # frames; the stages train clips of 8


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice that is compared with the baseline.

    Attributes:
      stages: settings of the two stages that differ from the baseline's.
      depth_range: quantiles of a clip's depth that the structure spans.
      averaged: whether the last stage's moving average is edited with, or its newest parameters,
        those of the baseline's own run.
      is_long: whether clips of 16 frames are edited too.
    """

    stages: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    depth_range: str = "0,1"
    averaged: bool = True
    is_long: bool = False


CHOICES = {
    BASELINE: Choice(is_long=True),
    "latents_drawn": Choice({"loss.latents_drawn": True}),
    "random_positions": Choice({"loss.random_positions": True}, is_long=True),
    "depth_range": Choice(depth_range="0.01,0.99"),
    "no_average": Choice(averaged=False),
    "longer_average": Choice({"ema_share": 0.3}),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="(%(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--choices", nargs="+", choices=CHOICES, default=list(CHOICES), help="(all)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    parser.add_argument("--clips", type=int, default=64, help="of the test split (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="DDIM steps (%(default)s)")
    args = parser.parse_args()
    names = list(dict.fromkeys([BASELINE, *args.choices]))
    records: dict[tuple[str, int], list[dict]] = {}  # (choice, frames) → records of all seeds
    for seed in args.seeds:  # a comparison that was stopped has whole seeds
        for name in names:
            choice, folder = CHOICES[name], args.output / name / str(seed)
            if choice.averaged:
                train(args.run, folder, choice, seed)
            else:
                take_newest(args.output / BASELINE / str(seed), folder)
            for frames, found in edit(folder, args, choice.is_long).items():
                tagged = [record | {"training_seed": seed} for record in found]
                records.setdefault((name, frames), []).extend(tagged)
    print_figures(report(records, names))


def train(run: Path, folder: Path, choice: Choice, seed: int) -> None:
    """Trains the stages of a choice and assembles its pipeline, unless they are there."""
    world = folder.parents[1] / f"range_{choice.depth_range}"  # encoded once for all seeds
    link(run, world, [part for part in GIVEN if part != "encoded"])
    run_parts(world, ["encoded"], {"encoded.depth.range": choice.depth_range})
    link(world, folder, GIVEN)
    settings = {
        f"{stage}.{key}": value
        for stage, num_steps in STAGES.items()
        for key, value in {
            "seed": seed,
            "num_steps": num_steps,
            "checkpoint_every": num_steps,
            "eval_every": 0,
            "optimizer.warmup_steps": 20,
            "data.batch_size": 4,
            "data.image_fraction": 0,
            **BASE,
            **choice.stages,
        }.items()
    }
    run_parts(folder, [*STAGES, "pipeline"], settings)


def run_parts(folder: Path, parts: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Runs parts of the demo in a folder, with other settings; finished ones are left alone."""
    command = [*GEN1, "all", "--config", "demo", "--workdir", str(folder.resolve()), "--parts"]
    command += [*parts, "--no-progress", "--set"]
    run_command(command + [f"{key}={value}" for key, value in settings.items()])


def link(source: Path, folder: Path, parts: Sequence[str]) -> None:
    """Links parts of a run into a folder, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if not (folder / part).exists():
            (folder / part).symlink_to((source / part).resolve())


def take_newest(trained: Path, folder: Path) -> None:
    """Makes a pipeline of the newest parameters of a run, in place of their moving average."""
    from gen1_jax.weights.folder import save_model
    from gen1_jax.workflow import read_trained

    module, params, _ = read_trained(trained / "blur", "raw")
    shutil.copytree(trained / "pipeline", folder / "pipeline", dirs_exist_ok=True)
    save_model(folder / "pipeline" / "unet", module, params)


def edit(folder: Path, args, is_long: bool) -> dict[int, list[dict]]:
    """Edits held-out clips by a trained pipeline; returns the records by the clips' length."""
    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.sweep import run_sweep
    from gen1_jax.evaluation.world_items import world_items

    editor = VideoEditor.load(folder / "pipeline")
    items = world_items(args.run / "world", None, "test", args.clips)
    found = {}
    for clips in (items, lengthened(items)) if is_long else (items,):
        found[len(clips[0].frames)] = run_sweep(
            editor,
            clips,
            [{}],
            folder / f"records_of_{len(clips[0].frames)}",
            num_steps=args.steps,
            batch_size=16,
            progress=False,
        )
    return found


def lengthened(items: Sequence) -> list:
    """Renders the clips of the test split anew, with more frames of the same motion."""
    from gen1_jax.data_pipelines.moving_shapes.builder import split_seed
    from gen1_jax.data_pipelines.moving_shapes.renderer import render

    found = []
    for number, item in enumerate(items):
        clip = render(split_seed("test", number), num_frames=LONG, size=item.frames.shape[1:3])
        parts = {"frames": clip.frames, "depth": clip.depth, "mask": clip.mask}
        found.append(dataclasses.replace(item, **parts))
    return found


def report(records: Mapping[tuple[str, int], list[dict]], names: Sequence[str]) -> dict:
    """Prints the means, and the changes of each choice; returns the figures."""
    figures, rows = {}, []
    for name in names:
        for frames in sorted({n for choice, n in records if choice == name}):
            own, other = records[name, frames], records[BASELINE, frames]
            means = {metric: interval_of(own, metric) for metric in METRICS}
            rows.append({"choice": name, "frames": frames} | means)
            figures.setdefault(name, {})[frames] = {"mean": {m: i.mean for m, i in means.items()}}
            if name == BASELINE:
                continue
            changes = compare(other, own, METRICS)
            figures[name][frames]["change"] = {
                metric: {
                    **{part: getattr(interval, part) for part in ("mean", "low", "high")},
                    "by_seed": by_seed(other, own, metric),
                }
                for metric, interval in changes.items()
            }
            for metric, change in figures[name][frames]["change"].items():
                seeds = ", ".join(f"{value:+.4f}" for value in change["by_seed"])
                print(
                    f"{name}, {frames} frames, {metric.replace('_', ' ')}: {change['mean']:+.4f} "
                    f"[{change['low']:+.4f}, {change['high']:+.4f}]; by seed {seeds}"
                )
    print(format_table(rows))
    return figures


def by_seed(before: Sequence[dict], after: Sequence[dict], metric: str) -> list[float]:
    """Returns the mean change of the models of each training seed."""
    seeds = sorted({record["training_seed"] for record in before})
    parts = [
        [[r for r in side if r["training_seed"] == s] for side in (before, after)] for s in seeds
    ]
    return [compare(*pair, [metric])[metric].mean for pair in parts]


if __name__ == "__main__":
    keep_freed_memory()
    keep_programs()
    main()
