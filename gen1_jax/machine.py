"""Finds out what this machine and this installation have: versions, devices, memory, codecs.

`gen1 doctor` prints it. Nothing here raises: whatever cannot be found out is reported as a line.
Neither jax nor PyAV is imported with the module.
"""

import glob
import importlib.metadata
import importlib.util
import json
import logging
import os
import pkgutil
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen1_jax import __version__
from gen1_jax.errors import UserError, one_line

# Platform of jax → the packages of which one must be installed, and the extras that install them.
_PLUGINS = {
    "cpu": ((), ()),
    "cuda": (("jax_cuda12_plugin", "jax_cuda13_plugin"), ("cuda12", "cuda13")),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), ("cuda12", "cuda13")),
    "tpu": (("libtpu",), ("tpu",)),
}
# Extra → the distributions that it adds. `torch` is also what `gen1 export` writes for.
_EXTRAS = {
    "beam": ("apache-beam", "pyarrow", "scenedetect-headless"),
    "credentials": ("c2pa-python",),
    "cuda12": ("jax-cuda12-plugin",),
    "cuda13": ("jax-cuda13-plugin",),
    "stores": ("gcsfs", "s3fs"),
    "tpu or compile": ("libtpu",),
    "torch": ("torch", "diffusers"),
    "tensorboard": ("tensorboard",),
}
_LIBRARIES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets"),
    *("transformers", "numpy", "av", "protobuf"),
)
_DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "prores")
_ENCODERS = ("libx264",)
# Variables that change what jax, XLA or gen1 do. None of them holds a secret.
_PREFIXES = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "GEN1_", "SLURM_STEP_NUM_TASKS")
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "PYTHONPATH", "OMP_NUM_THREADS"),
    *("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_OFFLINE"),
)
# Runs in a process of its own, because a driver that is out of order may end the process.
_LIST_DEVICES = """
import json, jax
print(json.dumps([
    (d.platform, d.device_kind, {k: v for k, v in (d.memory_stats() or {}).items() if "bytes" in k})
    for d in jax.local_devices()
]))
"""
_START_SECONDS = 120  # a TPU that another process holds makes jax wait


# ---- platforms


def installed_platforms() -> list[str]:
    """Returns the platforms that the installed packages of jax can use: cpu, cuda, tpu."""
    return [name for name in ("cpu", "cuda", "tpu") if _has_plugin(name)]


def check_platforms() -> None:
    """Refuses a JAX_PLATFORMS that the installed packages cannot serve, before jax is imported.

    Raises:
      UserError: a named platform is unknown, or the package that it needs is not installed.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    accepted = ", ".join(installed_platforms())
    for name in filter(None, (word.strip() for word in asked.split(","))):
        if name in _PLUGINS:
            if not _has_plugin(name) and not (name == "gpu" and _other_plugins()):
                extras = " or ".join(f"'.[{extra}]'" for extra in _PLUGINS[name][1])
                raise UserError(
                    f"JAX_PLATFORMS={asked}: jax is installed without {name}; accepted here: "
                    f"{accepted}; pip install -e {extras} adds it (docs/installing.md)"
                )
        elif not _other_plugins():  # which name their platforms as they like
            raise UserError(
                f"JAX_PLATFORMS={asked}: no platform {name!r}; accepted here: {accepted}"
            )


class _PluginErrors(logging.Filter):
    """Keeps the tracebacks that jax logs where a plugin cannot start, and says them in one line.

    Where JAX_PLATFORMS asks for accelerators alone, jax ends after it, and `platform_trouble` says
    the reason. Otherwise jax goes on with the CPU, and a warning says so.
    """

    def __init__(self):
        super().__init__()
        self.reasons: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info or not record.exc_info[1]:
            return True
        reason = one_line(record.exc_info[1])
        self.reasons.append(reason)
        asked = os.environ.get("JAX_PLATFORMS", "")
        if not asked or "cpu" in asked.split(","):
            warnings.warn(f"jax cannot use an accelerator: {reason}", stacklevel=2)
        return False


_plugin_errors = _PluginErrors()


def quieten_plugins() -> None:
    """Has jax's tracebacks about plugins told in one line; call it before jax is used."""
    logging.getLogger("jax._src.xla_bridge").addFilter(_plugin_errors)


def platform_trouble(error: BaseException) -> str | None:
    """Returns why jax found no device to run on, or None if that is not what the error says."""
    asked = os.environ.get("JAX_PLATFORMS")
    if "Unable to initialize backend" in str(error):
        reason = one_line(error)
    elif asked and isinstance(error, AssertionError) and not str(error):
        # jax asserts that there is a device, and has no message for it.
        try:
            import jax

            jax.devices()
            return None
        except Exception as again:
            reason = one_line(again) if str(again) else "no such device is there"
    else:
        return None
    reason = "; ".join(_plugin_errors.reasons) or reason
    setting = f"JAX_PLATFORMS={asked}" if asked else "jax cannot start"
    return (
        f"{setting}: {reason[:300]}; accepted: JAX_PLATFORMS=cpu, or a device that `gen1 doctor` "
        "lists"
    )


