"""The shape of the project: imports point downward, the command line starts light, files are clean.

A module's floor is where it stands in the design: it may import lower floors, and its own floor
where no circle comes of it. Every new module must be given a floor here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gen1_jax", "data_pipelines", "configs")
TOP = 5

# A package's name stands for every module in it.
FLOORS = {
    # pure functions, and leaves that only read or write
    "gen1_jax.attention_kernel": 0,
    "gen1_jax.errors": 0,
    "gen1_jax.files": 0,
    "gen1_jax.flops": 0,
    "gen1_jax.hardware": 0,
    "gen1_jax.hlo": 0,
    "gen1_jax.batch": 0,
    "gen1_jax.diffusion": 0,
    "gen1_jax.prior_diffusion": 0,
    "gen1_jax.structure": 0,
    "gen1_jax.tokenizer": 0,
    "gen1_jax.video_io": 0,
    "gen1_jax.video_pixels": 0,
    "gen1_jax.video_sources": 0,  # the lower half of video_io
    "gen1_jax.pictures": 0,
    # what is made of them, over any `denoise` callable
    "gen1_jax.guidance": 1,
    "gen1_jax.sampler": 1,
    # networks
    "gen1_jax.models": 2,
    # networks put to use: their weights, devices, files
    "gen1_jax.weights": 3,
    "gen1_jax.conditioning": 3,
    "gen1_jax.parallel": 3,
    "gen1_jax.telemetry": 3,
    "gen1_jax.checkpoint": 3,
    # what the software does
    "gen1_jax.objectives": 4,
    "gen1_jax.train_step": 4,
    "gen1_jax.training": 4,
    "gen1_jax.ahead_of_time": 4,
    "gen1_jax.programs": 4,
    "gen1_jax.editing": 4,
    "gen1_jax.exporting": 4,
    "gen1_jax.importing": 4,
    "gen1_jax.evaluation": 4,
    # the command line, which alone puts training, data and configs together
    "gen1_jax.cli": TOP,
    "gen1_jax.commands": TOP,
}
FOR_DATA_PIPELINES = {
    "gen1_jax.batch",
    "gen1_jax.errors",
    "gen1_jax.files",
    "gen1_jax.video_io",
    "gen1_jax.video_pixels",
    "gen1_jax.video_sources",
}
# Slow to import, or not there without an extra.
HEAVY = ("torch", "tensorflow", "apache_beam", "transformers", "matplotlib", "diffusers")


def find_modules() -> dict[str, Path]:
    """The project's modules by dotted name; a package goes by the name of its folder."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = find_modules()


def is_for_types_only(node: ast.AST) -> bool:
    """Whether the node is `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def import_nodes(node: ast.AST, inside_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif is_for_types_only(child):
            for other in child.orelse:
                yield from import_nodes(ast.Module([other], []), inside_functions)
        elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from import_nodes(child, inside_functions)


def imported(
    source: str, module: str, is_package: bool, modules: dict[str, Path], inside_functions=True
) -> set[str]:
    """Names of the project's modules that a module's source imports, wherever in the file."""
    names = set()
    for node in import_nodes(ast.parse(source), inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        origin = node.module or ""
        if node.level:
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package]
            origin = ".".join([*base, *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            names.add(inner if inner in modules else origin)
    return {name for name in names if name.split(".")[0] in PACKAGES} - {module}


def imports_of(module: str, inside_functions: bool = True) -> set[str]:
    path = MODULES[module]
    is_package = path.name == "__init__.py"
    return imported(path.read_text(), module, is_package, MODULES, inside_functions)


def floor_of(module: str) -> int | None:
    """The module's floor, or the floor of the nearest package above that has one."""
    while module not in FLOORS and "." in module:
        module = module.rpartition(".")[0]
    return FLOORS.get(module)


GEN1_MODULES = [name for name in MODULES if name.startswith("gen1_jax.")]


def test_every_module_has_a_floor():
    unplaced = [name for name in GEN1_MODULES if floor_of(name) is None]
    assert not unplaced, f"give these a floor in {Path(__file__).name}: {unplaced}"


