"""Gradients that every device sums over its own microbatches, and that are reduced once a step.

Without this the compiler reduces the gradient of every microbatch over the devices, since no
device may hold a sum that others lack. Here each device computes alone, on its own examples: it
gathers sharded parameters for each microbatch, and holds one whole gradient in float32.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jax.sharding import NamedSharding, PartitionSpec

from gen1_jax.distributed import DATA, FRAMES, FSDP
from gen1_jax.errors import UserError
from gen1_jax.training.state import choose_like

_BATCH = (DATA, FSDP)  # the axes over which a batch is sharded
_WHOLE = PartitionSpec()


def reduced_once(
    differentiate: Callable,
    accumulate: Callable,
    trained: Any,
    *,
    shardings: Any,
    dtype: str,
    reduce_dtype: str,
) -> Callable:
    """Returns a function that computes a batch's loss and gradient with one reduction.

    Args:
      differentiate: (trained, params, encoder_params, batch, key) → ((loss, metrics), gradient of
        `trained`), of whole parameters.
      accumulate: (function, shards, encoder_params, batch, key) → the average of the function over
        microbatches.
      trained: the parameters that are trained.
      shardings: the sharding of every parameter.
      dtype: the compute type, in which kernels are gathered.
      reduce_dtype: the type in which gradients are summed over the devices.

    Returns:
      (trained, params, encoder_params, batch, key) → ((loss, metrics), gradient).

    Raises:
      UserError: devices share the frames of a clip.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    if mesh.shape[FRAMES] > 1:
        raise UserError(f"reduce_once goes with mesh.frames=1 only, and it is {mesh.shape[FRAMES]}")
    parts = math.prod(mesh.shape[axis] for axis in _BATCH)
    own = choose_like(shardings, trained)
    specs, own_specs = (jax.tree.map(lambda x: x.spec, each) for each in (shardings, own))

    def on_each_device(trained, params, encoder_params, batch, key):
        def of_microbatch(shards, *arguments):
            trained, params = shards
            whole = _gather(trained, own, dtype), _gather(params, shardings, dtype)
            result, gradient = differentiate(*whole, *arguments)
            return result, jax.tree.map(lambda x: x.astype(jnp.float32), gradient)

        share = _key_of_share(key, jax.lax.axis_index(_BATCH), parts)
        found, gradient = accumulate(of_microbatch, (trained, params), encoder_params, batch, share)
        reduce = partial(_reduce, dtype=reduce_dtype, parts=parts)
        return jax.lax.pmean(found, _BATCH), jax.tree.map(reduce, gradient, own)

    return jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=(own_specs, specs, _WHOLE, PartitionSpec(_BATCH), _WHOLE),
        out_specs=(_WHOLE, own_specs),
        check_vma=False,  # gradients stay those of each device until `_reduce`
    )


def _gather(params: Any, shardings: Any, dtype: str) -> Any:
    """Returns whole parameters of a device's shards; kernels are sent in the compute type."""

    def whole(path, x: jax.Array, sharding: NamedSharding) -> jax.Array:
        axes = [(i, name) for i, name in enumerate(sharding.spec) if name]
        if axes and path[-1].key == "kernel":
            x = x.astype(dtype)
        for i, name in axes:
            x = jax.lax.all_gather(x, name, axis=i, tiled=True)
        return x

    return jax.tree_util.tree_map_with_path(whole, params, shardings)


def _reduce(gradient: jax.Array, sharding: NamedSharding, dtype: str, parts: int) -> jax.Array:
    """Returns a device's shard of the mean gradient over all devices."""
    x, left = gradient.astype(dtype), [axis for axis in _BATCH if sharding.mesh.shape[axis] > 1]
    for i, name in enumerate(sharding.spec):
        if name:
            x = jax.lax.psum_scatter(x, name, scatter_dimension=i, tiled=True)
            left = [axis for axis in left if axis != name]
    if left:
        x = jax.lax.psum(x, tuple(left))
    return x.astype(jnp.float32) / parts


# ---- random numbers of a share of a batch


def _key_of_share(key: jax.Array, index: jax.Array, parts: int) -> jax.Array:
    """Returns a key that draws for a share of a batch what `key` draws for the whole batch.

    Noise therefore does not depend on the number of devices. The first axis of whatever is drawn
    must be that of the examples; a scalar is the same for all shares.

    Args:
      key: the whole batch's.
      index: which share it is.
      parts: the number of shares.
    """
    data = jnp.append(jax.random.key_data(key), index.astype(jnp.uint32))
    return jax.random.wrap_key_data(data, impl=_share_impl(parts))


@cache
def _share_impl(parts: int) -> Any:
    """Returns the generator of `_key_of_share`: jax's own, with the share's index in the key."""
    own = threefry_prng_impl

    def beside(keys: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.concatenate([keys, jnp.broadcast_to(key[2:], (*keys.shape[:-1], 1))], axis=-1)

    def random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
        if not shape:
            return own.random_bits(key[:2], bit_width, shape)
        size = shape[0]
        bits = own.random_bits(key[:2], bit_width, (parts * size, *shape[1:]))
        return jax.lax.dynamic_slice_in_dim(bits, key[2].astype(jnp.int32) * size, size)

    return define_prng_impl(
        key_shape=(3,),
        seed=lambda seed: jnp.append(own.seed(seed), jnp.uint32(0)),
        split=lambda key, shape: beside(own.split(key[:2], shape), key),
        random_bits=random_bits,
        fold_in=lambda key, data: beside(own.fold_in(key[:2], data), key),
        name=f"share_of_{parts}",
        tag=f"share{parts}",
    )
