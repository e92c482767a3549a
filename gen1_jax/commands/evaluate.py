"""Measure a pipeline over a grid of the three controls: consistency, structure, colours.

    gen1 evaluate --prompts prompts.jsonl --temporal-scale 0.5 1 1.5 -o runs/evaluation
    gen1 evaluate --world runs/demo/world --clips 32 -o runs/evaluation

A prompt file holds a JSON object a line, {"video": PATH, "prompt": TEXT}, with paths relative to
the file. A clip of the world is asked for another colour and measured against the truth too: does
its object take that colour, does the object keep its mask, does the depth stay.

The output folder holds records.jsonl (a line an edit), table.md and metrics.json (the means of each
setting), trends.png if a control varies, and videos/CLIP/SETTING.mp4. Records and videos are
written as edits are made. To resume an evaluation that was stopped, give the same command again.
"""

import contextlib
from pathlib import Path

from gen1_jax.commands.mesh import add_device_arguments, make_mesh_of
from gen1_jax.errors import UserError

HELP = "measure edits over a grid of the three controls"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/demo/pipeline"),
        help="pipeline folder (%(default)s)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt file (JSONL)")
    source.add_argument(
        "--world", type=Path, metavar="DIR", help="folder of a moving-shapes data set"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the results; an evaluation that was stopped there is resumed",
    )
    parser.add_argument(
        "--builder", help="with --world, size of the data set (the one that is in the folder)"
    )
    parser.add_argument(
        "--clips", type=int, metavar="N", help="with --world, number of held-out clips (32)"
    )
    add_control_arguments(parser)
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="with --prompts, number of frames of each clip (as many as the model was trained on)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="with --prompts, take every N-th frame (as far apart in time as in training)",
    )
    parser.add_argument(
        "--start", type=int, metavar="N", help="with --prompts, first frame to take (0)"
    )
    parser.add_argument(
        "--size", metavar="HxW", help="with --prompts, size of the frames (the size trained on)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="number of clips edited together (%(default)s)",
    )
    parser.add_argument("--no-videos", action="store_true", help="write no videos of the edits")
    add_device_arguments(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def add_control_arguments(parser) -> None:
    """Adds the controls under the names that `gen1 edit` has, each with several values."""
    parser.add_argument(
        "--structure-level",
        type=int,
        nargs="+",
        default=[0],
        metavar="T",
        help="how coarse the structure is: values of 0 to 7 (0)",
    )
    parser.add_argument(
        "--temporal-scale",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="W",
        help="consistency over time: one value or several (1)",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        nargs="+",
        metavar="W",
        help="how strictly the prompt is followed: one value or several (the model's own default)",
    )
    parser.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="vary one control while the others keep their first value, not every combination",
    )
    parser.add_argument(
        "--per-frame",
        action="store_true",
        help="measure a baseline too, which edits each frame alone",
    )
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the noise and of the colours (%(default)s)"
    )


def run(args) -> None:
    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.report import write_summary
    from gen1_jax.evaluation.sweep import (
        full_grid,
        make_grid,
        run_of,
        run_sweep,
        with_baseline,
    )
    from gen1_jax.evaluation.videos import FOLDER, EditVideos
    from gen1_jax.files import making_folder
    from gen1_jax.runtime import keep_programs

    controls = check_arguments(args)
    grid = make_grid(**controls) if args.one_at_a_time else full_grid(**controls)
    grid = with_baseline(grid) if args.per_frame else grid
    keep_programs()
    editor = VideoEditor.load(args.model, dtype=args.dtype, mesh=make_mesh_of(args))
    items, palette = find_items(args, editor)
    videos = EditVideos(args.output, args.seed, run_of(editor, args.steps))
    shown = {} if args.no_videos else {"on_edit": videos.write, "is_missing": videos.is_missing}
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(making_folder(args.output))
        except OSError as error:
            raise UserError(f"--output {args.output} cannot be made: {error.strerror}") from error
        records = run_sweep(
            editor,
            items,
            grid,
            args.output / "records.jsonl",
            num_steps=args.steps,
            batch_size=args.batch_size,
            seed=args.seed,
            palette=palette,
            progress=not args.no_progress,
            **shown,
        )
        table = write_summary(records, args.output)
    print(table)
    made = f", the edits in {args.output / FOLDER}" if shown else ""
    what = "one setting" if len(grid) == 1 else f"{len(grid)} settings"
    print(f"measures of {what} are in {args.output / 'metrics.json'}{made}")


def check_arguments(args) -> dict:
    """Checks whatever can be checked before the model is loaded; returns the controls' values.

    Raises:
      UserError: a control, a count or a combination of flags that is not accepted.
    """
    import numpy as np

    from gen1_jax.controls import Controls

    guidance = None if args.guidance_scale is None else np.asarray(args.guidance_scale)
    temporal = np.asarray(args.temporal_scale)
    Controls(args.structure_level, temporal, guidance, args.steps).check()
    if not 0 <= args.seed < 2**31:
        raise UserError(f"--seed {args.seed}; 0 to {2**31 - 1} are accepted")
    for name in ("frames", "stride", "start", "size"):
        if args.world and getattr(args, name) is not None:
            raise UserError(f"--{name} goes with --prompts; clips of --world are taken whole")
    for name in ("builder", "clips"):
        if args.prompts and getattr(args, name) is not None:
            raise UserError(f"--{name} goes with --world; --prompts takes every line of its file")
    for name, path in {"--prompts": args.prompts, "--world": args.world}.items():
        if path and not path.exists():  # a large model takes minutes to load
            raise UserError(f"{name} {path}: no such file or folder")
    for name, least in {"batch_size": 1, "clips": 1, "frames": 1, "stride": 1, "start": 0}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}; {least} or more is accepted")
    return {
        "structure_level": args.structure_level,
        "temporal_scale": args.temporal_scale,
        "guidance_scale": args.guidance_scale or [None],
    }


def find_items(args, editor) -> tuple:
    """Returns the clips to edit, and the judge of their colours where the truth is known."""
    from gen1_jax.commands.edit import parse_size
    from gen1_jax.distributed import FRAMES
    from gen1_jax.evaluation.items import file_items, world_items

    if args.world:
        items, palette = world_items(args.world, args.builder, "test", args.clips or 32, args.seed)
    else:
        most, own = editor.unet.max_frames, editor.settings["num_frames"]
        frames = args.frames or min(own, most)
        if frames > most:
            raise UserError(f"--frames {frames}; this model takes at most {most} at a time")
        size = parse_size(args.size, editor.settings["size"], editor.conditioner.vae.spatial_factor)
        items = file_items(
            args.prompts,
            size,
            frames,
            args.stride or editor.trained.pace,
            args.start or 0,
            size_is_models=args.size is None,
        )
        palette = None
        if said := [f"{item.clip}: {item.taken}" for item in items if item.taken]:
            more = len(said) - 1
            likewise = f" (and {more} more clip{'s' if more > 1 else ''} likewise)" if more else ""
            print(said[0] + likewise)
    devices, frames = editor.mesh.shape[FRAMES], len(items[0].frames)
    if frames % devices:
        raise UserError(f"--mesh frames={devices} does not divide the {frames} frames of a clip")
    return items, palette
