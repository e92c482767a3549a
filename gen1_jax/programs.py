"""Compiled programs on disk, so that a second start compiles nothing.

jax's own files (`jax._src.lru_cache`) are written in place and never replaced. With a limit of
size, one that a killed process left behind ends all writing (jax#39880), and where many hosts share
a folder they read one after another. jax lets process 0 alone write, but the programs of the others
may have other names: those of their own devices, and on CPUs all of them.

The files here are written by every process, beside their place, and renamed. Each holds a checksum;
one that does not check is compiled again and replaced.
"""

import contextlib
import os
import re
import uuid
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache, compiler  # no public place takes a cache of one's own
from jax._src.compilation_cache_interface import CacheInterface

from gen1_jax.errors import one_line
from gen1_jax.files import as_path, is_remote
from gen1_jax.machine import programs_folder

FOLDER = "programs"  # in the work folder of a job of several processes
SUFFIX = ".program"
MOST_BYTES = 2**30  # of the user's own folder; the files that were not read for longest go first
MOST_BYTES_OF_A_JOB = 2**35  # a train step of Stable Diffusion's size takes about 100 MB


def keep_programs(workdir: Path | None = None) -> None:
    """Makes jax keep compiled programs on disk, so that a second or resumed run starts at once.

    The processes of a job share the work folder, and nothing else for sure; so several keep their
    programs there, in a folder for their devices and versions. One process keeps them in
    `gen1_jax.machine.programs_folder`, for all its runs. The variable JAX_COMPILATION_CACHE_DIR
    names another place for both.

    Call it when the processes have joined, before the first computation.

    Args:
      workdir: the work folder of a command whose processes work together.
    """
    of_a_job = workdir is not None and jax.process_count() > 1
    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = as_path(named)
    else:
        folder = workdir / FOLDER / _describe_devices() if of_a_job else programs_folder()
    most = MOST_BYTES_OF_A_JOB if of_a_job else MOST_BYTES
    # Small programs count too: a start needs a hundred, and a second process compiles none of them.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if is_remote(folder):  # XLA writes its own notes beside the programs, and knows no stores
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    compilation_cache.get_file_cache = lambda path: (ProgramFiles(as_path(path), most), path)
    if jax.process_count() > 1:
        compiler._cache_write = _write
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A program that XLA cannot load is compiled again and replaced.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")


def _write(
    key: str,
    seconds: float,
    name: str,
    backend: Any,
    executable: Any,
    host_callbacks: Sequence = (),  # of jax 0.10
) -> None:
    """Writes a program, on any process; those that call back into Python cannot be kept."""
    if seconds < jax.config.jax_persistent_cache_min_compile_time_secs or host_callbacks:
        return
    try:
        compilation_cache.put_executable_and_time(key, name, executable, backend, int(seconds))
    except Exception as error:  # of a backend that cannot write this one
        warnings.warn(f"the program {name} is not kept: {one_line(error)}", stacklevel=2)


def _describe_devices() -> str:
    """Names the devices of the job and what compiles for them; jax's keys hold all of it again."""
    device = jax.devices()[0]
    kind = re.sub(r"[^A-Za-z0-9.]+", "_", device.device_kind)
    slices = len({getattr(d, "slice_index", 0) for d in jax.devices()})
    parts = [kind, f"{slices}x" * (slices > 1) + str(jax.device_count() // slices)]
    if device.platform == "cpu":  # programs use the instructions of the processor
        parts.append(programs_folder().name[:12])
    return "-".join([*parts, f"jaxlib_{jax.lib.__version__}"])


class ProgramFiles(CacheInterface):
    """One file a program: whole or not there.

    Args:
      folder: the folder, also on an object store.
      most_bytes: files that were not read for longest are removed beyond that; not on a store.
    """

    def __init__(self, folder: Path, most_bytes: int):
        self._path, self._most_bytes = folder, most_bytes
        self._refused = False

    def get(self, key: str) -> bytes | None:
        """Returns a program; None where there is none, or the file is damaged or another's."""
        path = self._file(key)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        checksum, value = stored[:4], stored[4:]
        if checksum != _checksum(key, value):
            return None
        if not is_remote(path):
            with contextlib.suppress(OSError):  # a file of another user
                os.utime(path)  # was read just now
        return value

    def put(self, key: str, value: bytes) -> None:
        """Writes a program, also where there is one: it could not be used."""
        path = self._file(key)
        if jax.process_index() > 0 and self.get(key) is not None:  # of process 0, just now
            return
        stored = _checksum(key, value) + value
        try:
            if is_remote(path):
                path.write_bytes(stored)  # whole or not at all
            else:
                self._replace(path, stored)
                self._remove_oldest()
        except OSError as error:
            if not self._refused:
                self._refused = True
                warnings.warn(
                    f"compiled programs are not kept in {self._path}: {one_line(error)}; the next "
                    "start compiles them again",
                    stacklevel=2,
                )

    def _replace(self, path: Path, stored: bytes) -> None:
        part = path.with_name(f"{path.name}.part{uuid.uuid4().hex}")
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            part.write_bytes(stored)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{SUFFIX}"

    def _remove_oldest(self) -> None:
        files = []
        for entry in os.scandir(self._path):
            if SUFFIX in entry.name:  # also the parts of killed processes
                with contextlib.suppress(FileNotFoundError):  # renamed or removed just now
                    found = entry.stat()
                    files.append((found.st_mtime, found.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._most_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def _checksum(key: str, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key.encode())).to_bytes(4, "little")
