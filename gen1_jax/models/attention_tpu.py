"""Self-attention on TPU by two Pallas kernels, which never write the scores to main memory.

A chip's fast memory (VMEM) holds all keys of a head, and the scores of a block of queries against
them. The softmax therefore sees whole rows at once.

Arrays are [b heads d l] and scores [keys queries], so that statistics are rows. In this layout the
memory's tiles of 8 x 128 pad a head of 40 channels to 40; in the other they would pad it to 128.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from gen1_jax.hardware import find_chip

_VMEM = 16 * 2**20  # bytes of fast memory that a kernel may take; a v4 has this much
_SUBLANES, _LANES = 8, 128  # a tile of memory


class Tiles(NamedTuple):
    """The part of an image's attention that is in fast memory at a time.

    Attributes:
      heads: Number of heads, with all their keys.
      queries: Number of queries of each head.
    """

    heads: int
    queries: int


def choose_tiles(length: int, heads: int, d: int, q_type: Any, v_type: Any) -> Tiles | None:
    """Returns the tiles with as many heads as fit into fast memory, or None if not even one fits.

    Args:
      length: Number of tokens.
      heads: Number of heads.
      d: Channels of a head.
      q_type: Type of the queries and keys.
      v_type: Type of the values.
    """
    q_type, v_type = jnp.dtype(q_type), jnp.dtype(v_type)
    long = _round_up(length, _LANES)
    for queries in (2 * _LANES, _LANES):
        queries = min(queries, length)
        room = 0.9 * _VMEM - 3 * 4 * long * queries  # scores, weights and their gradients
        # Keys, values, queries, results and the gradients of all four are there twice, since one
        # copy is moved while the other is used. The sums of gradients are float32.
        moved = 2 * 2 * (q_type.itemsize + v_type.itemsize)
        each = d * (moved * (long + queries) + 2 * 4 * long)
        if room >= each:
            fitting = (n for n in range(1, heads + 1) if heads % n == 0 and n * each <= room)
            return Tiles(max(fitting), queries)
    return None


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes softmax(q·k)·v.

    Args:
      q: Queries [b heads d l], already scaled.
      k: Keys [b heads d l].
      v: Values [b heads d l].

    Returns:
      The result [b heads d l] in the values' type; the logarithm of each query's sum of
      exponentials [b heads l] float32, which `attend_backward` takes.
    """
    chex.assert_rank([q, k, v], 4)
    chex.assert_equal_shape([q, k])
    return _over_devices(_attend)(q, k, v)


def attend_backward(q, k, v, y, lse, dy) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of q, k and v.

    Args:
      q: Queries [b heads d l], already scaled.
      k: Keys [b heads d l].
      v: Values [b heads d l].
      y: First result of `attend`.
      lse: Second result of `attend`.
      dy: Gradient of y.
    """
    return _over_devices(_attend_backward)(q, k, v, y, lse, dy)


def _over_devices(function):
    """Makes each device compute its own part of the leading axis.

    The compiler cannot shard a kernel by itself. Where each device already computes alone, there is
    nothing to share out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
        return function
    spec = PartitionSpec(mesh.axis_names)
    return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)


