"""Measure a pipeline over a grid of the three controls: consistency, structure, colours.

    gen1 evaluate --prompts prompts.jsonl --temporal-scale 0.5 1 1.5 -o runs/evaluation
    gen1 evaluate --world runs/demo/world --clips 32 -o runs/evaluation

A prompt file holds a JSON object a line, {"video": PATH, "prompt": TEXT}, with paths relative to
the file. A clip of the world is asked for another colour and measured against the truth too: does
its object take that colour, does the object keep its mask, does the depth stay.

Output: records.jsonl, table.md, metrics.json and, if a control varies, trends.png. Records are
written as edits are made: the same command goes on with a sweep that was stopped.
"""

from pathlib import Path

from gen1_jax.commands.mesh import add_mesh_argument, make_mesh_of
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
    source.add_argument("--prompts", type=Path, help="a prompt file (JSONL)")
    source.add_argument("--world", type=Path, help="folder of a moving-shapes data set")
    parser.add_argument(
        "--builder", default="demo", help="size of the data set in --world (%(default)s)"
    )
    parser.add_argument(
        "--clips", type=int, default=32, help="number of held-out clips of --world (%(default)s)"
    )
    parser.add_argument(
        "--structure-level",
        type=int,
        nargs="+",
        default=[0],
        metavar="T",
        help="values of the structure level, 0 to 7 (0)",
    )
    parser.add_argument(
        "--temporal-scale",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="W",
        help="values of the temporal scale (1)",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        nargs="+",
        metavar="W",
        help="values of the guidance scale (the model's own default)",
    )
    parser.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="vary one control while the others keep their first value, not every combination",
    )
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the noise and of the colours (%(default)s)"
    )
    parser.add_argument(
        "--frames",
        type=int,
        help="number of frames of each clip of --prompts (as many as the model was trained on)",
    )
    parser.add_argument("--stride", type=int, help="take every N-th frame of --prompts (1)")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="number of clips edited together (%(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    add_mesh_argument(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(args) -> None:
    import numpy as np

    from gen1_jax.controls import Controls
    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.items import file_items, world_items
    from gen1_jax.evaluation.report import write_summary
    from gen1_jax.evaluation.sweep import full_grid, make_grid, run_sweep
    from gen1_jax.runtime import keep_programs

    keep_programs()
    controls = {
        "structure_level": args.structure_level,
        "temporal_scale": args.temporal_scale,
        "guidance_scale": args.guidance_scale or [None],
    }
    guidance = None if args.guidance_scale is None else np.asarray(args.guidance_scale)
    temporal = np.asarray(args.temporal_scale)
    Controls(args.structure_level, temporal, guidance, args.steps).check()
    if not 0 <= args.seed < 2**31:
        raise UserError(f"--seed {args.seed}; 0 to {2**31 - 1} are accepted")
    if args.world and (args.frames is not None or args.stride is not None):
        raise UserError("--frames and --stride go with --prompts; clips of --world are whole")
    for name in ("batch_size", "clips", "frames", "stride"):
        if (getattr(args, name) or 1) < 1 or getattr(args, name) == 0:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(args, name)}; 1 or more is accepted"
            )
    editor = VideoEditor.load(args.model, mesh=make_mesh_of(args))
    palette = None
    if args.prompts:
        frames = args.frames or editor.settings["num_frames"]
        items = file_items(args.prompts, tuple(editor.settings["size"]), frames, args.stride or 1)
    else:
        items, palette = world_items(args.world, args.builder, "test", args.clips, args.seed)
    grid = make_grid(**controls) if args.one_at_a_time else full_grid(**controls)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be made: {error.strerror}") from error
    records = run_sweep(
        editor,
        items,
        grid,
        args.output / "records.jsonl",
        num_steps=args.steps,
        batch_size=min(args.batch_size, len(items)),
        seed=args.seed,
        palette=palette,
        progress=not args.no_progress,
    )
    print(write_summary(records, args.output, grid))
