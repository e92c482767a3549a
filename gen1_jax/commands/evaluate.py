"""Measure a pipeline and its rivals over a grid of controls: consistency, structure, colours.

    gen1 evaluate --prompts prompts.jsonl --temporal-scale 0.5 1 1.5 -o runs/evaluation
    gen1 evaluate --world runs/demo/world --clips 32 -o runs/evaluation
    gen1 evaluate --world runs/demo/world --method gen1 gen1-per-frame -o runs/evaluation

A prompt file holds a JSON object a line, {"video": PATH, "prompt": TEXT}, with paths relative to
the file. docs/evaluating.md lists other forms, among them those of public benchmarks. A clip of the
world is asked for another colour, or for what --edits says, and measured against the truth too:
does the edit show what was asked for, is the object where it was, does the depth stay.

The output folder holds records.jsonl (a line an edit), table.md and metrics.json (the means of each
setting), trends.png if a control varies, and videos/CLIP/SETTING.mp4. Records and videos are
written as edits are made. To resume an evaluation that was stopped, give the same command again.

Several processes, each on its own devices, share one evaluation:

    python launch/local.py --processes 2 -- gen1 evaluate --world … -o … --processes 2
"""

import contextlib
from pathlib import Path

from gen1_jax.commands.edit_solver import add_solver_argument
from gen1_jax.commands.judges import Measures, add_judge_arguments, check_judges
from gen1_jax.commands.mesh import add_device_arguments, own_mesh
from gen1_jax.commands.methods import (
    add_method_arguments,
    check_method_arguments,
    make_methods_of,
)
from gen1_jax.commands.processes import add_processes_argument, joined
from gen1_jax.commands.prompts import (
    add_prompt_arguments,
    check_prompt_arguments,
    load_prompt_items,
    results_of,
)
from gen1_jax.data_pipelines.moving_shapes.vocabulary import CAMERA_KINDS, DEFAULT_EDITS, EDITS
from gen1_jax.errors import UserError

HELP = "measure edits, and those of rival methods, over a grid of the controls"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/demo/pipeline"),
        help="pipeline folder (%(default)s)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="prompts: JSON lines, a CSV, or a file or folder of a public benchmark",
    )
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
    parser.add_argument(
        "--edits",
        nargs="+",
        choices=tuple(EDITS),
        metavar="KIND",
        help=f"with --world, what prompts change: one or several of {', '.join(EDITS)} (colour)",
    )
    parser.add_argument(
        "--camera",
        nargs="+",
        choices=CAMERA_KINDS,
        metavar="KIND",
        help=f"with --world, how the camera moves: one or several of {', '.join(CAMERA_KINDS)} "
        "(each clip's own, which is still or moving)",
    )
    add_control_arguments(parser)
    add_judge_arguments(parser)
    add_prompt_arguments(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="number of clips edited together (%(default)s)",
    )
    parser.add_argument(
        "--save-videos",
        type=float,
        default=20.0,
        metavar="GB",
        help="keep the edits as videos, of so many gigabytes at most (%(default)g)",
    )
    parser.add_argument("--no-videos", action="store_true", help="write no videos of the edits")
    add_device_arguments(
        parser,
        mesh="use several devices of each process: data=N shards the clips, frames=N the frames of "
        "each clip (all on accelerators, one CPU)",
        dtype="bfloat16 on accelerators, float32 on CPUs",
    )
    add_processes_argument(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def add_control_arguments(parser) -> None:
    """Adds methods, and controls under the names of `gen1 edit`, each with several values."""
    add_method_arguments(parser)
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
        "--strength",
        type=float,
        nargs="+",
        metavar="S",
        help="of methods that start from the noised source: the share of the noise, above 0 to 1: "
        "one value or several (0.6)",
    )
    parser.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="vary one control while the others keep their first value, not every combination",
    )
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (%(default)s)")
    add_solver_argument(parser)
    parser.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[0],
        metavar="N",
        help="seed of the noise: one or several; the first is that of the world's colours too (0)",
    )


def run(args) -> None:
    controls = check_arguments(args)
    with joined(args):
        evaluate(args, controls)


