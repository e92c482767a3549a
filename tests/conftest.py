"""Settings of the whole suite; warnings are errors by `filterwarnings` in pyproject.toml.

They are environment variables, set before anything imports jax, so that processes that a test
starts have them too.
"""

import atexit
import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

# The suite needs no accelerator. To run it on one, name it with the CPU, which callbacks need:
# `JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=highest make test`.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Eight virtual devices, so that sharding is tested on every machine. Work placed on one device
# compiles and runs as fast as it does with one device (measured on two cores).
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

# torch is the small reference beside jax: its threads would only fight for the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may depend on a download or on a display.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# Programs that tests compile are kept for this run of the suite alone. Most of its time is
# compilation, and its workers and the processes that tests start compile many programs more than
# once.
if "XDG_CACHE_HOME" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="gen1-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ['XDG_CACHE_HOME']}/programs"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_addoption(parser):
    parser.addoption(
        "--write-golden", action="store_true", help="write the losses of tests/golden/ anew"
    )


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory):
    """A run folder of the smallest models: world, tokenizer, models, encoded clips, pipeline.

    The workers of pytest-xdist share one folder, which the first of them makes. A test that writes
    to it takes a name that no other file of tests takes.
    """
    from micro_run import make_run

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, whole = shared / "micro", shared / "micro_is_whole"
    with open(shared / "micro_lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            with pytest.MonkeyPatch.context() as patch:
                compile_fast(patch, root)
                make_run(root)
            whole.touch()
    return root


@pytest.fixture(scope="module")
def steady_editor(micro_run):
    """An editor of its own for a file of tests, whose frames are not black or white throughout.

    Random weights would drive latents out of range, where all frames are alike.
    """
    import jax

    from gen1_jax.editing import VideoEditor

    with pytest.MonkeyPatch.context() as patch:
        compile_fast(patch, micro_run)
        loaded = VideoEditor.load(micro_run / "pipeline")
        loaded.params["unet"] = jax.tree.map(lambda x: 0.5 * x, loaded.params["unet"])
        yield loaded


@pytest.fixture
def quick(monkeypatch, micro_run):
    """Has programs compile fast and run slowly, on one device."""
    compile_fast(monkeypatch, micro_run)


@pytest.fixture
def scalars(monkeypatch):
    """What training logs from here on: values by name, in order of their steps."""
    from gen1_jax.training.telemetry import EventLog

    logged, add = {}, EventLog.add_scalar

    def record(self, name, value, step):
        logged.setdefault(name, {})[step] = value
        return add(self, name, value, step)

    monkeypatch.setattr(EventLog, "add_scalar", record)
    return logged


@pytest.fixture(scope="module")
def editor(micro_run):
    """The editor of the micro pipeline, loaded once a module."""
    from gen1_jax.editing import VideoEditor

    with pytest.MonkeyPatch.context() as patch:
        compile_fast(patch, micro_run)
        yield VideoEditor.load(micro_run / "pipeline")


@pytest.fixture(scope="module")
def exported(micro_run, tmp_path_factory):
    """The micro pipeline as `gen1 export` writes it."""
    from gen1_jax.weights.exporting import export_pipeline

    folder = tmp_path_factory.mktemp("exported") / "pipeline"
    export_pipeline(micro_run / "pipeline", folder)
    return folder


@pytest.fixture
def pipeline(editor, micro_run, monkeypatch, quick):
    """The micro pipeline's folder, of which a command loads the shared editor."""
    from gen1_jax.editing import VideoEditor

    load, folder = VideoEditor.load, micro_run / "pipeline"

    def load_shared(path, dtype=None, mesh=None, loras=()):
        return editor if path == folder and not loras else load(path, dtype, loras=loras)

    monkeypatch.setattr(VideoEditor, "load", load_shared)
    return folder


def compile_fast(monkeypatch, root, devices: int = 1) -> None:
    import jax
    from tiny_unet import quick_jit

    from gen1_jax import precompute as encoding
    from gen1_jax import workflow
    from gen1_jax.distributed import make_mesh
    from gen1_jax.training import loop  # noqa: F401  # with libraries that use jit when imported

    used = jax.devices()[:devices]
    monkeypatch.setattr(jax, "jit", quick_jit)
    monkeypatch.setattr(workflow, "make_mesh", partial(make_mesh, devices=used))
    monkeypatch.setattr(encoding, "make_mesh", lambda devices: make_mesh(devices=used))


@pytest.fixture
def sweep() -> Callable[..., list[dict]]:
    """Records as a model with the paper's trends would give them."""

    def make(clips: int = 8) -> list[dict]:
        rng = np.random.default_rng(0)
        records = []
        for clip in range(clips):
            base = rng.normal(0, 0.05)
            for temporal, level in itertools.product((0.5, 1.0, 1.5), (0, 3, 7)):
                noise = rng.normal(0, 0.005, 3)
                records.append(
                    {
                        "clip": f"clip{clip}",
                        "prompt": "a red ball",
                        "temporal_scale": temporal,
                        "structure_level": level,
                        "guidance_scale": 4.0,
                        "frame_consistency": 0.85 + 0.06 * temporal + base + noise[0],
                        "prompt_consistency": 0.3
                        - 0.03 * temporal
                        + 0.01 * level
                        + base
                        + noise[1],
                        "structure_correlation": 0.95 - 0.04 * level + noise[2],
                    }
                )
        return records

    return make
