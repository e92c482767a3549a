"""Every command that the documentation prints is parsed by the real parser; marked ones are run.

A command stands in a code block (fenced without a language, or indented) or in a code span. Besides
real values it may hold:

- a word in capitals (VIDEO, RUN, N), which stands for a value of the user's: a text, a number or
  one of the choices, as the flag takes it;
- `[…]` around words that may be left out, which are checked as if they were given;
- `…` for whatever is left out: then the command and the flags must exist. A code span of a command
  and flags alone, such as `gen1 compile --json`, is checked in the same way.

`--config NAME:PART` and `--set KEY=VALUE` must exist unless they are in capitals.

A page activates the environment before its first command. A block after the comment
`<!-- runs -->`, which no reader sees, is run. The blocks of a page run in one folder, where
`runs/demo` holds the models of tests/micro.py.
"""

import argparse
import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from command_line import gen1

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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_a_printed_command_parses(monkeypatch, tmp_path, command):
    page = ROOT / command.place.rpartition(":")[0]
    monkeypatch.chdir(ROOT)
    own = re.search(r"config (\w+\.py)", command.text)
    if own and page.suffix == ".md":  # a file of the reader's own, which the page holds
        blocks = ("\n".join(block.lines) for block in blocks_of(page.read_text()))
        source = next(block for block in blocks if "def get_config" in block)
        (tmp_path / own[1]).write_text(source)
        monkeypatch.chdir(tmp_path)
    check(command)


@pytest.mark.parametrize(
    "text",
    [
        "gen1 edit VIDEO --promt TEXT",
        "gen1 tran",
        "gen1 edit … --promt TEXT",
        "gen1 train --config tiny:vidoe --workdir RUN",
        "gen1 train --config tiny:video --workdir RUN --set num_step=3",
        "gen1 all --config tiny --workdir RUN --parts vidoe",
        "gen1 all --config tiny --workdir RUN --set video.num_step=3",
        "gen1 config tiny:vidoe",
        "gen1 edit VIDEO --prompt TEXT --steps many",
        "gen1 doctor && gen1 edit VIDEO",
        "python benchmarks/nothing.py",
        "python benchmarks/parity.py --onlyy unet",
        "python launch/local.py --processes 2 -- gen1 tran",
        "make dmo",
        "make install EXTRAS=gpus",
        'pip install -e ".[gpus]"',
    ],
)
def test_a_wrong_command_would_be_found(monkeypatch, text):
    monkeypatch.chdir(ROOT)
    with pytest.raises((ValueError, AssertionError, OSError)):
        check(Command("", text))


def test_the_manifest_s_command_parses():
    text = (ROOT / "launch" / "gke_jobset.yaml").read_text()
    (group,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    (container,) = group["template"]["spec"]["template"]["spec"]["containers"]
    check(Command("", shlex.join(container["command"])))


def test_the_scripts_commands_parse():
    for name in ("slurm.sh", "tpu_vm.sh"):
        text = (ROOT / "launch" / name).read_text().replace("\\\n", " ")
        (line,) = re.findall(r'(?:"\$gen1"|%q) (train [^|;]*)', text)
        words = re.sub(r'"[^"]*"|%q', "N", line).replace("'", "").split()
        make_lenient_parser().parse_args(words)


# ---- pages


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_activates_the_environment_before_its_commands(path):
    text = path.read_text()
    other_ways = re.findall(r"(?<![\w/])\.venv/bin/(?!activate)\w+", text)
    assert not other_ways, "one way throughout: activate once"
    lines = text.splitlines()
    for block in blocks_of(text):
        commands = [c.text for c in commands_in(block, "") if not c.text.startswith("make")]
        if not block.language and commands:
            before = [*lines[: block.number - 1], *block.lines[: len(block.lines) - len(commands)]]
            assert any(ACTIVATE in line for line in before), f"before {commands[0]}"
            return


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors_of(other), f"{path.name}: {target}"


def test_the_readme_is_short_and_names_every_command():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 125
    missing = [name for name in cli.COMMANDS if f"gen1 {name}" not in text]
    assert not missing, f"commands that the README does not name: {missing}"
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    unnamed = {name for name in pages if f"docs/{name}" not in text}
    linked = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert not {name for name in unnamed if f"({name})" not in linked}, "pages nobody links to"


# ---- troubleshooting


def texts_in_the_code() -> str:
    """Returns all texts of the code, one a line; `…` stands for the values in f-strings."""
    texts = []
    for folder in ("gen1_jax", "data_pipelines", "configs"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                    texts.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


# Messages of the shell, of Python and of jax, which troubleshooting.md explains too.
OF_OTHERS = (
    "gen1: command not found",
    "No module named 'jax'",
    "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed",
)


def test_troubleshooting_quotes_messages_that_exist():
    """A message stands in the first column of a table, with `…` for what differs."""
    code, page = texts_in_the_code(), (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)`", page, flags=re.M)
    assert len(quoted) > 20
    pieces = {piece.strip() for text in quoted for piece in text.split("…") if len(piece) > 3}
    gone = sorted(piece for piece in pieces - set(OF_OTHERS) if piece not in code)
    assert not gone, f"the code says nothing like: {gone}"


# ---- Python


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{path.name}:{block.number}", "\n".join(block.lines))
        for path in PAGES
        for block in blocks_of(path.read_text())
        if block.language == "python"
    ]


@pytest.mark.parametrize(("place", "source"), python_blocks())
def test_python_on_a_page_imports_what_there_is(place, source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("gen1_jax"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


# ---- running


RUNNABLE = {path: [block for block in blocks_of(path.read_text()) if block.runs] for path in PAGES}


@pytest.mark.parametrize(
    "path", [path for path, blocks in RUNNABLE.items() if blocks], ids=lambda path: path.name
)
def test_marked_blocks_run(capsys, monkeypatch, tmp_path, micro_run, pipeline, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(micro_run)
    for block in RUNNABLE[path]:
        if block.language == "python":
            exec(compile("\n".join(block.lines), path.name, "exec"), {})
            continue
        for command in commands_in(block, path.name):
            if command.words[0] == "gen1":
                code, _, err = gen1(capsys, *command.words[1:])
                assert code == 0, f"{command.place}: {command.text}: {err}"


def test_benchmarks_and_launchers_say_what_is_missing(tmp_path):
    """They are started by a Python that has none of the project's packages."""
    python = [sys.executable, "-S", "-E"]
    for script in ("benchmarks/train_step.py", "benchmarks/parity.py"):
        done = subprocess.run(
            [*python, ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "make install-dev" in done.stderr and ACTIVATE in done.stderr
    assert shutil.which("gen1", path=str(tmp_path)) is None
    done = subprocess.run(
        [*python, ROOT / "launch" / "local.py", "--processes", "1", "--", "gen1", "--version"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and ACTIVATE in done.stderr
