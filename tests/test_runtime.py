"""What a process says when its memory runs out, and that a program is traced once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.runtime import naming_what_to_lower, trace_once


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
