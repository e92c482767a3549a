"""Run every part of a config in order: make the world, train all models, assemble, edit, evaluate.

    gen1 all --config demo --workdir runs/demo
    gen1 all --config demo --workdir runs/quick --set video.num_steps=20 --set blur.num_steps=20

A part that is finished is not done again, and a run that was stopped goes on where it was. `gen1
config NAME` lists the parts. The processes of a job (launch/README.md) share the encoding and the
training; the first one does the rest. SIGTERM ends it with exit code 75: start the same command
again.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.commands.processes import add_processes_argument, joined
from gen1_jax.config import load_config
from gen1_jax.errors import UserError
from gen1_jax.files import as_path
from gen1_jax.settings import closest

HELP = "make the world, train every part, edit held-out clips, measure"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--config", required=True, help="a config by name or path: demo, configs/tiny.py"
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=as_path,
        help="folder of the run; each part has a subfolder",
    )
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="run only these parts, in this order"
    )
    add_set_argument(parser, "video.num_steps=100", "PART.KEY")
    add_processes_argument(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no bars")


def run(args) -> None:
    from gen1_jax.programs import keep_programs
    from gen1_jax.runtime import keep_freed_memory
    from gen1_jax.workflow import run_all

    config = load_config(args.config)
    if config.kind != "all":
        raise UserError(
            f"--config {args.config}: a whole config is accepted, without :part; "
            "`gen1 train` runs one part"
        )
    for part in args.parts or ():
        if part not in config.parts:
            known = f"{', '.join(config.parts)}{closest(part, config.parts)}"
            raise UserError(f"--parts {part}: no such part; known: {known}")
    parts = tuple(args.parts or config.parts)
    overrides = sort_overrides(args.set, parts)
    loaded = {part: load_part(args.config, part, overrides[part]) for part in parts}
    keep_freed_memory()  # before the first computation
    with joined(args):
        keep_programs(args.workdir)
        run_all(
            config,
            args.workdir,
            loaded.__getitem__,
            progress=not args.no_progress,
            parts=parts,
        )


def load_part(name: str, part: str, overrides: Sequence[str]) -> ConfigDict:
    """Returns one part's config with its overrides; an error names the part."""
    try:
        return load_config(f"{name}:{part}", overrides)
    except UserError as error:
        raise UserError(f"{part}: {error}" if overrides else str(error)) from None


def sort_overrides(overrides: Sequence[str], parts: Sequence[str]) -> dict[str, list[str]]:
    """Returns the overrides of each part, from those of the whole run, `PART.key=value`.

    Raises:
      UserError: an override names none of the parts that are run.
    """
    found: dict[str, list[str]] = {part: [] for part in parts}
    for override in overrides:
        part, dot, rest = override.partition(".")
        if part not in found or not dot:
            accepted = f"PART.key=value is accepted, such as {parts[-1]}.seed=1"
            if not dot or "=" in part:
                raise UserError(f"--set {override}: {accepted}")
            known = closest(part, parts) or f"; the parts are {', '.join(parts)}"
            raise UserError(f"--set {override}: {part!r} is no part of this run{known}")
        found[part].append(rest)
    return found
