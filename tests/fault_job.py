"""One of two processes, in a fault that happens to one of them alone.

    python launch/local.py --processes 2 --devices 1 -- python tests/fault_job.py FAULT FOLDER

Both must print the same words. A process that left the common course would wait forever.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from gen1_jax.batch import Batch
from gen1_jax.commands.processes import joined
from gen1_jax.data_pipelines.mixture import batches
from gen1_jax.distributed import (
    check_shared,
    make_mesh,
    on_lead,
    own_rows,
    put_batch,
    replicated,
    to_host,
    wait_for_lead,
)
from gen1_jax.errors import UserError
from gen1_jax.programs import keep_programs
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.signals import stop_on_signals
from gen1_jax.training.state import make_optimizer, new_state
from gen1_jax.training.statistics import gather_statistics
from gen1_jax.training.validation import HeldOutLoss


def state(mesh, value: float):
    def array(shape, spec):
        sharding = NamedSharding(mesh, spec)
        whole = np.full(shape, value, np.float32)
        return jax.make_array_from_callback(shape, sharding, lambda part: whole[part])

    return {"step": array((), PartitionSpec()), "w": array((4, 4), PartitionSpec("fsdp"))}


def save(checkpoints: Checkpoints, mesh, step: int) -> None:
    multihost_utils.process_allgather(np.int32(step))  # as a step of training
    checkpoints.save_now(step, state(mesh, step), {"next": step})


def save_each(checkpoints: Checkpoints, mesh, steps: tuple[int, ...]) -> str:
    """Saves at each step, as training does; returns the steps that are there at the end."""
    for step in steps:
        multihost_utils.process_allgather(np.int32(step))
        checkpoints.save(step, state(mesh, step), {"next": step})
    checkpoints.close()
    return f"saved {checkpoints.steps()}"


def a_checkpoint_that_one_cannot_read(folder: Path, mesh) -> str:
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        save(checkpoints, mesh, step)
    checkpoints.close()
    restore = ocp.StandardCheckpointHandler.restore

    def stale(self, directory, args):
        if jax.process_index() == 1 and directory.parent.name == "2":
            raise OSError("Stale file handle")
        return restore(self, directory, args=args)

    ocp.StandardCheckpointHandler.restore = stale
    checkpoints = Checkpoints(folder)
    restored, data = checkpoints.restore(state(mesh, 0))
    value = float(restored["w"].addressable_data(0)[0, 0])
    save(checkpoints, mesh, 2)  # its place is free again, and known to be on both
    checkpoints.close()
    return f"restored {value} {data['next']}, there are {sorted(os.listdir(folder))}"


def a_save_that_one_does_not_begin(folder: Path, mesh) -> str:
    begin = ocp.CheckpointManager.save

    def full(self, step, **keywords):
        if jax.process_index() == 1 and step == 2:
            raise OSError(28, "No space left on device")
        return begin(self, step, **keywords)

    ocp.CheckpointManager.save = full
    return save_each(Checkpoints(folder), mesh, (1, 2, 3))


def a_save_that_fails_on_one(folder: Path, mesh) -> str:
    checkpoints = Checkpoints(folder, keep=1)
    save(checkpoints, mesh, 1)
    if jax.process_index() == 0:

        def not_empty(steps):
            raise OSError(39, "Directory not empty")

        checkpoints._manager._checkpoint_deleter.delete_steps = not_empty
    return save_each(checkpoints, mesh, (2, 3, 4))


def a_folder_that_is_not_shared(folder: Path, mesh) -> str:
    check_shared(folder)
    print("shared", flush=True)
    check_shared(folder / str(jax.process_index()))


def checkpoints_that_one_does_not_see(folder: Path, mesh) -> str:
    checkpoints = Checkpoints(folder / str(jax.process_index()))
    if jax.process_index() == 0:
        (folder / "0" / "5").mkdir(parents=True)
    multihost_utils.sync_global_devices("made")
    checkpoints.restore(state(mesh, 0))


def a_signal_to_one(folder: Path, mesh) -> str:
    with stop_on_signals() as stop:
        for step in range(1, 100):
            if step == 5 and jax.process_index() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if number := stop.agreed(step):
                if jax.process_index() == 0:  # the cluster's own, which comes late
                    os.kill(os.getpid(), signal.SIGTERM)
                return f"signal {number} at step {step}"


def a_signal_while_the_lead_works(folder: Path, mesh) -> str:
    """Each process ends at once, the one that waits in the coordinator's barrier too."""
    meeting = wait_for_lead(lambda: "done first")
    print(f"the lead {meeting}" if meeting else "waited", flush=True)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    wait_for_lead(lambda: time.sleep(60))


