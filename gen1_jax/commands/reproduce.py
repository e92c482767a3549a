"""Check the paper's claims on the moving-shapes world: train rivals, tune, edit, measure, judge.

    gen1 reproduce --run runs/demo -o runs/reproduce
    gen1 reproduce --run runs/demo -o runs/reproduce --parts tuning methods

--run is a finished run of configs/demo.py, which is only read. A part that is finished is not done
again, and one that was stopped goes on where it was; give the same command again. The table is
reproduce.md, which stands beside the paper's figure 6 drawn anew.
"""

from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.settings import closest

HELP = "check the paper's claims on the moving-shapes world, against rivals"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), metavar="DIR", help="(%(default)s)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="where everything is written",
    )
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="run only these parts, in this order (all)"
    )
    parser.add_argument(
        "--list", action="store_true", help="say what the parts do and which are done, and end"
    )
    for name, what in {
        "clips": "clips of the test split",
        "tuning-clips": "clips of the validation split on which settings are chosen",
        "steps": "DDIM steps of an edit",
        "probe-clips": "clips that linear probes are fitted on",
    }.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"number of {what}")
    parser.add_argument(
        "--arm-seeds",
        type=int,
        nargs="+",
        metavar="N",
        help="seeds with which the counterfactuals are trained (0)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no bars")


def run(args) -> None:
    import time

    from gen1_jax.commands.processes import refuse_one_of_many
    from gen1_jax.evaluation.reproduce.parts import PARTS
    from gen1_jax.evaluation.reproduce.summary import write_report
    from gen1_jax.evaluation.reproduce.work import Sizes, Work
    from gen1_jax.programs import keep_programs
    from gen1_jax.runtime import keep_freed_memory

    parts = args.parts or list(PARTS)
    for name in parts:
        if name not in PARTS:
            known = f"{', '.join(PARTS)}{closest(name, PARTS)}"
            raise UserError(f"--parts {name}: no such part; known: {known}")
    if not (args.run / "pipeline" / "gen1.json").exists():
        raise UserError(
            f"--run {args.run}: no finished run; accepted: the folder of `gen1 all --config demo`"
        )
    given = ("clips", "tuning_clips", "steps", "probe_clips", "arm_seeds")
    given = {name: getattr(args, name) for name in given if getattr(args, name) is not None}
    for name, value in given.items():
        least = 0 if name == "arm_seeds" else 2
        if min(value if isinstance(value, list) else [value]) < least:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value}; {least} or more is accepted")
    if "arm_seeds" in given:
        given["arm_seeds"] = tuple(given["arm_seeds"])
    keep_freed_memory()  # before the first computation
    refuse_one_of_many(takes_processes=False)
    keep_programs()
    work = Work(args.run.resolve(), args.output, Sizes(**given), not args.no_progress)
    if args.list:
        for name, part in PARTS.items():
            print(f"{name}: {part.what}{' (done)' if work.is_done(name, part.needs) else ''}")
        return
    for name in parts:
        part = PARTS[name]
        if work.is_done(name, part.needs):
            print(f"{name}: finished before")
            continue
        started = time.perf_counter()
        work.write_result(name, part.needs, part.run(work))
        print(f"{name}: done ({time.perf_counter() - started:.0f} s)", flush=True)
    print(write_report(work))
