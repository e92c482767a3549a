"""The benchmarks' own code runs: what they measure changes, and they are run seldom."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_each_says_what_it_measures(path):
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


def test_the_train_step_is_the_same_as_torch_s(quick, monkeypatch):
    (path,) = (path for path in BENCHMARKS if path.stem == "train_step")
    spec = importlib.util.spec_from_file_location("benchmark_train_step", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for name, size in {"CLIPS": 1, "FRAMES": 2, "SIZE": 8}.items():
        monkeypatch.setattr(benchmark, name, size)
    config = benchmark.NETWORKS["tiny"]
    arrays = benchmark.make_arrays(config)
    ours = benchmark.Ours(config, arrays)
    torch = benchmark.Torch(config, arrays, ours.params)
    losses = [[step() for _ in range(2)] for step in (ours, torch)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
