"""This process's memory, and its programs: traced once for each shape."""

import contextlib
import ctypes
import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from gen1_jax.errors import UserError, one_line

# What XLA, its libraries for CPU (YNNPACK, XNNPACK), CUDA, C++ and the operating system say when
# memory runs out. None of them raises an exception of its own kind for it.
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|out_of_memory|NNPACK operation failed: .*alloc|bad_alloc"
    r"|cannot allocate memory",
    re.IGNORECASE,
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
# "allocating 275 bytes", "allocate 1.2 GiB", "Used 20.06G of 15.48G hbm"
_ASKED = re.compile(
    r"(?:allocat\w+|reserve|Used) (\d+(?:\.\d+)?) ?([KMGTP]?)(?:i?B|bytes)?\b", re.IGNORECASE
)


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that a step frees for the next step; for computing on CPU.

    XLA asks for all temporary arrays of a step as one block, a gigabyte for the tiny UNet. glibc
    maps and unmaps such a block each time; the page faults took 0.6 s of a 2.7 s step. Call this
    before the first computation, because threads that run already have memory of their own. The
    call does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # names of malloc.h
        mallopt(arena_max, 1)  # only the main arena keeps large blocks
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)  # never


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that the memory of the host or of a device ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextlib.contextmanager
def naming_what_to_lower(task: str, lower: str) -> Iterator[None]:
    """Turns running out of memory inside the block into one line; other errors pass.

    Results must be fetched inside the block, because a device may report the error only then.

    Args:
      task: what was done, such as "editing 8 frames of 512x512".
      lower: the settings to lower, such as "--frames or --size".

    Raises:
      UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory{_asked(error)} while {task}; lower {lower}") from error


def _asked(error: BaseException) -> str:
    """Returns how many bytes an out-of-memory error says were asked for, where it says so."""
    found = _ASKED.search(one_line(error))
    if not found:
        return ""
    asked = float(found[1]) * UNITS[found[2].upper()]
    name, unit = next(
        (name, size) for name, size in reversed(UNITS.items()) if asked >= size or size == 1
    )
    return f" ({asked / unit:.3g} {name}{'iB' if name else 'bytes'} asked for)"


def trace_once(function: Callable) -> Callable:
    """Wraps a function for `jax.jit`: a second trace for the same shapes raises AssertionError.

    A second trace is a second compilation, which takes minutes for a large model.
    `chex.assert_max_traces` counts all shapes together, by the place in the code and for the life
    of the process; here image batches, video batches and the runs of one process count apart.
    """
    traced = set()

    @functools.wraps(function)
    def traced_once(*arguments, **options):
        leaves, tree = jax.tree.flatten((arguments, options))
        # Programs of another precision are other programs.
        kinds = (jax.config.jax_default_matmul_precision, *map(_kind, leaves))
        if (tree, kinds) in traced:
            raise AssertionError(f"{traced_once.__name__} is traced a second time for one shape")
        result = function(*arguments, **options)
        traced.add((tree, kinds))
        return result

    # A partial has no name, and compiled programs go by the name.
    traced_once.__name__ = getattr(function, "func", function).__name__
    return traced_once


def _kind(x: Any) -> Any:
    """Returns what `jax.jit` tells arguments apart by; a weak type is that of Python's numbers."""
    return (x.shape, x.dtype, x.weak_type) if isinstance(x, jax.core.Tracer) else repr(x)
