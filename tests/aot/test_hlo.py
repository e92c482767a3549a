"""Tests reading compiled programs: XLA's for CPU, and hand-made text of a TPU's compiler."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from gen1_jax.aot.hlo import Program
from gen1_jax.aot.hlo_text import Shape
from gen1_jax.distributed import make_mesh

X = jax.ShapeDtypeStruct((16, 32), jnp.float32)
W = jax.ShapeDtypeStruct((32, 32), jnp.float32)


def compiled(function, *shapes) -> Program:
    return Program(jax.jit(function).lower(*shapes).compile().as_text())


def test_a_loop_s_products_count_as_often_as_they_run():
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, length=7)[0]

    program = compiled(repeated, X, W)
    assert program.flops() == 7 * 2 * 16 * 32 * 32 and not program.unknown_loops
    # Each of seven runs moves at least both inputs and the result.
    assert program.memory_traffic() >= 7 * 4 * (16 * 32 + 32 * 32 + 16 * 32)


def test_a_loop_of_unknown_length_is_named():
    def until(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x @ w, x)

    program = compiled(until, X, W)
    assert len(program.unknown_loops) == 1 and program.flops() == 2 * 16 * 32 * 32


@pytest.mark.parametrize(("stride", "taps"), [(1, 22), (2, 11)])
def test_a_convolution_counts_without_its_padding(stride, taps):
    x, k = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 4), (3, 3, 4, 6)))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert compiled(convolve, x, k).flops() == 2 * 2 * 6 * 4 * taps * taps


def test_what_eight_devices_send_each_other():
    mesh = make_mesh()

    def total(x):
        return jax.lax.psum(x, mesh.axis_names)

    spec = PartitionSpec(mesh.axis_names)
    summed = jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())
    program = compiled(summed, jax.ShapeDtypeStruct((64, 3), jnp.float32))
    (traffic,) = program.collectives(8).values()
    assert traffic == (1, 8 * 3 * 4, 2 * 7 / 8 * 8 * 3 * 4)


# Text as the TPU's compiler writes it: fast memory S(1), Pallas kernels, a reduce-scatter in a
# fusion, a slice into fast memory, and groups by a mesh.
TPU = """HloModule jit_step

%fused (p0: bf16[8,128], p1: bf16[128,128]) -> bf16[8,128] {
  %p0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %dot = bf16[8,128]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%all-reduce-scatter.1 (p2: bf16[8,128]) -> bf16[4,128] {
  %p2 = bf16[8,128]{1,0} parameter(0)
  %sum = bf16[8,128]{1,0} all-reduce(%p2), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}
  %zero = s32[] constant(0)
  ROOT %slice = bf16[4,128]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={4,128}
}

