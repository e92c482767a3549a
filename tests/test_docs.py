"""Every command that the documentation prints is parsed by the real parser; marked ones are run.

tests/printed_commands.py says what a printed command may hold. A page activates the environment
before its first command. A block after the comment `<!-- runs -->`, which no reader sees, is run.
The blocks of a page run in one folder, where `runs/demo` holds the models of tests/micro.py.
"""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import gen1
from printed_commands import (
    ACTIVATE,
    COMMANDS,
    PAGES,
    ROOT,
    Command,
    blocks_of,
    check,
    commands_in,
    make_lenient_parser,
)

from gen1_jax import cli


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
        "gen1 doctor && gen1 edit VIDEO --prompt",
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
    """The command that a script's head shows, with the flags that the script adds to it."""
    for name in ("slurm.sh", "tpu_vm.sh"):
        text = (ROOT / "launch" / name).read_text()
        (shown,) = re.findall(r"^#.* gen1 (train --.*)$", text, flags=re.M)
        (added,) = re.findall(r'"\$\{@:2\}" (--processes .* --no-progress)', text)
        for command in ("train", "precompute"):
            words = f"{shown} {added}".replace("train", command, 1)
            make_lenient_parser().parse_args(re.sub(r'"[^"]*"', "N", words).split())


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


# Commands of the README's table that are fast enough to be run, in this order.
FAST = ("world", "inspect", "config", "export", "import", "doctor", "completion")


@pytest.fixture
def after_the_demo(monkeypatch, tmp_path, micro_run):
    """The folder of a reader who has run `make demo`, here with the models of tests/micro.py."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    for part in micro_run.iterdir():
        (tmp_path / "runs" / "demo" / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)


def run(capsys, command: Command) -> None:
    if command.words[0] == "gen1":
        code, _, err = gen1(capsys, *command.words[1:])
        assert code == 0, f"{command.place}: {command.text}: {err}"


RUNNABLE = [path for path in PAGES if any(block.runs for block in blocks_of(path.read_text()))]


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_marked_blocks_run(capsys, after_the_demo, quick, path):
    for block in blocks_of(path.read_text()):
        for command in commands_in(block, path.name) if block.runs else ():
            run(capsys, command)


def test_fast_commands_of_the_table_run(capsys, after_the_demo, quick):
    rows = [c for c in COMMANDS if c.place.startswith("README.md") and c.words[1] in FAST]
    rows = [command for command in rows if len(command.words) > 2 or command.words[1] == "doctor"]
    rows.sort(key=lambda command: FAST.index(command.words[1]))
    assert [command.words[1] for command in rows if command.words[1] != "world"] == [*FAST[1:]]
    for command in rows:
        run(capsys, command)


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
