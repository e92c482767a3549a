"""Print a script that completes commands, flags and choices in a shell.

    gen1 completion bash
    gen1 completion zsh

The script is static: completing starts no Python. Write it where the shell looks for such scripts,
and write it again after an update; docs/installing.md has the line for each shell.
"""

from pathlib import Path

HELP = "print a script that completes gen1 in bash, zsh or fish"
SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_arguments(parser) -> None:
    parser.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def run(args) -> None:
    import shtab

    from gen1_jax.cli import make_parser

    parser = make_parser()
    _complete_paths(parser)
    print(shtab.complete(parser, args.shell))


def _complete_paths(parser) -> None:
    """Has paths completed as files, and --config by the names of the shipped configs."""
    import shtab

    from gen1_jax.config import known_configs

    for action in parser._actions:
        if isinstance(action.choices, dict):  # the parsers of subcommands
            for subparser in set(action.choices.values()):
                _complete_paths(subparser)
        elif action.dest == "config":
            # One name a line, as fish wants it; without quotes, which zsh's script has around it.
            action.complete = shtab.cmd("; ".join(f"echo {name}" for name in known_configs()))
        elif action.type is Path:
            action.complete = shtab.FILE
