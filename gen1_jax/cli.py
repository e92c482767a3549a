"""The command line, `gen1 SUBCOMMAND`. What a user or a machine did wrong ends in one line.

The exit code is 2 for bad input, and 75 for what a new start may cure.
"""

import argparse
import difflib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gen1_jax import __version__
from gen1_jax.commands.restarts import check_restarts, is_restarted
from gen1_jax.errors import (
    EXIT_BAD_INPUT,
    EXIT_TRY_AGAIN,
    StoreFailed,
    UserError,
    exit_code,
    one_line,
)
from gen1_jax.machine import check_platforms, platform_trouble, quieten_plugins

# Subcommand → module in gen1_jax.commands with HELP, add_arguments(parser) and run(args).
COMMANDS = {
    "edit": "edit",
    "train": "train",
    "customize": "customize",
    "all": "all",
    "world": "world",
    "ingest": "ingest",
    "inspect": "inspect_data",  # Python has a module `inspect`
    "precompute": "precompute",
    "prompts": "make_prompts",  # prompts.py holds options of `evaluate`
    "evaluate": "evaluate",
    "report": "report",
    "study": "study",
    "detect": "detect",
    "reproduce": "reproduce",
    "import": "import_models",  # `import` is a keyword
    "export": "export_pipeline",
    "compile": "compile_step",  # `compile` is a builtin
    "plan": "plan",
    "config": "config",
    "doctor": "doctor",
    "completion": "completion",
}
# These compute nothing, so a platform that jax cannot use is no reason to refuse them.
WITHOUT_DEVICES = (
    "world",
    "ingest",
    "inspect",
    "prompts",
    "report",
    "study",
    "detect",
    "config",
    "plan",
    "doctor",
    "completion",
)
EXIT_STOPPED = 130
# What argparse calls a type → what a user calls it.
_KINDS = {int: "a whole number", float: "a number"}


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments as a UserError, with the nearest right word.

    Abbreviated flags are refused and guessed at. If they were taken, a flag that is added later
    could give an old command another meaning.

    Attributes:
      prepare: is given the words before they are parsed, and may set defaults by them.
    """

    prepare: Callable[[Sequence[str]], None] | None = None

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        self._check_flags(args)
        if self.prepare:
            self.prepare(args)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UserError(
                f"not understood: {' '.join(rest)}; a text of several words stands in quotes; "
                f"see {self.prog} {getattr(found, 'command', None) or ''} --help"
            )
        return found

    def error(self, message: str):
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def _check_flags(self, words: Iterable[str]) -> None:
        """Refuses unknown flags, before argparse misses the required flag that one was meant for.

        A flag that takes several values is refused a second time, because argparse would drop the
        first values.
        """
        flags = {flag: action for action in self._actions for flag in action.option_strings}
        has_commands = any(isinstance(a, argparse._SubParsersAction) for a in self._actions)
        seen = set()
        for word in words:
            if word == "--" or (has_commands and not word.startswith("-")):
                return  # the rest are no flags, or those of a subcommand
            flag = word.partition("=")[0]
            if not flag.startswith("-") or flag == "-" or " " in flag or _is_number(word):
                continue
            action = flags.get(flag) or (None if flag[1] == "-" else flags.get(flag[:2]))
            if action is None:
                long_flags = [other for other in flags if other.startswith("--")]
                guess = _guess(f"--{flag.lstrip('-')}", long_flags) or f"; see {self.prog} --help"
                raise UserError(f"{self.prog} has no flag {flag}{guess}")
            if action.nargs == argparse.REMAINDER:
                return
            if isinstance(action, argparse._StoreAction) and action.nargs == "+" and action in seen:
                raise UserError(f"{flag} is given twice; accepted: all its values after one {flag}")
            seen.add(action)

    def _get_value(self, action, arg_string):
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, UserError):
                raise error.__context__ from None
            if action.type not in _KINDS:
                raise
            kind = _KINDS[action.type]
            raise UserError(f"{_name(action)} {arg_string}: {kind} is accepted") from None

    def _check_value(self, action, value):
        if action.choices is None or value in action.choices:
            return
        guess = _guess(str(value), map(str, action.choices))
        accepted = f"accepted: {', '.join(map(str, action.choices))}"
        is_command = isinstance(action, argparse._SubParsersAction)
        what = f"{self.prog} has no command {value!r}" if is_command else f"{_name(action)} {value}"
        raise UserError(f"{what}{guess or ';'} {accepted}")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line; `args.module` is the command's module."""
    parser = _Parser(
        prog="gen1",
        description="Edit videos, and train the model that does: Gen-1 in JAX.",
        epilog="`gen1 COMMAND --help` explains a command. `gen1 doctor` is for bug reports.",
    )
    parser.add_argument("--version", action="version", version=f"gen1-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"gen1_jax.commands.{module_name}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(module=module)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code."""
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold bytes that are no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    _silence_false_alarms()
    parser = make_parser()
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return EXIT_BAD_INPUT
        _refuse_addresses(args)
        check_restarts(args)
        if args.command not in WITHOUT_DEVICES:
            check_platforms()
            quieten_plugins()
        args.module.run(args)
    except UserError as error:
        return _refuse(str(error), exit_code(error))
    except StoreFailed as error:
        return _refuse(f"{error.filename}: {one_line(error)}", exit_code(error))
    except KeyboardInterrupt as stopped:
        print(f"gen1: {str(stopped) or 'stopped'}", file=sys.stderr)
        return getattr(stopped, "exit_code", EXIT_STOPPED)
    except BrokenPipeError:  # the reader of our output has ended, as in `gen1 … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        trouble = platform_trouble(error)
        if trouble is None:
            raise
        # The process before this one may still hold the chips.
        return _refuse(trouble, EXIT_TRY_AGAIN if is_restarted() else EXIT_BAD_INPUT)
    return 0


def _refuse(text: str, code: int) -> int:
    print(f"gen1: {' '.join(text.split())}", file=sys.stderr)
    return code


def _refuse_addresses(args: argparse.Namespace) -> None:
    """Refuses an address where a command takes a path, which would have one slash for two.

    Raises:
      UserError: there is one.
    """
    for name, value in vars(args).items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Path) and re.match(r"[a-z][a-z0-9+.-]+:/", str(each)):
                address = str(each).replace(":/", "://", 1)
                raise UserError(
                    f"{name} {address} is an address; `gen1 {args.command}` takes a path of this "
                    "machine here, such as that of a mounted bucket. The work folders of "
                    "`gen1 train`, `precompute` and `all`, and the model of `gen1 edit`, may be "
                    "gs:// or s3://"
                )


def _guess(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the known word nearest to a mistyped one, or ""."""
    known = list(known)
    begun = [other for other in known if word.strip("-") and other.startswith(word)]
    found = begun or difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _name(action: argparse.Action) -> str:
    """Returns what a user calls an argument: its long flag, or its name in the help."""
    return max(action.option_strings, key=len, default=str(action.metavar or action.dest))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _silence_false_alarms() -> None:
    """Has XLA log nothing below a fatal error, where it else raises false alarms.

    jaxlib up to 0.10.1 logs "could lead to execution errors such as SIGILL" for each CPU program
    that it takes from disk (jax#38445). The programs run correctly. Call it before jax is imported.
    """
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return
    accelerated = importlib.util.find_spec("jax_plugins") or importlib.util.find_spec("libtpu")
    if version in ("0.10.0", "0.10.1") and not accelerated:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Prints a UserWarning as one line; other warnings are for developers and are not shown."""
    if issubclass(category, UserWarning):
        print(f"gen1: note: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
