"""Settings of this process: memory that malloc keeps, and compiled programs kept on disk."""

import ctypes
import hashlib
import os
import platform
import sys
from pathlib import Path

import jax


def keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next step; for computing on CPU.

    XLA asks for all temporary arrays of a step as one block, a gigabyte for the tiny UNet. glibc
    maps and unmaps such a block each time; the page faults took 0.6 s of a 2.7 s step. Call it
    before the first computation, because threads that run already have memory of their own. Does
    nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # names of malloc.h
        mallopt(arena_max, 1)  # other arenas hold no large blocks
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)  # never


def keep_programs() -> None:
    """Has XLA keep compiled programs on disk: a second run, or a resumed one, starts at once.

    In `JAX_COMPILATION_CACHE_DIR`, or else in the user's cache folder, one for each kind of
    processor, since programs for CPU use what the compiling machine has.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not Linux
        kind = f"{platform.platform()} {platform.processor()}"
    digest = hashlib.sha256(kind.encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(root / "gen1_jax" / "programs" / digest))
    jax.config.update("jax_compilation_cache_max_size", 2**30)  # bytes; the oldest go first
