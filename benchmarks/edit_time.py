"""How long an edit takes, stage by stage: measured here, or by the clock of a compiler for others.

    python benchmarks/edit_time.py --run runs/demo/pipeline --clip clip.mp4
    python benchmarks/edit_time.py --config paper --topology v5e:1x1

The first form edits a clip, twice, and reports the second, whose programs are compiled. The second
form compiles the very programs of `gen1 edit` for chips that are not there, and adds up the times
that the compiler schedules: for one clip of the training's length, and for a film of 30 seconds at
its rate. Reading and writing are the host's work, and are left out there. The last line is one JSON
object.
"""

import json
from pathlib import Path

from common import make_parser, print_figures

from gen1_jax.aot.environment import prepare_environment

FILM = 30  # seconds


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--run", type=Path, help="a pipeline folder, to measure here")
    parser.add_argument("--clip", type=Path, help="the video that is edited")
    parser.add_argument("--config", help="a config whose pipeline is compiled")
    parser.add_argument("--topology", help="the chips, such as v5e:1x1; see gen1 compile --help")
    parser.add_argument("--steps", type=int, default=50, help="sampling steps (%(default)s)")
    parser.add_argument("--rate", type=float, default=30, help="the film's rate (%(default)s)")
    args = parser.parse_args()
    if bool(args.run) != bool(args.clip) or bool(args.config) != bool(args.topology):
        parser.error("give --run with --clip, or --config with --topology")
    if not args.run and not args.config:
        parser.error("give --run and --clip, or --config and --topology")
    prepare_environment(args.topology or "")
    figures = measure_here(args) if args.run else compile_for(args)
    for name, value in figures.items():
        print(f"{name:<28} {json.dumps(value)}")
    print_figures(figures)


def measure_here(args) -> dict[str, float]:
    """Returns seconds of each stage of an edit, of programs that are compiled."""
    import tempfile

    from gen1_jax.editing import VideoEditor
    from gen1_jax.editing.events import Stages
    from gen1_jax.video.io import write_video

    editor = VideoEditor.load(args.run)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            stages = Stages()
            with stages("reading", 1):
                footage = editor.open(args.clip)
            edit = editor.edit(footage, prompt="a red ball", steps=args.steps, stages=stages)
            frames = edit.frames  # decoded here, and written below
            with stages("decoding", 1):
                frames = edit.streams.frames.array()
            with stages("writing", 1):
                write_video(Path(folder) / "out.mp4", frames, edit.fps, overwrite=True)
    seconds = {name: round(value, 3) for name, value in stages.seconds.items()}
    return {"frames": len(frames), **seconds, "all": round(sum(stages.seconds.values()), 3)}


def compile_for(args) -> dict[str, dict[str, float]]:
    """Returns the scheduled seconds of each stage's program, and of whole edits."""
    import math

    from gen1_jax.aot.edit_programs import edit_works
    from gen1_jax.aot.target import make_target, measure
    from gen1_jax.config import load_other_part
    from gen1_jax.diffusion.windows import place_windows
    from gen1_jax.distributed import batch_parts
    from gen1_jax.resolve import describe_models, resolve_planned
    from gen1_jax.training_checks import check_settings

    def other(name: str):
        return load_other_part(args.config, name)

    config = resolve_planned(check_settings(other("blur")), other)
    target = make_target(args.topology, {"data": -1, "fsdp": 1})
    pipeline = other("pipeline")
    folders = {name: folder for name, folder in pipeline.folders.items() if name != "unet"}
    models = describe_models(folders, other)
    settings, length = pipeline.settings.to_dict(), pipeline.settings.num_frames
    seconds, memory = {}, {}
    for stage, work in edit_works(config, settings, models, target).items():
        report = measure(work, target)
        found = report.scheduled_seconds or max(report.arithmetic_seconds, report.memory_seconds)
        seconds[stage] = found
        memory[stage] = round((report.hbm_used_bytes or 0) / 2**30, 2)
        print(f"{stage}: {found:.4f} s, {memory[stage]} GiB", flush=True)
    parts = batch_parts(target.mesh)
    figures = {"one program's seconds": seconds, "memory, GiB": memory}
    film = round(FILM * args.rate)
    for name, frames in (("one clip", length), (f"{film} frames", film)):
        pieces = math.ceil(frames / (length * parts))
        windows = len(place_windows(frames, length, length // 4).frames)
        stages = {stage: pieces * value for stage, value in seconds.items()}
        stages["prior"] = seconds["prior"]
        stages["sampling"] = args.steps * math.ceil(windows / parts) * seconds["sampling"]
        stages["all"] = sum(stages.values())
        figures[name] = {stage: round(value, 3) for stage, value in stages.items()}
    return figures


if __name__ == "__main__":
    main()
