"""The flag `--redo` of `gen1 edit`: sections of an earlier edit are made anew."""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen1_jax.commands.edit_like import Earlier, EarlierSeed, Several
from gen1_jax.errors import UserError
from gen1_jax.video.streams import Stream

if TYPE_CHECKING:
    from gen1_jax.editing.events import Stages
    from gen1_jax.video.footage import Footage


def add_redo_arguments(parser) -> None:
    parser.add_argument(
        "--redo",
        action=Several,
        metavar="A-B",
        help="with --like OUT.mp4: make a section of it anew, such as 2.0-3.5s, or frames such as "
        "48-84 (48 to 83), and leave all others as they are; it may be given several times. The "
        "seed is the next one, if none is given; a prompt that is given counts for the sections",
    )
    parser.add_argument(
        "--redo-of",
        type=Path,
        metavar="OUT",
        help="the result whose sections are made anew (that of --like)",
    )
    parser.add_argument(
        "--content-seed",
        type=int,
        metavar="N",
        help="seed of what the prior draws for a prompt (that of --seed; with --redo the earlier "
        "one)",
    )


def check_redo(args) -> None:
    """Completes what --redo leaves open, from the record of the earlier edit.

    Raises:
      UserError: there is no earlier edit, or it cannot have new sections in the output.
    """
    from gen1_jax.editing.redo import check_section

    if args.content_seed is not None and not 0 <= args.content_seed < 2**32:
        raise UserError(f"--content-seed {args.content_seed}; 0 to {2**32 - 1} are accepted")
    if args.redo is None:
        if args.redo_of is not None:
            raise UserError("--redo-of names what --redo makes sections of anew; give both")
        return
    for section in args.redo:
        check_section(section)
    if not args.like:
        raise UserError("--redo makes sections of an earlier edit anew; name it: --like OUT.mp4")
    if not isinstance(args.redo, Earlier):  # else the redo itself is made again
        earlier = args.like["flags"]
        args.redo_of = args.like_path
        if args.content_seed is None:
            args.content_seed = earlier["seed"]
        if isinstance(args.seed, EarlierSeed):
            args.seed = (earlier["seed"] + 1) % 2**32
    if not args.redo_of.exists() or args.redo_of.suffix.lower() == ".json":
        raise UserError(f"{args.redo_of}: no video of an earlier edit; --like OUT.mp4 is accepted")
    if args.redo_of.suffix.lower() != args.output.suffix.lower():
        raise UserError(
            f"--output {args.output}: sections of {args.redo_of} are made anew in its own format"
        )
    if args.variations != 1:
        raise UserError("--redo makes one edit; --variations 1 is accepted with it")


def redo_of(args, video: "Footage") -> dict[str, Any]:
    """Returns the keywords of `VideoEditor.vary` that say what is made anew.

    Sections are widened to those that a file can have replaced, which is said.

    Raises:
      UserError: a section does not lie in the video.
    """
    if args.redo is None:
        return {"content_seed": args.content_seed}
    from gen1_jax.editing.redo import merge_sections, read_section
    from gen1_jax.video.splicing import widen_section

    asked = [read_section(each, video.fps, len(video)) for each in args.redo]
    sections = merge_sections([widen_section(args.redo_of, *each) for each in asked])
    if sections != merge_sections(asked):
        said = ", ".join(f"{first} to {stop - 1}" for first, stop in sections)
        print(f"{args.redo_of}: is replaced in groups of frames: {said}")
    return {
        "content_seed": args.content_seed,
        "redo": list(sections),
        "earlier": args.redo_of,
    }


def splice(
    args,
    frames: Stream,
    sections: Sequence[tuple[int, int]],
    tags: Mapping[str, str],
    stages: "Stages",
) -> None:
    """Writes the earlier result with new sections, completely or not at all."""
    from gen1_jax.video.splicing import splice_video

    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".redo") as folder:
        old = args.redo_of
        for number, (first, stop) in enumerate(sections, start=1):
            is_last = number == len(sections)
            new = args.output if is_last else Path(folder) / f"{number}{args.output.suffix}"
            part = Stream(stop - first, lambda a=first, b=stop: itertools.islice(frames, a, b))
            overwrite = args.overwrite and is_last
            part = stages.watch("decoding", part)
            splice_video(old, new, (first, stop), part, overwrite=overwrite, tags=tags)
            old = new