CONTENT = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def held_out_loss(mesh, content: np.ndarray) -> float:
    """Measures a small held-out loss of this process's share of one batch."""

    def loss(params, encoder_params, batch, key):
        noise = jax.random.normal(key, batch.content.shape)
        return jnp.square((batch.content + noise) @ params["kernel"]).mean(), {}

    optimizer = make_optimizer(num_steps=1, learning_rate=0.1, warmup_steps=0)
    start = jax.jit(partial(new_state, optimizer), out_shardings=replicated(mesh))
    state = start({"kernel": np.eye(3, dtype=np.float32)})
    held_out = HeldOutLoss(
        loss,
        {"image": lambda: iter([Batch(content=content)])},
        num_batches=1,
        template=state,
        dtype="float32",
    )
    return held_out.measure(state.ema, {})["image"]


def statistics(content: np.ndarray) -> tuple[float, float]:
    """Gathers mean and deviation of the first number of this process's share of one batch."""
    batches = iter([Batch(content=content)])
    moments = lambda batch: (batch.content.mean(0), batch.content.var(0))  # noqa: E731
    mean, deviation = gather_statistics(moments, batches, len(CONTENT))
    return mean[0], deviation[0]


def what_the_lead_finds() -> str:
    """Only process 0 can look; what it finds, or why it refuses, reaches both."""

    def look() -> dict:
        assert jax.process_index() == 0
        return {"an é": [jax.process_index()]}

    def refuse() -> dict:
        raise UserError(f"refused by {look()}")

    try:
        on_lead(refuse)
    except UserError as error:
        return f"{on_lead(look)}, {error}"


def rows_of(mesh) -> str:
    """Reads a batch, places it on a mesh, and returns what all devices hold together."""
    source = [{"content": np.float32([i])} for i in range(8)]
    stream = batches([source], [], 8, rows=own_rows(mesh, 8, 1))
    placed = put_batch(Batch(**stream[0]), mesh)
    return ",".join(f"{x:.0f}" for x in to_host(placed.content)[:, 0])


def examples_on_an_interleaved_mesh(folder: Path, mesh) -> str:
    """Neighbours in the mesh belong to different processes, as where fsdp crosses hosts."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        os.environ.pop(name, None)  # the suite's
    keep_programs(folder)
    seen: Counter = Counter()
    jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.split("/")[-1]]))
    jax.jit(lambda x: (x @ x).sum())(np.ones((4, 4), np.float32))  # on devices of its own
    meshes = [
        jax.sharding.Mesh(np.array(jax.devices())[order].reshape(shape), ("data", "fsdp", "frames"))
        for order, shape in (
            ([0, 1, 2, 3], (4, 1, 1)),
            ([0, 2, 1, 3], (2, 2, 1)),
            ([3, 0, 1, 2], (4, 1, 1)),
        )
    ]
    orders = {rows_of(mesh) for mesh in meshes}
    return (
        f"orders {len(orders)}, compiled {seen['compile_requests_use_cache'] - seen['cache_hits']}"
    )


def a_batch_of_which_each_has_half(folder: Path, mesh) -> str:
    share = np.split(CONTENT, 2)[jax.process_index()]
    mean, deviation = statistics(share)
    loss = f"held-out loss {held_out_loss(make_mesh(), share):.5f}"
    return f"{loss}, {mean:.5f} ± {deviation:.5f}; {what_the_lead_finds()}"


FAULTS = {
    f.__name__: f
    for f in (
        a_checkpoint_that_one_cannot_read,
        a_save_that_one_does_not_begin,
        a_save_that_fails_on_one,
        a_folder_that_is_not_shared,
        checkpoints_that_one_does_not_see,
        a_signal_to_one,
        a_signal_while_the_lead_works,
        a_batch_of_which_each_has_half,
        examples_on_an_interleaved_mesh,
    )
}

if __name__ == "__main__":
    ocp.multihost._DEFAULT_BARRIER_TIMEOUT = 5  # seconds; it is minutes
    with joined(argparse.Namespace(processes=2, join_timeout=60, workdir=sys.argv[2])):
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("fsdp",))
        print(FAULTS[sys.argv[1]](Path(sys.argv[2]), mesh), flush=True)
        multihost_utils.sync_global_devices("done")
