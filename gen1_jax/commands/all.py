"""Run every part of a config in order: make the world, train all models, assemble, edit, evaluate.

    gen1 all --config demo --workdir runs/demo

A part that is finished is not done again, and a run that was stopped goes on where it was. A job
of several processes runs its parts one by one, by `gen1 train` and `gen1 precompute`.
"""

from pathlib import Path

from gen1_jax.commands.processes import refuse_one_of_many
from gen1_jax.config import load_config
from gen1_jax.errors import UserError

HELP = "make the world, train every part, edit held-out clips, measure"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--config", required=True, help="a config by name or path: demo, configs/tiny.py"
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, help="folder of the run; each part has a subfolder"
    )
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="run only these parts, in this order"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no bars")


def run(args) -> None:
    from gen1_jax.runtime import keep_freed_memory, keep_programs
    from gen1_jax.workflow import run_all

    config = load_config(args.config)
    if config.kind != "all":
        raise UserError(
            f"--config {args.config}: a whole config is accepted, without :part; "
            "`gen1 train` runs one part"
        )
    for part in args.parts or ():
        if part not in config.parts:
            raise UserError(f"--parts {part}: no such part; known: {', '.join(config.parts)}")
    keep_freed_memory()  # before the first computation
    refuse_one_of_many()
    keep_programs()
    run_all(
        config,
        args.workdir,
        lambda part: load_config(f"{args.config}:{part}"),
        progress=not args.no_progress,
        parts=args.parts,
    )
