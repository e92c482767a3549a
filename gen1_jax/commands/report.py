"""Make the tables and figures of an evaluation again from its records, without a model.

    gen1 report runs/evaluation
    gen1 report runs/evaluation --method gen1 sdedit-video --metrics frame_consistency -o runs/two

FOLDER holds the records of one evaluation or of several that were written there one after another;
all are shown together. The first method that is named is the one that others are compared with.
Fewer methods and measures are fewer comparisons, so Holm's correction is milder.
"""

from pathlib import Path

from gen1_jax.errors import UserError

HELP = "make the tables and figures of an evaluation again, of all its records or of some"


def add_arguments(parser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="folder that `gen1 evaluate` wrote"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="where to write (default: FOLDER)"
    )
    parser.add_argument(
        "--method", nargs="+", metavar="NAME", help="only these methods, in this order (all)"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="only these measures (all)")
    parser.add_argument(
        "--by",
        nargs="+",
        metavar="FIELD",
        help="fields of records that have tables of their own, such as prompt (kind camera)",
    )


def run(args) -> None:
    from gen1_jax.evaluation.metrics.table import check_metrics
    from gen1_jax.evaluation.records import read_all
    from gen1_jax.evaluation.report import GROUPS, SHOWN, write_summary
    from gen1_jax.evaluation.tables import newest_of_each

    check_metrics(args.metrics or ())
    records, torn = read_all(args.folder)
    if not records:
        raise UserError(
            f"{args.folder}: no records; a folder that `gen1 evaluate` wrote is accepted"
        )
    if torn:
        print(f"{args.folder}: {torn} unfinished lines are left out")
    found = list(dict.fromkeys(record.get("method", "") for record in records))
    methods = args.method or found
    if unknown := [name for name in methods if name not in found]:
        raise UserError(f"no records of {unknown[0]!r}; accepted: {', '.join(found)}")
    for field in args.by or ():
        if not any(field in record for record in records):
            raise UserError(f"--by {field}: no record has this field, as `prompt` and `kind` are")
    records = [r for name in methods for r in records if r.get("method", "") == name]
    kept = newest_of_each(records)
    if len(kept) < len(records):
        print(f"{len(records) - len(kept)} older records of the same edits are left out")
    output = args.output or args.folder
    output.mkdir(parents=True, exist_ok=True)
    table = write_summary(
        kept, output, args.metrics, metrics=args.metrics or SHOWN, groups=args.by or GROUPS
    )
    print(f"{table}\ntables and figures are in {output}")
