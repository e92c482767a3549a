"""The device mesh, and where arrays live on it."""

import math
import os
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen1_jax.errors import UserError

DATA, FSDP, FRAMES = "data", "fsdp", "frames"
PyTree = Any


def make_mesh(data: int = -1, fsdp: int = 1, frames: int = 1, devices: list | None = None) -> Mesh:
    """A (data, fsdp, frames) mesh over all devices; −1 stands for what is left.

    Args:
      data: parts of a batch, with the whole model each.
      fsdp: parts of a batch, over which parameters and optimiser are split too.
      frames: parts of one clip, for editing; training leaves it at 1.
      devices: all of this job if None.

    Raises:
      UserError: the axes do not divide the devices, or `data` not the slices of a TPU job.
    """
    devices = jax.devices() if devices is None else devices
    shape = [data, fsdp, frames]
    axes = f"mesh (data={data}, fsdp={fsdp}, frames={frames})"
    if shape.count(-1) > 1 or any(s == 0 or s < -1 for s in shape):
        raise UserError(f"{axes}; accepted: positive sizes, at most one of them -1")
    if -1 in shape:
        shape[shape.index(-1)] = max(1, len(devices) // -math.prod(shape))
    if math.prod(shape) != len(devices):
        raise UserError(
            f"{axes} does not fit {len(devices)} devices; accepted: sizes whose product is that"
        )
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"})
    if slices > 1 and shape[0] % slices:
        raise UserError(f"{axes}: the {slices} slices of this job must divide data={shape[0]}")
    return Mesh(_arrange(shape, devices, max(1, slices)), (DATA, FSDP, FRAMES))


def _arrange(shape: Sequence[int], devices: Sequence, slices: int) -> np.ndarray:
    """Neighbours on an axis become neighbours in the chips' network; slices are parts of `data`."""
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    inner = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        inner, (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def batch_parts(mesh: Mesh) -> int:
    """Parts that a batch is split into."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices; over those of a clip the same."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def clip_sharding(mesh: Mesh) -> NamedSharding:
    """[b n ...]: the batch over the devices, the frames of a clip over those of its clip."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP), FRAMES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


# The axes of a parameter by their number: places of a kernel, what comes in, what goes out.
_LOGICAL_AXES = {
    1: ("out",),
    2: ("in", "out"),
    3: ("place", "in", "out"),
    4: ("place", "place", "in", "out"),
}
# Where no config says otherwise.
SHARDING = (("out", FSDP), ("in", FSDP))
MIN_SIZE_TO_SHARD = 2**14


def state_sharding(
    mesh: Mesh,
    shapes: PyTree,
    rules: Sequence[tuple[str, str]] = SHARDING,
    min_size_to_shard: int = MIN_SIZE_TO_SHARD,
) -> PyTree:
    """A sharding for each array of a state: parameters, their average, the optimiser's moments.

    Args:
      mesh: the devices.
      shapes: of the arrays.
      rules: (logical axis, mesh axis), the first that can be followed first: an axis that the mesh
        axis does not divide stays whole, and a mesh axis is taken once.
      min_size_to_shard: elements; a smaller array is everywhere.

    Raises:
      UserError: a rule that names no axis.
    """
    logical = sorted({name for names in _LOGICAL_AXES.values() for name in names})
    for name, mesh_axis in rules:
        if name not in logical or mesh_axis not in mesh.shape:
            raise UserError(
                f"sharding rule ({name!r}, {mesh_axis!r}); accepted: one of {', '.join(logical)} "
                f"and one of {', '.join(mesh.shape)}"
            )

    def choose(x) -> NamedSharding:
        names = _LOGICAL_AXES.get(len(x.shape), ())
        spec: list[str | None] = [None] * len(names)
        for name, mesh_axis in rules if math.prod(x.shape) >= min_size_to_shard else ():
            size = mesh.shape[mesh_axis]
            for i in range(len(names)):
                free = spec[i] is None and mesh_axis not in spec
                if names[i] == name and free and size > 1 and x.shape[i] % size == 0:
                    spec[i] = mesh_axis
        return NamedSharding(mesh, PartitionSpec(*spec)) if any(spec) else replicated(mesh)

    return jax.tree.map(choose, shapes)


def gather(params: PyTree, shardings: PyTree, dtype: Any) -> PyTree:
    """Split parameters, whole on every device for one pass; their gradients are split again.

    So a device computes with its part of the batch alone. Left to itself the compiler goes on with
    a kernel's split in what the kernel makes, and then moves activations between devices.

    Args:
      params: arrays.
      shardings: where they live, one for each.
      dtype: compute type; kernels are sent in it, which is what layers use of them.
    """

    def whole(path, x: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_replicated:
            return x
        return _gather(x.astype(dtype) if path[-1].key == "kernel" else x, sharding)

    return jax.tree_util.tree_map_with_path(whole, params, shardings)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, replicated(sharding.mesh))


def _gather_forward(x: jax.Array, sharding: NamedSharding) -> tuple[jax.Array, None]:
    return _gather(x, sharding), None


def _gather_backward(sharding: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, sharding),)


_gather.defvjp(_gather_forward, _gather_backward)


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Host arrays of this process → arrays sharded over the mesh.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    sharding, count = batch_sharding(mesh), batch_parts(mesh) // jax.process_count()

    def put(x: np.ndarray) -> jax.Array:
        if x.shape[0] % count:
            raise UserError(f"a batch of {x.shape[0]} does not divide over {count} devices")
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, batch)