def evaluate(args, controls: dict) -> None:
    """Runs the evaluation, as one process or as one of several."""
    import jax

    from gen1_jax.distributed import check_shared, is_lead
    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.cells import settings_of
    from gen1_jax.evaluation.metrics.table import check_needs
    from gen1_jax.evaluation.records import holding
    from gen1_jax.evaluation.report import write_summary
    from gen1_jax.evaluation.sweep import key_of, run_of, run_sweep
    from gen1_jax.evaluation.videos import FOLDER, EditVideos
    from gen1_jax.files import making_folder
    from gen1_jax.programs import keep_programs

    keep_programs()
    measures = Measures(args)
    on_cpu = jax.default_backend() == "cpu"
    dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    editor = VideoEditor.load(args.model, dtype=dtype, mesh=own_mesh(args, one=on_cpu))
    methods = make_methods_of(args, editor)
    judges = measures.load_judges(editor)
    grid = settings_of(methods, args.one_at_a_time, **controls)
    items, prompts = find_items(args, editor)
    check_needs(args.metrics or (), items)
    by_name = {method.name: method for method in methods}
    run = run_of(editor, args.steps) | judges.identity
    videos = EditVideos(
        args.output,
        run,
        lambda method, item: by_name[method].identity(item),
        args.save_videos * 1e9,
        args.processes,
    )
    results = results_of(args, prompts, run, videos)
    features = measures.load_features(
        lambda item, cell: key_of(item, run) | cell | by_name[cell["method"]].identity(item)
    )
    keepers = [each for each in (None if args.no_videos else videos, results, features) if each]

    def is_missing(*cell) -> bool:
        return any([each.is_missing(*cell) for each in keepers])  # results note all their folders

    def keep(item, setting, frames) -> dict:
        notes = [keeper.write(item, setting, frames) for keeper in keepers]
        return {name: value for each in notes for name, value in each.items()}

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(making_folder(args.output))
        except OSError as error:
            raise UserError(f"--output {args.output} cannot be made: {error.strerror}") from error
        check_shared(args.output)
        stack.enter_context(holding(args.output))
        records = run_sweep(
            editor,
            items,
            grid,
            args.output,
            methods=methods,
            judges=judges,
            metrics=measures.names,
            num_steps=args.steps,
            batch_size=args.batch_size,
            seeds=args.seed,
            on_edit=keep,
            is_missing=is_missing,
            progress=not args.no_progress,
        )
        if not is_lead():
            return
        folders = results.finish() if results else []
        left_out = prompts.left_out if prompts else []
        fvd = features.distances(records) if features else ()
        table = write_summary(
            records,
            args.output,
            args.metrics,
            left_out=left_out,
            metrics=measures.names,
            fvd=fvd,
        )
    print(table)
    made = "" if args.no_videos else f", the edits in {args.output / FOLDER}"
    what = "one setting" if len(grid) == 1 else f"{len(grid)} settings"
    print(f"measures of {what} are in {args.output / 'metrics.json'}{made}")
    if folders:
        print(f"for the scripts of {prompts.layout.name}: {', '.join(map(str, folders))}")
    if left_out:
        print(f"left out, since they cannot be read: {len(left_out)}, the first: {left_out[0]}")
    if videos.left_out:
        print(
            f"{videos.left_out} edits have no video: --save-videos {args.save_videos:g} GB is full"
        )


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
    for seed in args.seed:
        if not 0 <= seed < 2**31:
            raise UserError(f"--seed {seed}; 0 to {2**31 - 1} are accepted")
    for strength in args.strength or ():
        if not 0 < strength <= 1:
            raise UserError(f"--strength {strength:g}; above 0, up to 1 is accepted")
    if not args.save_videos > 0:
        raise UserError(
            f"--save-videos {args.save_videos:g}; a number of gigabytes above 0 is accepted; "
            "--no-videos writes none"
        )
    check_method_arguments(args)
    check_judges(args)
    for name in ("builder", "clips", "edits", "camera"):
        if args.prompts and getattr(args, name) is not None:
            raise UserError(f"--{name} goes with --world; --prompts takes every line of its file")
    for name, path in {"--prompts": args.prompts, "--world": args.world}.items():
        if path and not path.exists():  # a large model takes minutes to load
            raise UserError(f"{name} {path}: no such file or folder")
    for name, least in {"batch_size": 1, "clips": 1, "frames": 1, "stride": 1, "start": 0}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}; {least} or more is accepted")
    check_prompt_arguments(args)
    return {
        "temporal_scale": args.temporal_scale,
        "structure_level": args.structure_level,
        "guidance_scale": args.guidance_scale or [None],
        **({"strength": args.strength} if args.strength else {}),
    }


def find_items(args, editor) -> tuple:
    """Returns the clips to edit, and the prompts of a prompt file, or None where there is none."""
    from gen1_jax.distributed import FRAMES
    from gen1_jax.evaluation.world_items import world_items

    prompts = None
    if args.world:
        items = world_items(
            args.world,
            args.builder,
            "test",
            args.clips or 32,
            args.seed[0],
            edits=args.edits or DEFAULT_EDITS,
            cameras=args.camera or (),
        )
    else:
        prompts, items = load_prompt_items(args, editor)
    devices = editor.mesh.shape[FRAMES]
    for frames in sorted({len(item.frames) for item in items}):
        if frames % devices:
            raise UserError(
                f"--mesh frames={devices} does not divide the {frames} frames of a clip"
            )
    return items, prompts
