"""The TPU's attention kernels, run by Pallas' interpreter, against two matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from tiny_unet import normal

from gen1_jax.distributed import make_mesh
from gen1_jax.models import attention, attention_tpu


@pytest.fixture
def interpreted(monkeypatch):
    call = pl.pallas_call
    monkeypatch.setattr(
        pl, "pallas_call", lambda *args, **options: call(*args, **options, interpret=True)
    )


def arrays(b: int, length: int, heads: int, d: int, dtype=jnp.float32) -> list[jax.Array]:
    q, k, v, dy = (jnp.asarray(normal(seed, b, length, heads, d), dtype) for seed in range(4))
    return [q * jnp.asarray(2 * d**-0.5, dtype), k, v, dy]


# Whole blocks of queries; a last block of 144 queries; a last block of 8; less than one block.
@pytest.mark.parametrize("length", [512, 400, 264, 128])
def test_the_kernels_are_the_two_products(interpreted, length):
    q, k, v, dy = arrays(2, length, 2, 40)
    y, lse = attention._attend_by_kernel(q, k, v)
    want_y, want_lse = attention._attend_by_products(None, q, k, v)
    np.testing.assert_allclose(y, want_y, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, atol=1e-5)
    got = attention._gradients_by_kernel(q, k, v, y, lse, dy)
    want = attention._gradients_by_products(None, q, k, v, want_y, want_lse, dy)
    for name, a, b in zip("qkv", got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5, err_msg=name)


def test_bfloat16_keeps_a_float32_softmax(interpreted):
    q, k, v, dy = arrays(1, 256, 2, 8, jnp.bfloat16)
    y, lse = attention._attend_by_kernel(q, k, v)
    want, want_lse = attention._attend_by_products(
        None, *(x.astype(jnp.float32) for x in (q, k, v))
    )
    assert y.dtype == jnp.bfloat16 and lse.dtype == jnp.float32
    np.testing.assert_allclose(lse, want_lse, atol=1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.02)
    for x in attention._gradients_by_kernel(q, k, v, y, lse, dy):
        assert x.dtype == jnp.bfloat16 and np.isfinite(x.astype(jnp.float32)).all()


def test_every_device_computes_its_part(interpreted):
    q, k, v, dy = arrays(8, 128, 1, 8)
    mesh = make_mesh(data=4, fsdp=2)
    with jax.set_mesh(mesh):
        program = jax.jit(attention._attend_by_kernel).lower(q, k, v).as_text()
        y, lse = jax.jit(attention._attend_by_kernel)(q, k, v)
        gradients = jax.jit(attention._gradients_by_kernel)(q, k, v, y, lse, dy)
    assert "manual_computation" in program or "shard_map" in program
    want = attention._gradients_by_products(None, q, k, v, y, lse, dy)
    for a, b in zip(gradients, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def lowered_for(platform: str, length: int) -> str:
    x = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)

    def loss(q, k, v):
        return attention.attention(q, k, v).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(x, x, x)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_only_a_tpu_s_long_sequences_go_to_the_kernels():
    for platform, length, kernels in (
        ("tpu", 256, 2),
        ("tpu", 248, 0),  # too short to pay
        ("tpu", 260, 0),  # not whole tiles
        ("tpu", 16_384, 0),  # too long for the fast memory
        ("cpu", 256, 0),
    ):
        assert lowered_for(platform, length).count("tpu_custom_call") == kernels, (platform, length)


def cost_of(function, *arrays) -> pl.CostEstimate:
    def find(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "pallas_call":
                return equation.params["cost_estimate"]
            if "jaxpr" in equation.params:
                inner = equation.params["jaxpr"]
                return find(getattr(inner, "jaxpr", inner))

    return find(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_a_kernel_s_cost_includes_the_work_on_padding():
    """Blocks of queries, the matrix unit's width and the memory's tiles are padded."""
    b, heads, d, length = 2, 8, 20, 1920
    x = jax.ShapeDtypeStruct((b, heads, d, length), jnp.bfloat16)
    row = jax.ShapeDtypeStruct((b, heads, length), jnp.float32)
    forward = cost_of(attention_tpu.attend, x, x, x)
    assert forward.flops == 2 * 2 * b * heads * 2048 * 1920 * 128
    assert forward.transcendentals == b * heads * 2048 * 1920
    assert forward.bytes_accessed == b * heads * 1920 * (4 * 2 * 24 + 4)
    backward = cost_of(attention_tpu.attend_backward, x, x, x, x, row, x)
    assert backward.flops == 5 / 2 * forward.flops
    assert backward.bytes_accessed == b * heads * 1920 * (8 * 2 * 24 + 4)
    short = jax.ShapeDtypeStruct((b, heads, d, 448), jnp.bfloat16)
    assert cost_of(attention_tpu.attend, short, short, short).bytes_accessed == (
        b * heads * 512 * (4 * 2 * 24 + 4)
    )
    v6e = AbstractDevice(device_kind="TPU v6 lite", num_cores=1, platform="tpu")
    with use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=v6e)):
        wide = cost_of(lambda *x: attention_tpu.attend(*x), x, x, x)
    assert wide.flops == 2 * 2 * b * heads * 2048 * 2048 * 256


@pytest.mark.parametrize("types", ["bb", "fb", "ff"])
def test_tiles_fit_into_a_v4_s_fast_memory(types):
    """Keys, values and their gradients are there twice, with sums and a block of scores."""
    q_type, v_type = ({"b": jnp.bfloat16, "f": jnp.float32}[each] for each in types)
    sizes = jnp.dtype(q_type).itemsize, jnp.dtype(v_type).itemsize
    for length, heads, d in ((448, 8, 80), (1024, 10, 64), (1792, 8, 40), (1920, 8, 40)):
        tiles = attention_tpu.choose_tiles(length, heads, d, q_type, v_type)
        there = tiles.heads * d * length * (4 * sum(sizes) + 8) + 4 * length * tiles.queries
        assert heads % tiles.heads == 0 and there < 16 * 2**20
