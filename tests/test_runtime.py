"""How a process is set up before it computes, and that a program is traced once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.runtime import naming_what_to_lower, trace_once


def test_a_program_taken_from_disk_raises_no_alarm(tmp_path):
    """jaxlib 0.10.1 would log two lines for each of them (jax#38445)."""
    code = (
        "from gen1_jax import cli; cli.main([])\n"
        "from gen1_jax.runtime import keep_programs; keep_programs()\n"
        "import jax; jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "JAX_COMP"))}
    environment |= {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    kept = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        kept.append(sorted(path.name for path in tmp_path.rglob("*-cache")))
    assert kept[0] and kept[1] == kept[0]  # the second run compiled nothing


def test_a_second_trace_of_the_same_arguments_is_a_fault():
    calls = []

    def double(x):
        calls.append(x.shape)
        return 2 * x

    jitted = jax.jit(trace_once(double))
    weak = jnp.full((2,), 1.0)  # as a caller may pass it: of a weak type
    assert weak.weak_type
    for x in (np.ones(2, np.float32), np.ones(2, np.float32), np.ones(3, np.float32), weak):
        np.testing.assert_array_equal(jitted(x), 2 * np.asarray(x))
    assert calls == [(2,), (3,), (2,)]
    jitted.clear_cache()
    with pytest.raises(AssertionError, match="double is traced a second time"):
        jitted(np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 275045808192 bytes.", "256 GiB"),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4096 bytes.", "4 KiB"),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.06G of 15G", "20.1 G"),
        ("INTERNAL: YNNPACK operation failed: error allocate", ""),
        ("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory", ""),
    ],
)
def test_out_of_memory_names_what_to_lower(error, asked):
    for kind in (jax.errors.JaxRuntimeError, MemoryError, OSError):
        with pytest.raises(UserError, match=f"out of memory.*{asked}.*while editing; lower --size"):
            with naming_what_to_lower("editing", "--size"):
                raise kind(error)


def test_memory_that_really_ran_out_is_recognised():
    with pytest.raises(UserError, match=r"out of memory \(\d+ [TPE]iB asked for\)"):
        with naming_what_to_lower("x", "y"):
            np.ones(2**55, np.uint8)
    with pytest.raises(UserError, match=r"out of memory \(\d+ [TPE]iB asked for\)"):
        with naming_what_to_lower("x", "y"):
            np.asarray(jax.jit(lambda: jnp.ones(2**52).sort())())
    with pytest.raises(RuntimeError, match="other"):
        with naming_what_to_lower("x", "y"):
            raise RuntimeError("other")
