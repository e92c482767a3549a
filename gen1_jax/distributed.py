"""The device mesh, the placement of arrays on it, and the processes of a job."""

import contextlib
import itertools
import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # its client, which orbax takes too
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen1_jax.batch import SCHEMA, Batch
from gen1_jax.errors import EXIT_TRY_AGAIN, TryAgain, UserError, exit_code, one_line
from gen1_jax.files import is_remote

DATA, FSDP, FRAMES = "data", "fsdp", "frames"
PyTree = Any
_WEEK = 7 * 24 * 3600 * 1000  # in milliseconds
_meetings = itertools.count()  # every process makes them in the same order


def make_mesh(data: int = -1, fsdp: int = 1, frames: int = 1, devices: list | None = None) -> Mesh:
    """Returns a (data, fsdp, frames) mesh; one size may be −1, which stands for the rest.

    Args:
      data: devices that share out a batch; each group of the other axes holds the whole model.
      fsdp: devices that share out a batch, and parameters and optimizer state too.
      frames: devices that share out the frames of each clip.
      devices: the devices to use; None: all of this job.

    Raises:
      UserError: the sizes do not fit the devices, or the slices of a TPU job do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(len(devices), data, fsdp, frames)
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"})
    if slices > 1 and shape[0] % slices:
        raise UserError(
            f"mesh (data={data}, fsdp={fsdp}, frames={frames}): the {slices} slices of this job "
            f"must divide data={shape[0]}"
        )
    return Mesh(_arrange(shape, devices, max(1, slices)), (DATA, FSDP, FRAMES))


def mesh_shape(count: int, data: int = -1, fsdp: int = 1, frames: int = 1) -> tuple[int, int, int]:
    """Returns the sizes of a mesh of `count` devices; see `make_mesh`.

    Raises:
      UserError: the sizes do not fit the devices.
    """
    shape = [data, fsdp, frames]
    axes = f"mesh (data={data}, fsdp={fsdp}, frames={frames})"
    if shape.count(-1) > 1 or any(s == 0 or s < -1 for s in shape):
        raise UserError(f"{axes}; accepted: positive sizes, at most one of them -1")
    if -1 in shape:
        shape[shape.index(-1)] = max(1, count // -math.prod(shape))
    if math.prod(shape) != count:
        there = f"there {'is' if count == 1 else 'are'} {count}"
        raise UserError(
            f"{axes} needs data x fsdp x frames = {_product(data, fsdp, frames)} devices, and "
            f"{there}; accepted: sizes whose product is {count}, one of which may be -1 and then "
            "stands for all devices that the others leave"
        )
    return tuple(shape)


def _product(*sizes: int) -> str:
    """Returns the number of devices that sizes ask for; a size of -1 may be any number."""
    known = math.prod(size for size in sizes if size != -1)
    return f"a multiple of {known}" if -1 in sizes else str(known)


def _arrange(shape: Sequence[int], devices: Sequence, slices: int) -> np.ndarray:
    """Makes neighbours on an axis neighbours in the chips' network; `data` spans the slices."""
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    inner = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        inner, (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def batch_parts(mesh: Mesh) -> int:
    """Returns the number of shards of a batch of clips."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the leading axis over `data` and `fsdp`; the devices of one clip hold the same."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def clip_sharding(mesh: Mesh) -> NamedSharding:
    """Shards arrays [b n ...]: b over `data` and `fsdp`, n over `frames`."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP), FRAMES))


def batch_shardings(batch: PyTree, mesh: Mesh) -> PyTree:
    """Returns the sharding of each array of a training batch.

    Clips are sharded over `data` and `fsdp`, and their frames over `frames`. An image has one frame
    only, so a batch of images is sharded over all three axes.

    Args:
      batch: a `Batch`, or another tree of arrays without an axis of frames.
      mesh: the devices.
    """
    if mesh.shape[FRAMES] == 1 or not isinstance(batch, Batch):
        return jax.tree.map(lambda _: batch_sharding(mesh), batch)
    if batch.num_frames == 1:
        images = NamedSharding(mesh, PartitionSpec((DATA, FSDP, FRAMES)))
        return jax.tree.map(lambda _: images, batch)
    by_field = {
        name: (clip_sharding if SCHEMA[name][0].startswith("b n ") else batch_sharding)(mesh)
        for name in batch.fields()
    }
    return Batch(**by_field)


def own_rows(
    mesh: Mesh, size: int, num_frames: int, process_index: int | None = None
) -> np.ndarray:
    """Returns the rows of a batch that the devices of a process hold, in ascending order.

    Each process reads these rows. The row of an example, and so the noise that it meets, then
    depends on the step alone, however the devices are arranged: those of one process need not be
    neighbours in the mesh.

    Args:
      mesh: the devices.
      size: clips or images, over all processes.
      num_frames: frames of a clip; 1 for images.
      process_index: the process; None: this one.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    process_index = jax.process_index() if process_index is None else process_index
    # A clip's frames may lie on several devices, which belong to one process (see `check_batch`).
    holders = (mesh.devices if num_frames == 1 else mesh.devices[..., 0]).reshape(-1)
    held = np.array([device.process_index == process_index for device in holders])
    if held.all():
        return np.arange(size)
    check_batch(size, num_frames, mesh)
    return np.flatnonzero(np.repeat(held, size // len(holders)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Places the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Places this process's rows of a batch (host arrays) on the mesh, by `batch_shardings`.

    They are those of `own_rows`, in the same order.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    if isinstance(batch, Batch):
        check_batch(batch.size * jax.process_count(), batch.num_frames, mesh)

    def put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        count = batch_parts(mesh)
        if x.shape[0] * jax.process_count() % count:
            raise UserError(
                f"a batch of {x.shape[0] * jax.process_count()} does not divide over {count} "
                "devices"
            )
        whole = (x.shape[0] * jax.process_count(), *x.shape[1:])
        return jax.make_array_from_process_local_data(sharding, x, whole)

    return jax.tree.map(put, batch, batch_shardings(batch, mesh))


def check_batch(size: int, num_frames: int, mesh: Mesh) -> None:
    """Checks that a batch divides over the devices.

    Args:
      size: clips or images, over all processes.
      num_frames: frames of a clip; 1 for images.
      mesh: the devices.

    Raises:
      UserError: the batch or the frames do not divide, or the devices of one clip belong to several
        processes.
    """
    frames = mesh.shape[FRAMES]
    parts, what = (mesh.size, "images") if num_frames == 1 else (batch_parts(mesh), "clips")
    if size % parts:
        kind = f"batch of {size} {what}" if frames > 1 else f"batch of {size}"
        raise UserError(
            f"a {kind} does not divide over {parts} devices; a multiple of {parts} is accepted"
        )
    if frames > 1 and num_frames > 1:
        if num_frames % frames:
            raise UserError(
                f"a clip of {num_frames} frames does not divide over mesh.frames={frames} devices; "
                f"accepted: a divisor of {num_frames}"
            )
        rows = mesh.devices.reshape(-1, frames) if isinstance(mesh, Mesh) else ()
        for row in rows:
            if len({device.process_index for device in row}) > 1:
                raise UserError(
                    f"mesh.frames={frames} spreads a clip over the devices of several processes; "
                    "accepted: a number for which all devices of a clip belong to one process"
                )


def check_clips_at_once(size: int, num_frames: int, microbatches: int, mesh: Mesh) -> None:
    """Checks that devices which share the frames of clips compute one clip at a time.

    The layers within a frame merge the axes of clips and frames. If there are several clips, the
    merged axis cannot be sharded by frames: each device would compute all frames of its group.

    Args:
      size: clips in a batch, over all processes.
      num_frames: frames of a clip; 1 for images.
      microbatches: parts of a batch that are computed one after another.
      mesh: the devices.

    Raises:
      UserError: a microbatch has several clips for each group of devices that share frames.
    """
    frames, parts = mesh.shape[FRAMES], batch_parts(mesh)
    if frames > 1 and num_frames > 1 and size != parts * microbatches:
        raise UserError(
            f"mesh.frames={frames} shards the frames of one clip at a time; a batch of {size} "
            f"clips over {parts} x {frames} devices needs microbatches={max(1, size // parts)}, "
            f"and microbatches is {microbatches}"
        )


def check_shared(folder: Path) -> None:
    """Checks that all processes see a folder; does nothing for one process.

    A folder that is not there yet is made for the check and removed again, so that a start that is
    refused later leaves none.

    Raises:
      UserError: some processes do not see what process 0 writes there.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(int.from_bytes(os.urandom(4))))
    mark = folder / f".shared_{int(number):08x}"
    places = () if is_remote(folder) else (folder, *folder.parents)
    missing = [place for place in places if not place.exists()]
    if is_lead():
        with contextlib.suppress(OSError):  # the mark is then not seen
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
    multihost_utils.sync_global_devices("marked")
    seen = multihost_utils.process_allgather(np.bool_(mark.exists()))
    if is_lead():
        mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else has written there
            for place in missing:
                place.rmdir()
    multihost_utils.sync_global_devices("unmarked")  # nobody writes into a folder that goes
    if not seen.all():
        raise UserError(
            f"processes {', '.join(map(str, np.flatnonzero(~seen)))} do not see what process 0 "
            f"writes in {folder}; accepted: a folder that all share"
        )


