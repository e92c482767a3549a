"""The commands that the documentation prints, and what each of them must be.

A command stands in a code block (fenced without a language, or indented) or in a code span. Besides
real values it may hold:

- a word in capitals (VIDEO, RUN, N), which stands for a value of the user's: a text, a number or
  one of the choices, as the flag takes it;
- `[…]` around words that may be left out, which are checked as if they were given;
- `…` for whatever is left out: then the command and the flags must exist. A code span of a command
  and flags alone, such as `gen1 compile --json`, is checked in the same way.

`--config NAME:PART` and `--set KEY=VALUE` must exist unless they are in capitals.
"""

import argparse
import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from gen1_jax import cli
from gen1_jax.commands.all import sort_overrides
from gen1_jax.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "launch/README.md",
        *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    )
]
MODULES = [
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "gen1_jax" / "commands").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    ROOT / "launch" / "local.py",
    ROOT / "tests" / "micro.py",
]
ACTIVATE = ". .venv/bin/activate"
PROGRAMS = ("gen1", "python", "make", "pip")
ABBREVIATED = "…"
CAPITALS = re.compile(r"[A-Z][A-Z0-9_]*(\.\w+)?")


class Command(NamedTuple):
    """A printed command, and the file and line that print it."""

    place: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text.replace("[", " ").replace("]", " "), comments=True)


class Block(NamedTuple):
    """A code block of a page: its language, lines, first line's number, and whether it is run."""

    language: str
    lines: list[str]
    number: int
    runs: bool


# ---- reading pages


def blocks_of(text: str) -> list[Block]:
    """Returns the code blocks of Markdown, fenced and indented."""
    blocks, lines = [], text.splitlines()
    fence, before = None, ""
    for number, line in enumerate(lines, 1):
        if match := re.match(r"\s*```(\w*)", line):
            if fence is None:
                fence = Block(match[1], [], number + 1, before == "<!-- runs -->")
            else:
                blocks.append(fence)
                fence = None
        elif fence is not None:
            fence.lines.append(line)
        elif line.startswith("    ") and line.strip():
            if not before.startswith("    "):
                blocks.append(Block("", [], number, False))
            if blocks:
                blocks[-1].lines.append(line[4:])
        before = line if line.startswith("    ") else line.strip()
    return blocks


def commands_in(block: Block, file: str) -> list[Command]:
    """Returns the commands of a block; a backslash at the end joins a line and the next."""
    commands, text = [], ""
    for number, line in enumerate(block.lines, block.number):
        text += line.strip().removeprefix("$ ").removesuffix("\\")
        if not line.rstrip().endswith("\\"):
            commands.append(Command(f"{file}:{number}", text))
            text = ""
    return [command for command in commands if command.text.split(" ")[0] in PROGRAMS]


def spans_in(text: str, file: str) -> list[Command]:
    """Returns the commands among the code spans of Markdown or of a docstring."""
    found = []
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        number = text.count("\n", 0, match.start()) + 1
        words = " ".join(match[1].split())
        if words.split(" ")[0] in PROGRAMS and " " in words:
            found.append(Command(f"{file}:{number}", words))
    return found


def printed_commands() -> list[Command]:
    found = []
    for path in (*PAGES, *MODULES):
        text, name = path.read_text(), str(path.relative_to(ROOT))
        if path.suffix == ".py":
            text = ast.get_docstring(ast.parse(text)) or ""
        for block in blocks_of(text):
            found += [] if block.language else commands_in(block, name)
        prose = re.sub(r"```.*?```", lambda match: "\n" * match[0].count("\n"), text, flags=re.S)
        found += spans_in(prose, name)
    return found


COMMANDS = printed_commands()


# ---- checking a command