def _attend(q, k, v):
    b, heads, d, length = q.shape
    grid, part, whole, rows = _split(q, v)
    y, lse = pl.pallas_call(
        _forward_kernel,
        grid=grid,
        in_specs=[part, whole, whole],
        out_specs=[part, rows],
        out_shape=[
            jax.ShapeDtypeStruct(v.shape, v.dtype),
            jax.ShapeDtypeStruct((b, grid[1], heads // grid[1], length), jnp.float32),
        ],
        compiler_params=_parameters(),
        cost_estimate=_cost(2, (q, k, v, v), grid[2] * part.block_shape[3]),
        name="attention_forward",
    )(q, k, v)
    return y, lse.reshape(b, heads, length)


def _attend_backward(q, k, v, y, lse, dy):
    b, heads, d, length = q.shape
    grid, part, whole, rows = _split(q, v)
    sums = pltpu.VMEM((heads // grid[1], d, length), jnp.float32)
    return pl.pallas_call(
        partial(_backward_kernel, length=length),
        grid=grid,
        in_specs=[part, whole, whole, part, rows, part],
        out_specs=[part, whole, whole],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        scratch_shapes=[sums, sums],
        compiler_params=_parameters(),
        cost_estimate=_cost(5, (q, k, v, y, dy, q, k, v), grid[2] * part.block_shape[3]),
        name="attention_backward",
    )(q, k, v, y, lse.reshape(b, grid[1], -1, length), dy)


def _split(q: jax.Array, v: jax.Array):
    """Returns the grid (image, group of heads, block of queries) and what one of its steps sees.

    A step sees a block of queries, all keys, and a row with one number for each query of the block,
    out of an array [b groups heads l].
    """
    b, heads, d, length = q.shape
    n, queries = choose_tiles(length, heads, d, q.dtype, v.dtype)
    return (
        (b, heads // n, pl.cdiv(length, queries)),
        pl.BlockSpec((1, n, d, queries), lambda i, g, j: (i, g, 0, j)),
        pl.BlockSpec((1, n, d, length), lambda i, g, j: (i, g, 0, 0)),
        pl.BlockSpec((1, 1, n, queries), lambda i, g, j: (i, g, 0, j)),
    )


def _parameters() -> pltpu.CompilerParams:
    # The blocks of one image run one after another, because they add gradients of the same keys.
    order = ("parallel", "parallel", "arbitrary")
    return pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=_VMEM)


def _cost(products: int, arrays: Sequence[jax.Array], queries: int) -> pl.CostEstimate:
    """Returns a kernel's cost, including the work on padding.

    The last block of queries is computed whole, the matrix unit takes as long for a part of its
    width as for all of it, and memory moves in tiles.

    Args:
      products: Number of matrix products over queries, keys and a head's channels.
      arrays: The arrays that are read or written once [b heads d l].
      queries: Number of queries that are computed, in whole blocks.
    """
    b, heads, d, length = arrays[0].shape
    width, pairs = _matrix_width(), b * heads
    each = math.prod(_round_up(size, width) for size in (queries, length, d))
    rows = sum(_round_up(d, _SUBLANES) * x.dtype.itemsize for x in arrays) + 4  # lse's
    return pl.CostEstimate(
        flops=2 * products * pairs * each,
        transcendentals=pairs * queries * length,
        bytes_accessed=pairs * rows * _round_up(length, _LANES),
    )


def _matrix_width() -> int:
    """Returns the width of the matrix unit of the mesh's chips.

    It is 128 where the mesh does not tell; every chip but the v6e has 128.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    chip = find_chip(device.device_kind) if device else None
    return chip.matrix_width if chip and chip.matrix_width else 128


def _product(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Returns the float32 product of x and y, summed over axis axes[0] of x and axes[1] of y."""
    return jax.lax.dot_general(
        x, y, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def _forward_kernel(q_ref, k_ref, v_ref, y_ref, lse_ref):
    def one_head(h, _):
        v = v_ref[0, h]
        scores = _product(k_ref[0, h], q_ref[0, h], (0, 0))  # [keys queries]
        largest = scores.max(0, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(0, keepdims=True)
        y = _product(v, weights.astype(v.dtype), (1, 0)) / total
        y_ref[0, h] = y.astype(y_ref.dtype)
        lse_ref[0, 0, pl.ds(h, 1)] = largest + jnp.log(total)

    jax.lax.fori_loop(0, q_ref.shape[1], one_head, None)


def _backward_kernel(
    q_ref, k_ref, v_ref, y_ref, lse_ref, dy_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum, *, length
):
    block, size = pl.program_id(2), q_ref.shape[3]

    @pl.when(block == 0)
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    def existing(x):
        """Puts zeros in place of the queries that an incomplete last block lacks."""
        if length % size == 0:
            return x
        query = block * size + jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
        return jnp.where(query < length, x, jnp.zeros_like(x))

    def one_head(h, _):
        k, v = k_ref[0, h], v_ref[0, h]
        q, y, dy = existing(q_ref[0, h]), existing(y_ref[0, h]), existing(dy_ref[0, h])
        scores = _product(k, q, (0, 0))
        weights = jnp.exp(scores - existing(lse_ref[0, 0, pl.ds(h, 1)]))
        along = (dy.astype(jnp.float32) * y.astype(jnp.float32)).sum(0, keepdims=True)
        dscores = (weights * (_product(v, dy, (0, 0)) - along)).astype(q.dtype)
        dq_ref[0, h] = _product(k, dscores, (1, 0)).astype(dq_ref.dtype)
        dk_sum[h] += _product(q, dscores, (1, 1))
        dv_sum[h] += _product(dy, weights.astype(dy.dtype), (1, 1))

    jax.lax.fori_loop(0, q_ref.shape[1], one_head, None)

    @pl.when(block == pl.num_programs(2) - 1)
    def _():
        dk_ref[0] = dk_sum[...].astype(dk_ref.dtype)
        dv_ref[0] = dv_sum[...].astype(dv_ref.dtype)