def is_lead() -> bool:
    """Returns whether this is the one process of the job that speaks and writes."""
    return jax.process_index() == 0


def wait_for_lead(work: Callable[[], str]) -> str:
    """Only process 0 does the work, however long it takes; the others wait until it is done.

    The processes meet at the coordinator, so their devices stay free, and no timeout of a
    collective ends the wait. If process 0 fails, the coordinator ends the others.

    Returns:
      What the work returns; "" on the other processes.
    """
    if jax.process_count() == 1:
        return work()
    found, failures = work() if is_lead() else "", []
    name, client = f"gen1_lead_{next(_meetings)}", jax_distributed.global_state.client

    def meet() -> None:
        try:
            client.wait_at_barrier(name, _WEEK)
        except Exception as error:  # jaxlib raises its own kind
            failures.append(error)

    meeting = threading.Thread(target=meet, daemon=True)
    meeting.start()
    while meeting.is_alive():  # a signal is handled between two waits of the main thread
        meeting.join(0.1)
    if failures:
        raise TryAgain(f"waiting for process 0 failed: {one_line(failures[0])}") from failures[0]
    return found


def all_meet(seconds: float) -> bool:
    """Returns whether all processes call this within so many seconds.

    They meet at the coordinator: no device is needed, so that it tells whether all have met an
    error of their devices.
    """
    if jax.process_count() == 1:
        return True
    name, client = f"gen1_meet_{next(_meetings)}", jax_distributed.global_state.client
    try:
        client.wait_at_barrier(name, int(seconds * 1000))
    except Exception:  # jaxlib raises its own kind
        return False
    return True


def on_lead(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what process 0 finds, on every process; only process 0 does the work.

    Args:
      work: returns what JSON can hold.

    Raises:
      UserError: the work raised it.
    """
    if jax.process_count() == 1:
        return work()
    said: dict[str, Any] = {}
    if is_lead():
        try:
            said = {"found": work()}
        except UserError as error:
            said = {"error": str(error), "code": exit_code(error)}
        except OSError as error:  # of a disk or a store; the others must not wait for process 0
            what = f"{error.filename}: {one_line(error)}" if error.filename else one_line(error)
            said = {"error": what, "code": exit_code(error)}
    text = json.dumps(said).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    own = np.frombuffer(text.ljust(length)[:length], np.uint8)
    said = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(own), np.uint8)))
    if "error" in said:
        raise (TryAgain if said["code"] == EXIT_TRY_AGAIN else UserError)(said["error"])
    return said["found"]


def over_processes(count: int) -> int:
    """Returns the sum of a number of each process; all of them call it."""
    return int(np.sum(multihost_utils.process_allgather(np.int32(count))))


def to_host(tree: PyTree) -> PyTree:
    """Copies arrays, which several processes may share, to whole numpy arrays on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
