"""The options of `gen1 evaluate` that say which prompts are read, and how results are written."""

from collections.abc import Mapping
from pathlib import Path

from gen1_jax.errors import UserError

ONLY_PROMPTS = ("layout", "root", "frames", "stride", "start", "size", "write_results")


def add_prompt_arguments(parser) -> None:
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help="with --prompts, form of the file (told from its content): lines, loveu, fatezero, "
        "five, ivebench, editboard, editverse or v2vbench",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="with --prompts, folder where the paths of videos start (that of the file)",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="with --prompts, leave out what cannot be read, and say how much at the end",
    )
    parser.add_argument(
        "--write-results",
        action="store_true",
        help="with --prompts, write the edits where the benchmark's own scripts look for them, too",
    )
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
        "--size",
        metavar="HxW",
        help="with --prompts, size of the frames (the size trained on that is nearest to a video)",
    )


def check_prompt_arguments(args) -> None:
    """Checks the options that go with --prompts, and that its file can be read.

    Raises:
      UserError: an option goes with --prompts alone, or the prompts are wrong.
    """
    if not args.prompts:
        for name in (*ONLY_PROMPTS, "keep_going"):
            if getattr(args, name) not in (None, False):
                raise UserError(
                    f"--{name.replace('_', '-')} goes with --prompts; clips of --world are taken "
                    "whole"
                )
        return
    if args.root and not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such folder")
    read_prompt_file(args)  # a large model takes minutes to load


def read_prompt_file(args):
    """Returns the prompts that `--prompts` names."""
    from gen1_jax.evaluation.prompts.reading import read_prompts

    return read_prompts(
        args.prompts, layout=args.layout, root=args.root, keep_going=args.keep_going
    )


def load_prompt_items(args, editor) -> tuple:
    """Returns the prompts and their clips; a job's first process says what is not taken of them.

    Raises:
      UserError: a video cannot be read, or the model does not take an option's value.
    """
    from gen1_jax.commands.edit_size import parse_size
    from gen1_jax.distributed import is_lead
    from gen1_jax.evaluation.prompts.clips import Taking, describe_taken, load_items

    most = editor.unet.max_frames
    if args.frames and args.frames > most:
        raise UserError(f"--frames {args.frames}; this model takes at most {most} at a time")
    size = parse_size(args.size, None, editor.conditioner.vae.spatial_factor)
    prompts = read_prompt_file(args)
    taking = Taking(size, args.frames, args.stride, args.start or 0, most)
    items = load_items(
        prompts,
        editor.trained,
        taking,
        keep_going=args.keep_going,
        progress=is_lead() and not args.no_progress,
    )
    for line in filter(None, (*prompts.notes, describe_taken(items)) if is_lead() else ()):
        print(line)
    return prompts, items


def results_of(args, prompts, run: Mapping, videos):
    """Returns the writer of results in the layout's form, or None where none are asked for."""
    from gen1_jax.evaluation.prompts.results import LayoutResults

    if not args.write_results:
        return None
    taken = {name: str(getattr(args, name)) for name in ("frames", "stride", "start", "size")}
    return LayoutResults(args.output, prompts, {**run, **taken}, videos.name)