def test_imports_point_downward():
    wrong = []
    for module in GEN1_MODULES:
        for other in imports_of(module) - {"gen1_jax"}:
            own = floor_of(module)
            floor = floor_of(other) if other.startswith("gen1_jax.") else TOP
            # What has no floor is named by the test above.
            if None not in (own, floor) and floor > own:
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    graph = {name: imports_of(name) & MODULES.keys() for name in MODULES if name != "gen1_jax"}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_no_model_imports_another():
    # Layers and the reading of config.json are no models; they import none, and not each other.
    leaves = {"gen1_jax.models.layers", "gen1_jax.models.config"}
    wrong = []
    for module in GEN1_MODULES:
        if module.startswith("gen1_jax.models."):
            allowed = leaves if module not in leaves else set()
            others = {name for name in imports_of(module) if name.startswith("gen1_jax.models")}
            wrong += [f"{module} imports {other}" for other in others - allowed]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing_of_the_project():
    # It runs before every other module, so whatever it imports stands below the lowest floor.
    # Names offered lazily, from inside `__getattr__`, are fine.
    assert imports_of("gen1_jax", inside_functions=False) == set()


def test_data_pipelines_stand_apart():
    wrong = []
    for module in MODULES:
        if module.split(".")[0] == "data_pipelines":
            others = {name for name in imports_of(module) if not name.startswith("data_pipelines")}
            wrong += [f"{module} imports {other}" for other in others - FOR_DATA_PIPELINES]
    assert not wrong, "\n".join(wrong)


def test_configs_import_no_code():
    wrong = []
    for module in MODULES:
        if module.split(".")[0] == "configs":
            others = {name for name in imports_of(module) if not name.startswith("configs")}
            wrong += [f"{module} imports {other}" for other in others - {"gen1_jax.errors"}]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import a.b.c", {"a.b.c"}),
        ("from a import b", {"a.b"}),
        ("from a.b import c, value", {"a.b.c", "a.b"}),
        ("from . import c", {"a.b.c"}),
        ("from .c import value", {"a.b.c"}),
        ("from .. import b", {"a.b"}),
        ("def f():\n    from a.b import c", {"a.b.c"}),
        ("if TYPE_CHECKING:\n    import a.b\nelse:\n    import a.b.c", {"a.b.c"}),
        ("import os", set()),
    ],
)
def test_imports_are_read_in_every_form(monkeypatch, source, expected):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGES", ("a",))
    modules = dict.fromkeys(("a", "a.b", "a.b.c", "a.b.d"), ROOT)
    assert imported(source, "a.b.d", False, modules) == expected


@pytest.mark.parametrize("module", ["gen1_jax", "gen1_jax.cli"])
def test_importing_stays_light(module):
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def project_files() -> list[Path]:
    """What git tracks or would add; in an unpacked archive, everything but hidden folders."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in names.split("\0") if name]
    else:
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
            and path.relative_to(ROOT).parts[0] not in ("runs", "data", "build", "dist", "shared")
        ]
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_place_of_one_machine():
    # Somebody's home, or a mount that only one machine has; `/home/$USER` names nobody.
    place = re.compile(rb"(?<![\w.~}\-])(?:/(?:home/\w|root\b|Users/\w|work/\w)|\w:\\Users)")
    found = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" in content[:8192] or path == Path(__file__).resolve():
            continue
        for number, line in enumerate(content.splitlines(), 1):
            if place.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]!r}")
    assert not found, "\n".join(found)


def read_lock(name: str) -> set[str]:
    return set((ROOT / name).read_text().split("\n")) - {""}


def test_locks_pin_versions_and_nothing_else():
    # No addresses, options or local build tags: each machine has its own source of packages.
    # A marker chooses by the version of Python alone.
    marker = r" ; python_full_version (<|>=) '3\.\d+'"
    pin = re.compile(rf"[a-z0-9][a-z0-9.\-]*==[0-9][a-z0-9.]*({marker})?")
    core, everything = read_lock("requirements.lock"), read_lock("requirements-test.lock")
    assert [line for line in core | everything if not pin.fullmatch(line)] == []
    assert core - everything == set(), "the test lock must hold the core lock's pins"
    names = {line.split("==")[0] for line in everything}
    assert not {name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))}
    names = {line.split("==")[0] for line in core}
    assert not names & {"torch", "tensorflow", "diffusers", "apache-beam"}
