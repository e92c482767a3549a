"""What a compiled program does, read from its text: by XLA's own compiler, and a TPU's by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from gen1_jax.hlo import Program
from gen1_jax.parallel import make_mesh

X = jax.ShapeDtypeStruct((16, 32), jnp.float32)
W = jax.ShapeDtypeStruct((32, 32), jnp.float32)


def compiled(function, *shapes) -> Program:
    return Program(jax.jit(function).lower(*shapes).compile().as_text())


def test_a_loop_s_products_count_as_often_as_they_run():
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, length=7)[0]

    program = compiled(repeated, X, W)
    assert program.flops() == 7 * 2 * 16 * 32 * 32 and not program.unknown_loops
    # At least both inputs and the result, seven times.
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


# As the TPU's compiler writes it: fast memory S(1), a Pallas kernel, a started gather, a mesh.
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
    # The fusion reads a and writes f, for b is in fast memory; a kernel counts as it says, or as
    # what goes in and out; the sums read and write, the scattered one half.
    # What is sliced into fast memory ahead of its use is read, a quarter of the array.
    sums = 1.5 * array + 2 * array
    assert program.memory_traffic() == 2 * array + 5000 + array / 4 + 2 * array + sums
    assert program.uncounted_kernels() == ["u"]
    assert program.collectives(8) == {
        "reduce-scatter": (1, array, 1 / 2 * array),
        "all-reduce": (1, array, 2 * 3 / 4 * array),
    }
