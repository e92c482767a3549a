"""The benchmarks run seldom, so the suite checks that each starts and that two steps agree."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_unet import quick_jit

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
BENCHMARKS = [p.stem for p in sorted(FOLDER.glob("*.py")) if "__main__" in p.read_text()]
# One process for all benchmarks imports jax and torch once.
HELP = """
import contextlib, io, json, runpy, sys

found = {}
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            found[path] = end.code, output.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def help_texts() -> dict[str, tuple[int, str]]:
    """Name → the exit code and the output of `--help`."""
    paths = [FOLDER / f"{name}.py" for name in BENCHMARKS]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *paths],
        env=os.environ | {"PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {Path(path).stem: tuple(result) for path, result in found.items()}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_says_what_it_measures(help_texts, name):
    code, output = help_texts[name]
    assert code == 0 and output.startswith("usage: ") and "last line is one JSON" in output


def test_every_mutant_has_one_place_in_the_code(monkeypatch):
    """A mutant whose line was rewritten is to be written anew."""
    monkeypatch.syspath_prepend(FOLDER)
    from mutants import MUTANTS, find

    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
    for mutant in MUTANTS:
        assert find(mutant).is_file() and mutant.old != mutant.new
        assert all((FOLDER.parent / tests).is_file() for tests in mutant.tests.split())


def test_the_train_step_is_the_same_as_torch_s(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("benchmark_train_step", FOLDER / "train_step.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(jax, "jit", quick_jit)
    for name, size in {"CLIPS": 1, "FRAMES": 2, "SIZE": 4}.items():
        monkeypatch.setattr(benchmark, name, size)
    config = benchmark.COMMON | {
        "down_block_types": ("DownBlock2D",),  # the middle block has attention
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (8,),
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    arrays = benchmark.make_arrays(config)
    ours = benchmark.Ours(config, arrays)
    torch = benchmark.Torch(config, arrays, ours.params)
    losses = [[step() for _ in range(3)] for step in (ours, torch)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][2] < losses[0][0]
