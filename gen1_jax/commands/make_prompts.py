"""Make edit prompts for videos, for `gen1 evaluate --prompts`.

    gen1 prompts films/*.mp4 --captioner models/blip -o prompts.jsonl
    gen1 prompts captions.csv -o prompts.jsonl

Each SRC is a video, a folder of videos or of numbered pictures, a glob, or a manifest: a CSV, JSONL
or Parquet file with a column `path` and a column `caption`. A .txt or .json file beside a video
holds its caption. A video without one is captioned by a model: its middle frame is shown to it.

Each caption becomes prompts of four kinds: another object or colour, another surface, another
place, another style. Templates swap words of the caption; with --llm a language model writes them.
To continue after a stop, give the same command again: no model is asked twice.
"""

import sys
from pathlib import Path

from gen1_jax.errors import UserError

HELP = "caption videos, and make edit prompts of the captions"
_KINDS = ("object", "surface", "environment", "style")


def add_arguments(parser) -> None:
    add = parser.add_argument
    add("sources", nargs="+", metavar="SRC", help="videos, with or without captions")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="prompt file, .jsonl")
    add(
        "--captioner",
        type=Path,
        metavar="FOLDER",
        help="captioning model of transformers, such as BLIP, BLIP-2, GIT or LLaVA, as safetensors "
        "(extra torch)",
    )
    add(
        "--llm",
        type=Path,
        metavar="FOLDER",
        help="language model of transformers that writes the prompts, as safetensors (extra torch)",
    )
    add("--kinds", nargs="+", choices=_KINDS, default=_KINDS, help="kinds of edit (all)")
    add("--each", type=int, default=1, metavar="N", help="prompts of each kind for a video (1)")
    add("--words", type=Path, metavar="FILE", help="word lists of the templates, a YAML file")
    add("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")
    add("--keep-going", action="store_true", help="leave out videos that cannot be read; say which")
    add("--overwrite", action="store_true", help="replace an earlier prompt file")
    add("--no-progress", action="store_true", help="show no bars")


def run(args) -> None:
    _check(args)
    from gen1_jax.data_pipelines.footage.inputs import find_inputs
    from gen1_jax.evaluation.edit_prompts import captions, writer
    from gen1_jax.evaluation.edit_prompts.local_models import check_folder
    from gen1_jax.evaluation.edit_prompts.making import Captioning, Prompting, write_prompts
    from gen1_jax.evaluation.edit_prompts.templates import Templates
    from gen1_jax.evaluation.edit_prompts.words import WORDS, read_words

    if args.captioner:
        check_folder(args.captioner, "--captioner", captions.ACCEPTED)
    if args.llm:
        check_folder(args.llm, "--llm", writer.ACCEPTED)
    templates = None if args.llm else Templates(read_words(args.words or WORDS), args.seed)
    root, inputs = find_inputs(*args.sources, frame_folders=True, allow_outside=True)
    progress = not args.no_progress
    captioning = Captioning(args.output, args.captioner)
    videos = captioning.caption(root, inputs, args.keep_going, progress)
    kinds = list(dict.fromkeys(args.kinds))
    prompting = Prompting(args.output, kinds, args.each, args.seed, templates, args.llm)
    lines = prompting.prompts(videos, progress)
    write_prompts(args.output, lines)
    by_model = len(videos) - captioning.given
    made = f", {by_model} by {args.captioner}" if args.captioner else ""
    print(f"captions: {captioning.given} given{made}")
    counts = {kind: sum(line["kind"] == kind for line in lines) for kind in kinds}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"prompts: {len(lines)} in {args.output} ({said})")
    for note in prompting.notes(len(videos)):
        print(note)
    if captioning.left_out:
        print(f"left out: {len(captioning.left_out)} videos", file=sys.stderr)
        for line in captioning.left_out:
            print(f"  {line}", file=sys.stderr)


def _check(args) -> None:
    if args.output.suffix.lower() != ".jsonl":
        raise UserError(f"--output {args.output}; a file that ends in .jsonl is accepted")
    if args.output.is_dir():
        raise UserError(f"--output {args.output} is a folder; give a file")
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists; add --overwrite, or give another --output")
    if args.each < 1:
        raise UserError(f"--each {args.each}; 1 or more is accepted")
    if args.words and args.llm:
        raise UserError("--words goes with templates, and --llm writes prompts without them")
