"""The shape of the project: imports point downward, the command line starts light, files are clean.

A module's floor is where it stands in the design: it may import lower floors, and its own floor
where no circle comes of it. Every new module must be given a floor here.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folder → the name it is imported by; see [tool.setuptools.package-dir] in pyproject.toml.
PACKAGES = {
    "gen1_jax": "gen1_jax",
    "data_pipelines": "gen1_jax.data_pipelines",
    "configs": "gen1_jax.configs",
}
DATA, CONFIGS = PACKAGES["data_pipelines"], PACKAGES["configs"]
TOP = 6

# A package's name stands for every module in it.
FLOORS = {
    # leaves that only read or write
    "gen1_jax.errors": 0,
    "gen1_jax.files": 0,
    "gen1_jax.stores": 0,
    "gen1_jax.flops": 0,
    "gen1_jax.hardware": 0,
    "gen1_jax.machine": 0,
    "gen1_jax.programs": 0,
    "gen1_jax.interpolation": 0,
    "gen1_jax.joining": 0,
    "gen1_jax.batch": 0,
    "gen1_jax.config": 0,
    "gen1_jax.distributed": 0,
    "gen1_jax.runtime": 0,
    "gen1_jax.kinds": 0,
    "gen1_jax.randomness": 0,
    "gen1_jax.settings": 0,
    "gen1_jax.structure_settings": 0,
    "gen1_jax.text": 0,
    "gen1_jax.tokenizer": 0,
    "gen1_jax.aot.hlo": 0,
    "gen1_jax.aot.hlo_text": 0,
    "gen1_jax.video": 0,
    # the paper's equations: pure functions, over any `denoise` callable
    "gen1_jax.diffusion": 1,
    "gen1_jax.controls": 1,
    # networks
    "gen1_jax.models": 2,
    # networks put to use: their weights and files
    "gen1_jax.weights": 3,
    "gen1_jax.pipeline": 3,
    "gen1_jax.conditioning": 3,
    # what the software does
    "gen1_jax.weights.exporting": 4,
    "gen1_jax.weights.importing": 4,
    "gen1_jax.training": 4,
    "gen1_jax.aot": 4,
    "gen1_jax.editing": 4,
    # what brings training, evaluation and data together
    "gen1_jax.evaluation": 5,
    "gen1_jax.customizing": 5,
    "gen1_jax.explain": 5,
    "gen1_jax.made_from": 5,
    "gen1_jax.precompute": 5,
    "gen1_jax.resolve": 5,
    "gen1_jax.training_checks": 5,
    "gen1_jax.trained_on": 5,
    "gen1_jax.workflow": 5,
    # the command line, which parses and prints
    "gen1_jax.__main__": TOP,
    "gen1_jax.cli": TOP,
    "gen1_jax.commands": TOP,
}
# These may import data_pipelines; the rest of gen1_jax takes iterators of batches.
KNOW_THE_DATA = (
    "gen1_jax.config",  # the settings of each form of data
    "gen1_jax.customizing",
    "gen1_jax.explain",
    "gen1_jax.made_from",
    "gen1_jax.evaluation",
    "gen1_jax.precompute",
    "gen1_jax.resolve",
    "gen1_jax.trained_on",
    "gen1_jax.workflow",
    "gen1_jax.commands",
)
# What data_pipelines may import of the rest.
FOR_DATA_PIPELINES = (
    "gen1_jax.batch",
    "gen1_jax.errors",
    "gen1_jax.files",
    "gen1_jax.kinds",
    "gen1_jax.settings",
    "gen1_jax.structure_settings",
    "gen1_jax.text",
    "gen1_jax.tokenizer",
    "gen1_jax.video",
)
# What configs may import of the rest.
FOR_CONFIGS = {"gen1_jax.errors", "gen1_jax.settings", "gen1_jax.structure_settings"}
# Slow to import, or not there without an extra.
HEAVY = ("torch", "tensorflow", "apache_beam", "transformers", "matplotlib", "diffusers")


def find_modules() -> dict[str, Path]:
    """The project's modules by dotted name; a package goes by the name of its folder."""
    modules = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (package, *path.relative_to(ROOT / folder).with_suffix("").parts)
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def is_in(module: str, packages: str | tuple[str, ...]) -> bool:
    """Whether a module is one of these, or inside one of these."""
    packages = (packages,) if isinstance(packages, str) else packages
    return any(module == package or module.startswith(f"{package}.") for package in packages)


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
    return {name for name in names if is_in(name, tuple(PACKAGES.values()))} - {module}


