"""The installed jaxlib computes right: programs that releases got wrong, and our own reductions.

jaxlib 0.10.2 computed wrong sums on CPU and crashed, and 0.11.0 crashed; docs/dependencies.md lists
the known faults. The next such release fails here, before a model is trained on wrong numbers.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = (40_000, 200_000)
OURS = (
    "group norm",
    "group norm, gradient of x",
    "group norm, gradient of scale",
    "group norm, gradient of bias",
    "layer norm",
    "layer norm, gradient of x",
    "layer norm, gradient of scale",
    "layer norm, gradient of bias",
    "attention",
    "attention, gradient of q",
    "attention, gradient of k",
    "attention, gradient of v",
    "diffusion loss",
    "autoencoder loss",
    "contrastive loss",
    "depth loss",
    "prior loss",
    "direction",
    "mean cosine",
    "gradient norm",
)


def results_of(name: str) -> tuple[dict[str, dict], str]:
    """Runs a check of tests/arithmetic_job.py in a process of its own.

    Returns:
      The results, by what was computed, and how the process ended.
    """
    # The conditions of a user: one device, and XLA's own defaults.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "tests/arithmetic_job.py", name]
    options = dict(cwd=ROOT, env=environment, capture_output=True, text=True)
    try:
        # The checks take a tenth of this; one of the known faults is a process that hangs.
        done = subprocess.run(command, timeout=120, **options)
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode()
        end = "the process hung"
    else:
        lines = done.stdout
        end = f"exit status {done.returncode}\n{done.stderr[-2000:]}"
    results = (json.loads(line) for line in lines.splitlines())
    return {result["what"]: result for result in results}, end


def check(results: dict[str, dict], end: str, what: str) -> None:
    assert what in results, f"{what}: no result; {end}"
    error, allowed = results[what]["error"], results[what]["allowed"]
    assert error <= allowed, f"{what}: off by {error:.1e} of the largest value; {end}"


@pytest.mark.parametrize(
    "issue, computed",
    [
        ("jax#39103", ["32769 rows", "40000 rows", "200000 rows"]),
        ("jax#40412", ["rank 7"]),
        ("jax#39257", ["rank 8"]),
    ],
)
def test_a_public_reproducer_computes_right(issue, computed):
    results, end = results_of(issue)
    for what in computed:
        check(results, end, what)


@pytest.fixture(scope="module")
def ours():
    return results_of("ours")


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("what", OURS)
def test_a_reduction_of_ours_agrees_with_float64(ours, what, rows):
    check(*ours, f"{what}, {rows} rows")


def test_everything_computed_is_checked(ours):
    assert set(ours[0]) == {f"{what}, {rows} rows" for what in OURS for rows in ROWS}


def test_no_slice_is_shifted_in_place():
    """Every release of XLA:CPU gets a jitted `x.at[1:].set(x[:-1]).reshape(...)` wrong (xla#49176).

    So the package writes no slices into arrays: `jnp.roll` and `jnp.concatenate` shift correctly.
    """
    written = re.compile(r"\.at\[.*\]\.set\(|dynamic_update_(slice|index)")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "gen1_jax").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if written.search(line)
    ]
    assert not found, found
