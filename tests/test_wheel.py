"""The wheel: it holds the whole package under our own name, and works away from the clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"gen1_jax": "gen1_jax"} | {
    folder: f"gen1_jax/{folder}" for folder in ("configs", "data_pipelines")
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources, because a build leaves files beside them.

    The build needs no network: torch has brought setuptools.
    """
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "-w", built, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_the_wheel_holds_every_source_and_no_name_but_ours(installed):
    dist_info, package = sorted(installed.iterdir(), key=lambda path: path.name == "gen1_jax")
    assert package.name == "gen1_jax" and dist_info.name.startswith("gen1_jax-")
    expected = {
        Path(target, path.relative_to(ROOT / folder))
        for folder, target in FOLDERS.items()
        for pattern in ("*.py", "*.yaml", "page.*")  # word lists, the page of a study
        for path in (ROOT / folder).rglob(pattern)
    }
    assert {path.relative_to(installed) for path in package.rglob("*.*")} == expected
    assert "gen1 = gen1_jax.cli:main" in (dist_info / "entry_points.txt").read_text()


def test_it_works_from_another_folder(installed, tmp_path):
    """Help, a config by name, and a config file of one's own that builds on ours."""
    (tmp_path / "mine.py").write_text(
        "from gen1_jax.configs import base\n"
        "def get_config(part):\n"
        "    return base.choose({'one': lambda: base.training('one', 'depth', seed=5)}, part)\n"
    )
    code = (
        "import gen1_jax\n"
        "from gen1_jax.cli import main\n"
        "from gen1_jax.config import load_config\n"
        "print(gen1_jax.__file__)\n"
        "print(load_config('paper:blur').num_steps, load_config('mine.py:one').seed)\n"
        "main(['--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    place, values, *usage = done.stdout.splitlines()
    assert Path(place).is_relative_to(installed) and values == "10000 5"
    assert usage[0].startswith("usage: gen1")