def imports_of(module: str, inside_functions: bool = True) -> set[str]:
    path = MODULES[module]
    is_package = path.name == "__init__.py"
    return imported(path.read_text(), module, is_package, MODULES, inside_functions)


def floor_of(module: str) -> int | None:
    """The module's floor, or the floor of the nearest package above that has one."""
    while module not in FLOORS and "." in module:
        module = module.rpartition(".")[0]
    return FLOORS.get(module)


GEN1_MODULES = [
    name for name in MODULES if name.startswith("gen1_jax.") and not is_in(name, (DATA, CONFIGS))
]


def test_every_module_has_a_floor():
    unplaced = [name for name in GEN1_MODULES if floor_of(name) is None]
    assert not unplaced, f"give these a floor in {Path(__file__).name}: {unplaced}"


def test_imports_point_downward():
    wrong = []
    for module in GEN1_MODULES:
        for other in imports_of(module) - {"gen1_jax"}:
            if is_in(other, DATA):
                good = is_in(module, KNOW_THE_DATA)
            elif is_in(other, CONFIGS):
                good = module in ("gen1_jax.config", "gen1_jax.explain")  # which list them
            else:
                own, floor = floor_of(module), floor_of(other)
                good = None in (own, floor) or floor <= own  # the test above names what has none
            if not good:
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    graph = {name: imports_of(name) & MODULES.keys() for name in MODULES if name != "gen1_jax"}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_no_model_imports_another():
    models = {f"gen1_jax.models.{name}" for name in ("autoencoder", "clip", "dpt", "prior", "unet")}
    shared = {
        f"gen1_jax.models.{name}"
        for name in (
            "attention",
            "attention_tpu",
            "config",
            "layers",
            "preprocess",
            "remat",
            "temporal",
            "transformer",
        )
    }
    files = {name for name in GEN1_MODULES if name.startswith("gen1_jax.models.")}
    assert files == models | shared, "a new file is a model, or is shared by models"
    wrong = [f"{module} imports {x}" for module in files for x in imports_of(module) & models]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing_of_the_project():
    # It runs before every other module, so whatever it imports stands below the lowest floor.
    # Names offered lazily, from inside `__getattr__`, are fine.
    assert imports_of("gen1_jax", inside_functions=False) == set()


def test_data_pipelines_stand_apart():
    wrong = []
    for module in MODULES:
        if is_in(module, DATA):
            others = {name for name in imports_of(module) if not is_in(name, DATA)}
            wrong += [f"{module} imports {x}" for x in others if not is_in(x, FOR_DATA_PIPELINES)]
    assert not wrong, "\n".join(wrong)


def test_configs_import_no_code():
    wrong = []
    for module in MODULES:
        if is_in(module, CONFIGS):
            others = {name for name in imports_of(module) if not is_in(name, CONFIGS)}
            wrong += [f"{module} imports {other}" for other in others - FOR_CONFIGS]
    assert not wrong, "\n".join(wrong)


def test_top_level_folders_go_by_our_name():
    # `import configs` works from a clone's root alone, and as a second copy of the module.
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).parts[0] not in (*PACKAGES, "tests", "benchmarks", "launch"):
            continue
        for node in import_nodes(ast.parse(path.read_text()), True):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] in ("configs", "data_pipelines") for name in names):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_files_of_tests_have_names_of_their_own():
    # pytest imports each by its name alone, and cannot collect a second one of a name.
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(settings["packages"]) == packages
    assert settings["package-dir"] == {name: folder for folder, name in PACKAGES.items()}


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
    monkeypatch.setattr(sys.modules[__name__], "PACKAGES", {"a": "a"})
    modules = dict.fromkeys(("a", "a.b", "a.b.c", "a.b.d"), ROOT)
    assert imported(source, "a.b.d", False, modules) == expected


@pytest.mark.parametrize("module", ["gen1_jax", "gen1_jax.cli", "gen1_jax.training.loop"])
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
