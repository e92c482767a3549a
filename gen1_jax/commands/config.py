"""Print a config whole: each key with its value, its meaning, and where the value comes from.

    gen1 config                                  # the configs there are
    gen1 config tiny                             # the parts of one
    gen1 config tiny:video                       # everything about a part
    gen1 config tiny:video --set num_steps=700   # the same with changes, before they are used

A part is printed as YAML. A comment gives the value's source first: `default`, the config file that
says so, or `--set`. docs/configs.md has every key of every kind of part.
"""

from gen1_jax import config as configs
from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.errors import UserError

HELP = "print a config: its keys, what they mean, where their values come from"


def add_arguments(parser) -> None:
    parser.add_argument("config", nargs="?", metavar="NAME[:PART]", help=configs.HELP)
    parser.add_argument("--part", help="the part, in place of :PART")
    add_set_argument(parser, "num_steps=100")
    parser.add_argument(
        "--docs", action="store_true", help="print every key of every kind of part, as Markdown"
    )


def run(args) -> None:
    from gen1_jax import explain

    if args.docs:
        print(explain.write_reference())
        return
    if args.config is None:
        if args.set or args.part:
            raise UserError("name a config first, such as: gen1 config tiny:video")
        names = configs.known_configs()
        _print_table([(name, explain.first_line(name)) for name in names])
        print("\ngen1 config NAME lists the parts of one; NAME may be a path to a .py file")
        return
    name, _, part = args.config.partition(":")
    if part and args.part and part != args.part:
        raise UserError(
            f"--part {args.part}: {args.config} names another part; accepted: one of them"
        )
    part = part or args.part or configs.ALL
    if part == configs.ALL:
        if args.set:
            raise UserError(f"--set {args.set[0]}: name a part too, such as {name}:video")
        print(f"{name}: {explain.first_line(name)}\n")
        _print_table(explain.list_parts(name))
        print(f"\ngen1 config {name}:PART prints a part whole")
        return
    rows = explain.explain(f"{name}:{part}", args.set)
    print(f"# {name}:{part}")
    print(explain.write_yaml(rows))


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"  {name:<{width}}  {text}")
