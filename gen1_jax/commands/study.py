"""Ask people which edits they prefer: make a page to answer on, and tally the answers.

    gen1 study make runs/evaluation -o runs/study
    gen1 study tally runs/study/key.json answers/*.csv -o runs/study_results

The page shows pairs of edits of one clip, gen1's and a rival's, and asks the paper's question:
which of them represents the caption better. It is a folder of files: publish DIR/page, or send it,
or open DIR/page/index.html. DIR/key.json says which video is whose; keep it to yourself.
Participants download their answers at the end and send the file back.
"""

from pathlib import Path

from gen1_jax.commands.output import check_new
from gen1_jax.errors import UserError

HELP = "a page on which people choose between edits, and what they chose"


def add_arguments(parser) -> None:
    steps = parser.add_subparsers(
        dest="step", metavar="make|tally", required=True, parser_class=type(parser)
    )
    make = steps.add_parser(
        "make",
        help="a page from the videos of an evaluation",
        description="Make a page from the edits that `gen1 evaluate` has written into RESULTS: one "
        "method's against each rival's, clip by clip.",
    )
    add = make.add_argument
    add("results", type=Path, metavar="RESULTS", help="folder of `gen1 evaluate`, with its videos")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for page and key")
    add(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="compare the first with each of the others (gen1 with all others)",
    )
    add(
        "--folder",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="further methods: folders of videos, each named as its clip or the clip's video",
    )
    add(
        "--where",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="where a method has several settings, the one to show: temporal_scale=1, or for one "
        "method alone METHOD:strength=0.6 (the first)",
    )
    add("--pairs", type=int, metavar="N", help="pairs that each participant judges (all)")
    add(
        "--checks",
        type=int,
        default=3,
        metavar="N",
        help="attention checks among them: an edit against noise (%(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of order, sides and checks (0)")
    add("--question", metavar="TEXT", help="what to ask of each pair (the paper's question)")
    add("--title", metavar="TEXT", help="title of the page")
    add(
        "--most-mb",
        type=float,
        default=1000.0,
        metavar="MB",
        help="largest size of the page with its videos, in megabytes (%(default)g)",
    )
    add("--overwrite", action="store_true", help="replace an earlier study, and its key")
    tally = steps.add_parser(
        "tally",
        help="who was preferred, from the files that participants send back",
        description="Tally the answers: the majority of each pair, each rival's share with "
        "Wilson's interval, and the participants' agreement. Who fails a check is left out.",
    )
    add = tally.add_argument
    add("key", type=Path, metavar="KEY", help="key.json of the study")
    add("answers", type=Path, nargs="+", metavar="FILE", help="files of participants, CSV or JSON")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    add(
        "--keep-going",
        action="store_true",
        help="leave out lines that are wrong, and count them; else any wrong line is refused",
    )
    add("--overwrite", action="store_true", help="replace earlier results")


def run(args) -> None:
    check_new(args.output, args.overwrite)
    (_make if args.step == "make" else _tally)(args)


def _make(args) -> None:
    from gen1_jax.evaluation.study.make import KEY, PAGE, QUESTION, TITLE, make_study
    from gen1_jax.evaluation.study.pairs import find_pairs

    for name, least in {"pairs": 1, "checks": 0, "seed": 0}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}; {least} or more is accepted")
    if not args.most_mb > 0:
        raise UserError(f"--most-mb {args.most_mb:g}; a number above 0 is accepted")
    folders = {}
    for text in args.folder:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--folder {text}; NAME=DIR is accepted")
        if name in folders:
            raise UserError(f"--folder {text}: {name} is given twice")
        folders[name] = Path(folder)
    pairs, notes = find_pairs(args.results, args.methods or (), folders, args.where)
    made = make_study(
        pairs,
        args.output,
        seed=args.seed,
        each=args.pairs,
        checks=args.checks,
        most_bytes=args.most_mb * 1e6,
        question=args.question or QUESTION,
        title=args.title or TITLE,
    )
    for line in (*notes, *made.notes):
        print(line)
    ours = next(iter(pairs[0].edits))
    rivals = dict.fromkeys(name for pair in pairs for name in list(pair.edits)[1:])
    print(f"study {made.id}: {made.pairs} pairs, {ours} against {', '.join(rivals)}")
    print(f"each participant judges {made.each}, and {args.checks} checks")
    print(f"page: {args.output / PAGE / 'index.html'} ({made.size / 1e6:.1f} MB with its videos)")
    print(f"keep to yourself: {args.output / KEY}, which says which video is whose")


def _tally(args) -> None:
    import sys

    from gen1_jax.evaluation.study.answers import read_answers, read_key
    from gen1_jax.evaluation.study.report import write_results
    from gen1_jax.evaluation.study.tally import tally

    key = read_key(args.key)
    answers, problems, notes = read_answers(args.answers, key)
    for line in (*problems, *notes):
        print(line, file=sys.stderr)
    if problems and not args.keep_going:
        raise UserError(
            f"{len(problems)} problems in the answers, named above; mend the files, or "
            "--keep-going leaves those lines out"
        )
    result = tally(key, answers)
    print(write_results(result | {"lines_left_out": len(problems)}, args.output))