def missing_support() -> list[str]:
    """Names accelerators that this machine seems to have and the installed jax cannot use."""
    notes = []
    if not _has_plugin("cuda") and (glob.glob("/dev/nvidia[0-9]*") or shutil.which("nvidia-smi")):
        notes.append(
            "this machine has an NVIDIA GPU, and jax is installed for the CPU alone; "
            "pip install -e '.[cuda12]' or '.[cuda13]' adds CUDA (docs/installing.md)"
        )
    if not _has_plugin("tpu") and glob.glob("/dev/accel[0-9]*"):
        notes.append(
            "this machine seems to have a TPU, and libtpu is not installed; "
            "pip install -e '.[tpu]' adds it (docs/installing.md)"
        )
    return notes


def _has_plugin(name: str) -> bool:
    if name == "tpu" and "TPU_LIBRARY_PATH" in os.environ:  # libtpu without its package
        return True
    packages = _PLUGINS[name][0]
    return not packages or any(importlib.util.find_spec(package) for package in packages)


def _other_plugins() -> bool:
    """Returns whether jax has a plugin that this project does not know."""
    found = {entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")}
    if spec := importlib.util.find_spec("jax_plugins"):
        found |= {module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)}
    return any(not name.startswith("xla_cuda") for name in found)


# ---- the report


def programs_folder() -> Path:
    """Returns the folder that keeps compiled programs.

    It is `JAX_COMPILATION_CACHE_DIR` if that is set, and else a folder of the user's cache for this
    kind of processor: programs for CPU use the instructions of the machine that compiled them.
    """
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(folder)
    import hashlib

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not Linux
        kind = f"{platform.platform()} {platform.processor()}"
    digest = hashlib.sha256(kind.encode()).hexdigest()[:12]
    return cache_folder() / "programs" / digest


def cache_folder() -> Path:
    """Returns the folder of the user's cache that holds ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gen1_jax"


def examine() -> dict[str, Any]:
    """Returns everything that a bug report should say of this machine, by topic.

    A topic that cannot be found out holds {"error": TEXT}.
    """
    topics: dict[str, Callable[[], Any]] = {
        "gen1-jax": lambda: {"version": __version__, "folder": str(Path(__file__).parents[1])},
        "python": lambda: {"version": platform.python_version(), "program": sys.executable},
        "system": lambda: {"name": platform.platform(), "machine": platform.machine()},
        "libraries": lambda: {name: _version(name) for name in _LIBRARIES},
        "refused releases": _refused_releases,
        "platforms": installed_platforms,
        "devices": _devices,
        "gpu driver": _gpu_driver,
        "memory": _memory,
        "cores": lambda: {"usable": _usable_cores(), "all": os.cpu_count()},
        "disk": _disk,
        "extras": lambda: {
            extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()
        },
        "codecs": _codecs,
        "compiled programs": _programs,
        "environment": lambda: {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_PREFIXES) or name in _VARIABLES
        },
        "notes": missing_support,
    }
    found = {}
    for topic, find in topics.items():
        try:
            found[topic] = find()
        except Exception as error:  # a broken installation is what the report is for
            found[topic] = {"error": f"{type(error).__name__}: {one_line(error)}"}
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _refused_releases() -> list[str]:
    """Lists the installed releases that pyproject.toml excludes, each with what it accepts."""
    from packaging.requirements import Requirement

    found = []
    for text in importlib.metadata.requires("gen1-jax") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if not requirement.specifier.contains(version or "0", prereleases=True):
            found.append(f"{requirement.name} {version}; accepted: {requirement.specifier}")
    return found


def _devices() -> dict[str, Any]:
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LIST_DEVICES],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"jax found no device within {_START_SECONDS} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip("- ")] or ["nothing"]
        reasons = [line for line in said if "Error: " in line] or said
        return {"error": f"jax ended with {done.returncode}: {reasons[-1][:300]}"}
    listed: dict[str, Any] = {}
    for kind, name, stats in json.loads(done.stdout.splitlines()[-1]):
        entry = listed.setdefault(f"{kind} {name}" if name != kind else kind, {"count": 0})
        entry["count"] += 1
        if "bytes_limit" in stats:
            entry["bytes"] = stats["bytes_limit"]
            entry["free_bytes"] = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return listed


def _gpu_driver() -> list[str]:
    """Returns what nvidia-smi says of each GPU: its name, driver, and free and whole memory."""
    if not shutil.which("nvidia-smi"):
        return []
    query = "--query-gpu=name,driver_version,memory.free,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return (done.stdout if done.returncode == 0 else done.stdout + done.stderr).splitlines()


def _memory() -> dict[str, int]:
    import psutil

    memory = psutil.virtual_memory()
    return {"free_bytes": memory.available, "bytes": memory.total}


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _disk() -> dict[str, Any]:
    usage = shutil.disk_usage(Path.cwd())
    return {"folder": str(Path.cwd()), "free_bytes": usage.free, "bytes": usage.total}


def _codecs() -> dict[str, dict[str, bool]]:
    from av.codec import Codec

    def has(name: str, mode: str) -> bool:
        try:
            Codec(name, mode)
            return True
        except Exception:  # PyAV has a class of its own for an unknown codec
            return False

    return {
        "read": {name: has(name, "r") for name in _DECODERS},
        "write": {name: has(name, "w") for name in _ENCODERS},
    }


def _programs() -> dict[str, Any]:
    folder = programs_folder()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "folder": str(folder),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }
