"""Where the arrays of a training state lie on the mesh, and how parameters are gathered for use."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen1_jax.distributed import FSDP, PyTree, replicated
from gen1_jax.errors import UserError

# The logical axes of a parameter by its rank: kernel positions, input and output channels.
_LOGICAL_AXES = {
    1: ("out",),
    2: ("in", "out"),
    3: ("place", "in", "out"),
    4: ("place", "place", "in", "out"),
}
# The defaults; a config may say otherwise.
SHARDING = (("out", FSDP), ("in", FSDP))
MIN_SIZE_TO_SHARD = 2**14


def state_sharding(
    mesh: Mesh,
    shapes: PyTree,
    rules: Sequence[tuple[str, str]] = SHARDING,
    min_size_to_shard: int = MIN_SIZE_TO_SHARD,
) -> PyTree:
    """Returns a sharding for each array of a state: parameters, average, optimizer moments.

    Args:
      mesh: the devices.
      shapes: the state, or its shapes.
      rules: pairs (logical axis, mesh axis), tried in order. A rule applies where the mesh axis
        divides the logical axis and is not taken yet.
      min_size_to_shard: the smallest array that is sharded, in elements.

    Raises:
      UserError: a rule names an axis that does not exist.
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


def describe_sharding(params: PyTree, min_size_to_shard: int = MIN_SIZE_TO_SHARD) -> str:
    """Says how much of a model is sharded, and why the rest is replicated.

    Args:
      params: the parameters, or their shapes, with shardings.
      min_size_to_shard: the smallest parameter that was to be sharded, in elements.

    Returns:
      One line, or nothing on a mesh that shards no parameter.
    """
    sharded, small, undivided = [], [], []
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = "/".join(str(key.key) for key in path)
        entry = (math.prod(x.shape) * x.dtype.itemsize, f"{name} {list(x.shape)}")
        if not x.sharding.is_fully_replicated:
            sharded.append(entry)
        else:
            (small if math.prod(x.shape) < min_size_to_shard else undivided).append(entry)
    mesh = next(x.sharding.mesh for x in jax.tree.leaves(params))
    if mesh.shape[FSDP] == 1 and not sharded:
        return ""

    def total(entries: list) -> str:
        return f"{len(entries)} parameters ({sum(size for size, _ in entries) / 2**20:.1f} MiB)"

    text = (
        f"{total(sharded)} sharded; replicated: {total(small)} below {min_size_to_shard} elements"
    )
    if not undivided:
        return text
    largest = [name for _, name in sorted(undivided, reverse=True)]
    more = f" and {len(largest) - 5} more" if len(largest) > 5 else ""
    names = ", ".join(largest[:5])
    return f"{text}, {total(undivided)} whose axes no rule divides: {names}{more}"


def gather(params: PyTree, shardings: PyTree, dtype: Any) -> PyTree:
    """Replicates sharded parameters for one pass; their gradients are sharded again.

    Each device then computes with its own examples only. Without this the compiler propagates a
    kernel's sharding to the activations, and moves activations between devices.

    Args:
      params: the parameters.
      shardings: the sharding of each parameter.
      dtype: the compute type; kernels are sent in it, because layers cast them to it anyway.
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
