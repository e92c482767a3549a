"""The command line, `gen1 SUBCOMMAND`. Bad input ends in one line and exit code 2."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import warnings

from gen1_jax import __version__
from gen1_jax.errors import UserError

# Subcommand → module in gen1_jax.commands with HELP, add_arguments(parser) and run(args).
COMMANDS = {
    "edit": "edit",
    "train": "train",
    "all": "all",
    "world": "world",
    "ingest": "ingest",
    "inspect": "inspect_data",  # Python has a module `inspect`
    "precompute": "precompute",
    "evaluate": "evaluate",
    "import": "import_models",  # `import` is a keyword
    "export": "export_pipeline",
    "compile": "compile_step",  # `compile` is a builtin
}
EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments as a UserError."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code."""
    warnings.showwarning = _show_warning
    _silence_false_alarms()
    parser = _Parser(
        prog="gen1", description="Edit videos, and train the model that does: Gen-1 in JAX."
    )
    parser.add_argument("--version", action="version", version=f"gen1-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    modules = {
        name: importlib.import_module(f"gen1_jax.commands.{module}")
        for name, module in COMMANDS.items()
    }
    for name, module in modules.items():
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return EXIT_BAD_INPUT
        modules[args.command].run(args)
    except UserError as error:
        print(f"gen1: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as stopped:
        print(f"gen1: {stopped or 'stopped'}", file=sys.stderr)
        return getattr(stopped, "exit_code", EXIT_STOPPED)
    except BrokenPipeError:  # the reader of our output has ended, as in `gen1 … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _silence_false_alarms() -> None:
    """Has XLA log nothing below a fatal error, where it else raises false alarms.

    jaxlib up to 0.10.1 logs "could lead to execution errors such as SIGILL" for each CPU program
    that it takes from disk (jax#38445). The programs run correctly. Call it before jax is imported.
    """
    version = importlib.metadata.version("jaxlib")
    accelerated = importlib.util.find_spec("jax_plugins") or importlib.util.find_spec("libtpu")
    if version in ("0.10.0", "0.10.1") and not accelerated:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Prints a UserWarning as one line; other warnings are for developers and are not shown."""
    if issubclass(category, UserWarning):
        print(f"gen1: note: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