ENTRY %main (a: bf16[8,128], b: bf16[128,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %f = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%a, %b), kind=kOutput, calls=%fused
  %k = bf16[8,128]{1,0} custom-call(%f), custom_call_target="tpu_custom_call", """ + (
    'backend_config={"custom_call_config":{"body":"TUz","cost_estimate":{"flops":"1000",'
    '"transcendentals":"3","bytes_accessed":"5000","remote_bytes_transferred":"0"}}}'
) + """
  %k1 = ((bf16[8,128]{1,0}), bf16[2,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%k), slice={[0:2]}
  %k2 = bf16[2,128]{1,0:S(1)} slice-done(%k1)
  %u = bf16[8,128]{1,0} custom-call(%k), custom_call_target="tpu_custom_call"
  %s = bf16[4,128]{1,0} fusion(%u), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %r = bf16[8,128]{1,0} all-reduce(%u), channel_id=1, """ + (
    "replica_groups=mesh['data'=4,'fsdp'=2] {'data'}, use_global_device_ids=true, to_apply=%sum\n}"
)  # fmt: skip


def test_a_tpu_s_program():
    program = Program(TPU)
    assert program.flops() == 2 * 8 * 128 * 128 + 1000
    array = 8 * 128 * 2
    # The fusion reads a and writes f; b is in fast memory. A kernel counts as its estimate says, or
    # else as its operand and result. Both sums read and write; the scattered one writes half. The
    # slice into fast memory reads a quarter of the array.
    sums = 1.5 * array + 2 * array
    assert program.memory_traffic() == 2 * array + 5000 + array / 4 + 2 * array + sums
    assert program.uncounted_kernels() == ["u"]
    assert program.collectives(8) == {
        "reduce-scatter": (1, array, 1 / 2 * array),
        "all-reduce": (1, array, 2 * 3 / 4 * array),
    }


@pytest.mark.parametrize(
    ("dtype", "dims", "layout", "stored"),
    [
        ("bf16", (72, 32, 56, 320), "{3,2,1,0:T(8,128)(2,1)}", 2 * 72 * 32 * 56 * 384),
        ("bf16", (72, 32, 56, 320), "{0,3,2,1:T(8,128)(2,1)S(1)}", 2 * 128 * 32 * 56 * 320),
        ("f32", (72, 2, 4, 1920), "{3,2,1,0:T(4,128)}", 4 * 72 * 2 * 4 * 1920),
        ("bf16", (300, 300), "{1,0:T(8,128)(2,1)}", 2 * 304 * 384),
        ("f32", (300,), "{0:T(512)}", 4 * 512),
        ("f32", (), "{:T(128)}", 4 * 128),
        ("f32", (300, 300), "{1,0}", 4 * 300 * 300),
        ("f32", (300,), "", 4 * 300),
    ],
)
def test_tiles_are_stored_whole(dtype, dims, layout, stored):
    assert Shape(dtype, dims, layout).stored_bytes == stored


def test_memory_traffic_is_of_whole_tiles_and_what_is_sent_is_not():
    program = Program("""ENTRY %main (a: bf16[16,320]) -> bf16[16,320] {
  %a = bf16[16,320]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %r = bf16[16,320]{1,0:T(8,128)(2,1)} all-reduce(%a), replica_groups={{0,1}}, to_apply=%sum
}""")
    assert program.memory_traffic() == 2 * 2 * 16 * 384
    assert program.collectives(2)["all-reduce"].bytes == 2 * 16 * 320


def test_a_call_s_inside_counts():
    """XLA's CPU compiler writes `call`; a reduction's `to_apply` is not counted like one."""
    program = Program("""%inner (p: f32[8,16], q: f32[16,4]) -> f32[8,4] {
  %p = f32[8,16]{1,0} parameter(0)
  %q = f32[16,4]{1,0} parameter(1)
  ROOT %d = f32[8,4]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

ENTRY %main (a: f32[8,16], b: f32[16,4]) -> f32[8] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  %zero = f32[] constant(0)
  %c = f32[8,4]{1,0} call(%a, %b), to_apply=%inner
  ROOT %r = f32[8]{0} reduce(%c, %zero), dimensions={1}, to_apply=%sum
}""")
    assert program.flops() == 2 * 8 * 16 * 4
    product, reduction = 4 * (8 * 16 + 16 * 4 + 8 * 4), 4 * (8 * 4 + 1 + 8)
    assert program.memory_traffic() == product + reduction
    assert set(program.runs) == {"main", "inner"}


# Two scatters that the compiler combined, so that they share one channel; and one gather that the
# compiler for v5e starts in one fusion, continues beside a product, and waits for in a third.
SHARED = """%all-reduce-scatter.1 (p0: bf16[8,128]) -> bf16[4,128] {
  %p0 = bf16[8,128]{1,0} parameter(0)
  ROOT %sum.1 = bf16[8,128]{1,0} all-reduce(%p0), channel_id=1, replica_groups={{0,1},{2,3}}
}

%all-reduce-scatter.2 (p1: bf16[32,128]) -> bf16[16,128] {
  %p1 = bf16[32,128]{1,0} parameter(0)
  ROOT %sum.2 = bf16[32,128]{1,0} all-reduce(%p1), channel_id=1, replica_groups={{0,1},{2,3}}
}

%started (p2: bf16[64,32]) -> (bf16[64,32], bf16[64,128], u32[]) {
  %p2 = bf16[64,32]{1,0} parameter(0)
  %g.1 = bf16[64,128]{1,0} all-gather(%p2), GATHER{"flag_start":"-1","flag_end":"-1"}}
  ROOT %c.1 = (bf16[64,32], bf16[64,128]{1,0}, u32[]) custom-call(%g.1), START
}

%async_collective_fusion.1 (p3: bf16[64,32], p4: bf16[64,64]) -> (bf16[64,64], bf16[64,128]) {
  %p3 = bf16[64,32]{1,0} parameter(0)
  %p4 = bf16[64,64]{1,0} parameter(1)
  %d = bf16[64,64]{1,0} convolution(%p4, %p4), dim_labels=bf_io->bf
  %g.2 = bf16[64,128]{1,0} all-gather(%p3), GATHER{"flag_start":"2","flag_end":"8"}}
  ROOT %t = (bf16[64,64], bf16[64,128]) tuple(%d, %g.2)
}