def join_processes(count: int, timeout: int = 300) -> None:
    """Joins the processes of one job, and makes sure that all are there. Before any computation.

    Where they meet comes from GEN1_COORDINATOR (host:port) and GEN1_PROCESS (this one's number), as
    `launch/local.py` sets them, or else from the cluster (TPU, SLURM, …), as jax finds out.

    Args:
      count: processes that the job must have.
      timeout: seconds to wait for the others.

    Raises:
      UserError: they did not come together, or are not `count`. Nothing goes on alone.
    """
    # jax's own end of patience is a crash with a stack trace, so ours comes first.
    options: dict[str, Any] = {"initialization_timeout": timeout + 60}
    if coordinator := os.environ.get("GEN1_COORDINATOR"):
        number = os.environ.get("GEN1_PROCESS", "")
        if not number.isdecimal() or int(number) >= count:
            raise UserError(f"GEN1_PROCESS is {number!r}; a number below {count} is accepted")
        options |= {"coordinator_address": coordinator, "num_processes": count}
        options |= {"process_id": int(number)}

    def give_up() -> None:
        late = f"gen1: this process could not join the {count} of the job within {timeout} s"
        print(
            f"{late}; are all started, and can they reach each other?", file=sys.stderr, flush=True
        )
        os._exit(2)  # the thread that waits cannot be interrupted

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        jax.distributed.initialize(**options)
    except Exception as error:  # of many kinds, by the way the cluster is found
        raise UserError(
            f"this process could not join the {count} of the job: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    finally:
        timer.cancel()
    if jax.process_count() != count:
        raise UserError(f"{jax.process_count()} processes came together; --processes says {count}")


def check_shared(folder: Path) -> None:
    """Makes sure that all processes see one folder, and makes it; does nothing for one process.

    Raises:
      UserError: some do not see what the first one writes there.
    """
    if jax.process_count() == 1:
        return
    folder.mkdir(parents=True, exist_ok=True)
    number = multihost_utils.broadcast_one_to_all(np.uint32(int.from_bytes(os.urandom(4))))
    mark = folder / f".shared_{int(number):08x}"
    if jax.process_index() == 0:
        mark.touch()
    multihost_utils.sync_global_devices("marked")
    seen = multihost_utils.process_allgather(np.bool_(mark.exists()))
    if jax.process_index() == 0:
        mark.unlink()
    if not seen.all():
        raise UserError(
            f"processes {', '.join(map(str, np.flatnonzero(~seen)))} do not see what process 0 "
            f"writes in {folder}; accepted: a folder that all share"
        )


def to_host(tree: PyTree) -> PyTree:
    """Arrays that may lie over several processes → numpy arrays, whole, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