def make_lenient_parser() -> argparse.ArgumentParser:
    """Returns the real parser, which takes a word in capitals for a number or a choice too."""

    def lenient(action):
        kind, choices = action.type or str, action.choices
        stand_in = next(iter(choices)) if choices else kind("2")
        return lambda text: stand_in if CAPITALS.fullmatch(text) else kind(text)

    def change(parser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for subparser in set(action.choices.values()):
                    change(subparser)
            elif action.type in (int, float) or action.choices:
                action.type = lenient(action)

    parser = cli.make_parser()
    change(parser)
    return parser


def check_gen1(words: list[str]) -> None:
    """Parses `gen1 …`, and loads the config that it names."""
    if len(words) == 1:
        assert words[0] in cli.COMMANDS or words[0] in ("COMMAND", "--help", "--version"), words
        return
    if ABBREVIATED in " ".join(words) or all(is_name(word) for word in words):
        check_flags(words)
        return
    with mock.patch("gen1_jax.editing.record.read_record", return_value={"flags": {}}):
        args = make_lenient_parser().parse_args(words)
    config = getattr(args, "config", None)
    if config:
        check_config(args, config)


def is_name(word: str) -> bool:
    """Returns whether a word is the name of a command or of a flag, and no value."""
    return word in (*cli.COMMANDS, "COMMAND", "clips", "images") or word.startswith("-")


def check_flags(words: list[str]) -> None:
    """Checks the command and the flags of an abbreviated line."""
    parser = cli.make_parser()
    words = ["edit" if word == "COMMAND" else word for word in words]
    for word in words:
        commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if commands and word in commands[0].choices:
            parser = commands[0].choices[word]
    assert parser.prog != "gen1", f"no command in {words}"
    known = {flag for action in parser._actions for flag in action.option_strings}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in known, f"{parser.prog} has no flag {word}"


def check_config(args, spec: str) -> None:
    name, _, part = spec.partition(":")
    if CAPITALS.fullmatch(name):
        return
    overrides = [text for text in getattr(args, "set", None) or () if not CAPITALS.match(text)]
    encodes = args.command == "precompute" or getattr(args, "what", "") == "encode"
    spec = name if CAPITALS.fullmatch(part) else spec
    if args.command != "all":
        load_config(spec, overrides, default_part="encoded" if encodes else "all")
        return
    parts = load_config(spec).parts
    for other in args.parts or ():
        assert other in parts or CAPITALS.fullmatch(other), f"no part {other} in {name}"
    for part, changes in sort_overrides(overrides, parts).items():
        load_config(f"{name}:{part}", changes)


def check_python(words: list[str]) -> None:
    """Checks that a script and its flags are there; a command after `--` is checked itself."""
    if words[0] == "-m":
        return
    own, _, rest = " ".join(words).partition(" -- ")
    script, *arguments = own.split()
    source = (ROOT / script).read_text() + (ROOT / "benchmarks" / "common.py").read_text()
    for flag in arguments:
        if flag.startswith("--"):
            assert f'"{flag}"' in source, f"{script} has no flag {flag}"
    if rest:
        check(Command("", rest))


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "EXTRAS" and not CAPITALS.fullmatch(value):
            assert set(value.split(",")) <= extras(), f"no such extra: {value}"
        assert equals or name in targets, f"no target {name} in the Makefile"


def check_pip(words: list[str]) -> None:
    for word in words:
        if match := re.fullmatch(r"\.\[(.+)\]", word):
            assert set(match[1].split(",")) <= extras(), f"no such extra: {match[1]}"


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def check(command: Command) -> None:
    checks = {"gen1": check_gen1, "python": check_python, "make": check_make, "pip": check_pip}
    # `gen1 … && gen1 …`, `gen1 … | head` and `gen1 … > FILE` hold commands with plain ends.
    for text in re.split(r"\s*(?:&&|\|)\s*", command.text):
        is_pip = text.startswith("pip")  # where brackets name an extra
        words = shlex.split(text, comments=True) if is_pip else Command("", text).words
        words = words[: words.index(">")] if ">" in words else words
        if words and words[0] in checks and len(words) > 1:
            checks[words[0]](words[1:])