%waited (p5: bf16[64,32]) -> bf16[64,128] {
  %p5 = bf16[64,32]{1,0} parameter(0)
  %g.3 = bf16[64,128]{1,0} all-gather(%p5), GATHER{"flag_start":"2","flag_end":"8"}}
  ROOT %c.2 = bf16[64,128] custom-call(%g.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: bf16[8,128], b: bf16[32,128], c: bf16[64,32], d: bf16[64,64]) -> bf16[64,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %b = bf16[32,128]{1,0} parameter(1)
  %c = bf16[64,32]{1,0} parameter(2)
  %e = bf16[64,64]{1,0} parameter(3)
  %f.1 = bf16[4,128]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %f.2 = bf16[16,128]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.2
  %s = (bf16[64,32], bf16[64,128], u32[]) fusion(%c), kind=kCustom, calls=%started
  %o = (bf16[64,64], bf16[64,128]) fusion(%c, %e), kind=kOutput, calls=%async_collective_fusion.1
  ROOT %w = bf16[64,128]{1,0} fusion(%c), kind=kCustom, calls=%waited
}"""


def test_collectives_of_one_channel_are_told_apart():
    text = SHARED.replace(
        "GATHER",
        "channel_id=1, replica_groups={{0,1,2,3}}, dimensions={1}, "
        'backend_config={"flag_configs":[],"async_collective_fusion_config":',
    ).replace("START", 'custom_call_target="AsyncCollectiveStart"')
    scattered, gathered = 2 * (8 + 32) * 128, 2 * 64 * 128
    assert Program(text).collectives(4) == {
        "reduce-scatter": (2, scattered, scattered / 2),
        "all-gather": (1, gathered, 3 / 4 * gathered),
    }


# Calls of a GPU's libraries: a convolution, its two gradients, and a product.
GPU = """ENTRY %main (x: bf16[8,32,32,16], w: bf16[64,3,3,16], dy: bf16[8,32,32,64]) -> bf16[64,9] {
  %x = bf16[8,32,32,16]{3,2,1,0} parameter(0)
  %w = bf16[64,3,3,16]{3,2,1,0} parameter(1)
  %dy = bf16[8,32,32,64]{3,2,1,0} parameter(2)
  %y = (bf16[8,32,32,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), CONV, TARGET"__cudnn$convForward"
  %dx = (bf16[8,32,32,16]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %w), CONV, TARGET"__cudnn$convBackwardInput"
  %dw = (bf16[64,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), CONV, TARGET"__cudnn$convBackwardFilter"
  %a = bf16[64,32]{1,0} parameter(3)
  %b = bf16[32,9]{1,0} parameter(4)
  ROOT %p = (bf16[64,9]{1,0}, s8[99]{0}) custom-call(%a, %b), TARGET"__cublas$gemm", backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}
}"""  # noqa: E501


def test_calls_of_a_gpu_s_libraries_count_as_what_they_compute():
    window = "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f"
    program = Program(GPU.replace("CONV", window).replace("TARGET", "custom_call_target="))
    convolution = 2 * 8 * 16 * 64 * 94 * 94  # 3 · 32 − 2 taps along an axis that read no padding
    assert program.flops() == 3 * convolution + 2 * 64 * 32 * 9
