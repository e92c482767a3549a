"""Checks the tests of the core: each of some fifty faults, put into a copy, must fail a test.

    python benchmarks/mutants.py                     # all of them
    python benchmarks/mutants.py --only diffusion    # those whose name holds a word

A mutant is one changed expression of the package. It survives if the tests that should fail pass.
The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mutants_of_model
import mutants_of_work
from mutants_of_model import Mutant

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gen1_jax", "configs", "data_pipelines")

MUTANTS = (*mutants_of_model.MUTANTS, *mutants_of_work.MUTANTS)


def find(mutant: Mutant, root: Path = ROOT) -> Path:
    """Returns the file that holds a mutant's text.

    Raises:
      ValueError: the text stands nowhere or more than once, so the mutant must be written anew.
    """
    # Not in what `gen1 export` writes beside a pipeline, PyTorch's side of the same equations.
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    files = [path for path in paths if "pytorch" not in path.parts]
    counts = {path: path.read_text(encoding="utf-8").count(mutant.old) for path in files}
    if sum(counts.values()) != 1:
        raise ValueError(f"{mutant.old!r} stands {sum(counts.values())} times, not once")
    return max(counts, key=counts.get)


def copy_tree(folder: Path) -> None:
    """Copies what tests need; links the packages beside gen1_jax/ to where they are imported."""
    for name in (*PACKAGES, "tests", "benchmarks", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("configs", "data_pipelines"):
        (folder / "gen1_jax" / name).symlink_to(folder / name)


def run_tests(folder: Path, tests: str, cache: Path) -> int:
    """Returns pytest's exit code for the copy in a folder."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(cache),  # compiled programs; a mutant changes few
        "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--no-header", "--tb=line", *tests.split()],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    return done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], help="words of the mutants' names")
    parser.add_argument(
        "--skip-check", action="store_true", help="do not first run the tests without a mutant"
    )
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if any(word in m.name for word in arguments.only)]
    start, outcomes = time.perf_counter(), {}
    with tempfile.TemporaryDirectory(prefix="gen1-mutants-") as root:
        folder, cache = Path(root, "copy"), Path(root, "cache")
        cache.mkdir()
        copy_tree(folder)
        if not arguments.skip_check:
            for tests in dict.fromkeys(m.tests for m in chosen):
                if run_tests(folder, tests, cache):
                    sys.exit(f"{tests} fails without a mutant")
        for mutant in chosen:
            path = find(mutant, folder)
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
            began = time.perf_counter()
            code = run_tests(folder, mutant.tests, cache)
            path.write_text(text, encoding="utf-8")
            outcomes[mutant.name] = {0: "survived", 1: "killed"}.get(code, f"error {code}")
            seconds = time.perf_counter() - began
            print(f"{outcomes[mutant.name]:9} {seconds:4.0f} s  {mutant.name}", flush=True)
    result = {
        "mutants": len(outcomes),
        "killed": sum(outcome == "killed" for outcome in outcomes.values()),
        "not_killed": [name for name, outcome in outcomes.items() if outcome != "killed"],
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
