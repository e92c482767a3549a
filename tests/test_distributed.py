"""The mesh on eight virtual devices: its shapes, its shardings, the same numbers as on one."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tiny_unet import ONE_LEVEL, drawn_params, normal, quick_jit, tiny

from gen1_jax.batch import Batch
from gen1_jax.diffusion.guidance import guided_prediction
from gen1_jax.distributed import (
    batch_sharding,
    make_mesh,
    own_rows,
    put_batch,
    replicated,
)
from gen1_jax.errors import UserError
from gen1_jax.training.sharding import state_sharding


def devices(count=8):
    """Returns devices; conftest.py makes eight, other hardware may have fewer."""
    if len(jax.devices()) < count:
        pytest.skip(f"needs {count} devices")
    return jax.devices()[:count]


@pytest.mark.parametrize(
    ("data", "fsdp", "count", "shape"),
    [
        (-1, 1, 8, (8, 1)),
        (2, -1, 8, (2, 4)),
        (-1, 8, 8, (1, 8)),
        (4, 2, 8, (4, 2)),
        (-1, 3, 6, (2, 3)),
    ],
)
def test_mesh_shapes(data, fsdp, count, shape):
    mesh = make_mesh(data, fsdp, devices=devices(count))
    assert tuple(mesh.shape.items()) == (("data", shape[0]), ("fsdp", shape[1]), ("frames", 1))
    assert set(mesh.devices.flat) == set(devices(count))


@pytest.mark.parametrize(
    ("data", "fsdp"),
    [(3, 1), (-1, 3), (-1, 16), (16, 1), (4, 4), (-1, -1), (0, 8), (-2, 4), (-1, 0), (-4, -2)],
)
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(data, fsdp):
    message = rf"mesh \(data={data}, fsdp={fsdp}, frames=1\).*(: positive|needs .* are 8; accepted)"
    with pytest.raises(UserError, match=message):
        make_mesh(data, fsdp, devices=devices())


def test_a_refused_mesh_says_what_it_needs_and_what_there_is():
    with pytest.raises(UserError) as refused:
        make_mesh(-1, 3, devices=devices())
    assert str(refused.value) == (
        "mesh (data=-1, fsdp=3, frames=1) needs data x fsdp x frames = a multiple of 3 devices, "
        "and there are 8; accepted: sizes whose product is 8, one of which may be -1 and then "
        "stands for all devices that the others leave"
    )


@dataclasses.dataclass(frozen=True)
class Chip:
    """The attributes of a TPU chip that a mesh is arranged by."""

    id: int
    coords: tuple[int, ...]
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    core_on_chip: int = 0
    process_index: int = 0


def chips(slices: int) -> list[Chip]:
    """Returns the chips of slices of 2x2x8; x changes first."""
    places = [(x, y, z) for z in range(8) for y in range(2) for x in range(2)]
    return [Chip(32 * s + i, xyz, s) for s in range(slices) for i, xyz in enumerate(places)]


@pytest.mark.parametrize("slices", [1, 2])
def test_what_is_gathered_often_is_gathered_from_neighbours(slices):
    mesh = make_mesh(-1, 8, devices=chips(slices))
    assert mesh.devices.shape == (4 * slices, 8, 1)
    assert len(set(mesh.devices.flat)) == 32 * slices
    for row in mesh.devices[:, :, 0]:  # a ring along z
        assert [chip.coords[2] for chip in row] == list(range(8))
        assert len({(chip.slice_index, *chip.coords[:2]) for chip in row}) == 1


def test_slices_are_parts_of_data():
    message = r"mesh \(data=1, fsdp=-1, frames=1\): the 2 slices of this job must divide data=1"
    with pytest.raises(UserError, match=message):
        make_mesh(1, -1, devices=chips(2))


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_a_batch_is_spread_over_all_devices(fsdp):
    mesh = make_mesh(-1, fsdp, devices=devices())
    batch = Batch(latents=normal(0, 16, 3, 2, 2, 4), structure_level=np.arange(16, dtype=np.int32))
    placed = put_batch(batch, mesh)
    assert isinstance(placed, Batch) and placed.fields().keys() == batch.fields().keys()
    for name, value in placed.fields().items():
        assert value.sharding == batch_sharding(mesh)
        assert [s.data.shape[0] for s in value.addressable_shards] == [2] * 8
        np.testing.assert_array_equal(value, getattr(batch, name))


@pytest.mark.parametrize("size", [1, 4, 12])
def test_a_batch_that_does_not_divide_is_refused(size):
    mesh = make_mesh(-1, 2, devices=devices())
    with pytest.raises(UserError, match=f"a batch of {size} does not divide over 8 devices"):
        put_batch(Batch(content=normal(0, size, 5)), mesh)


def arranged(order: list[int], shape: tuple[int, int, int]) -> Mesh:
    """Returns a mesh of chips, two of which belong to each process, in any order."""
    chips = [Chip(i, (i, 0, 0), 0, process_index=i // 2) for i in range(len(order))]
    return Mesh(np.array(chips)[order].reshape(shape), ("data", "fsdp", "frames"))


@pytest.mark.parametrize(
    ("order", "shape", "num_frames", "rows"),
    [
        ([0, 1, 2, 3], (4, 1, 1), 8, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([2, 3, 0, 1], (4, 1, 1), 8, [[4, 5, 6, 7], [0, 1, 2, 3]]),
        ([0, 2, 1, 3], (2, 2, 1), 8, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ([3, 0, 1, 2], (1, 4, 1), 1, [[2, 3, 4, 5], [0, 1, 6, 7]]),
        ([2, 3, 0, 1], (2, 1, 2), 8, [[4, 5, 6, 7], [0, 1, 2, 3]]),  # clips lie on two chips
        ([2, 0, 3, 1], (2, 1, 2), 1, [[2, 3, 6, 7], [0, 1, 4, 5]]),  # images on all
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(order, shape, num_frames, rows):
    mesh = arranged(order, shape)
    for process, want in enumerate(rows):
        assert own_rows(mesh, 8, num_frames, process).tolist() == want
    with pytest.raises(UserError, match="a batch of 9 .*does not divide"):
        own_rows(mesh, 9, num_frames, 0)


def test_a_process_alone_reads_all_rows():
    assert own_rows(make_mesh(devices=devices(8)), 3, 1).tolist() == [0, 1, 2]


def clips(size: int, frames: int) -> Batch:
    latents = normal(0, size, frames, 2, 2, 4)
    return Batch(latents=latents, structure_level=np.arange(size, dtype=np.int32))


def test_the_frames_of_clips_are_spread_and_images_lie_on_all_devices():
    mesh = make_mesh(2, 2, 2, devices=devices())
    placed = put_batch(clips(8, 4), mesh)
    assert placed.latents.sharding.spec == P(("data", "fsdp"), "frames")
    assert placed.structure_level.sharding.spec == P(("data", "fsdp"))
    images = put_batch(clips(8, 1), mesh)
    assert [s.data.shape[0] for s in images.latents.addressable_shards] == [1] * 8
    np.testing.assert_array_equal(placed.latents, clips(8, 4).latents)


@pytest.mark.parametrize(
    ("size", "frames", "message"),
    [
        (8, 3, r"a clip of 3 frames does not divide over mesh.frames=2 .* a divisor of 3"),
        (6, 4, "a batch of 6 clips does not divide over 4 devices; a multiple of 4"),
        (4, 1, "a batch of 4 images does not divide over 8 devices; a multiple of 8"),
    ],
)
def test_frames_that_do_not_divide_are_refused(size, frames, message):
    with pytest.raises(UserError, match=message):
        put_batch(clips(size, frames), make_mesh(2, 2, 2, devices=devices()))


def train_step(params, momentum, x, y):
    """A loss with a mean over the batch, and an optimizer with a state."""

    def loss_of(params):
        hidden = jax.nn.gelu(x @ params["w1"] + params["b1"])
        return jnp.square(hidden @ params["w2"] - y).mean()

    loss, gradient = jax.value_and_grad(loss_of)(params)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
    return loss, jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), momentum


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_training_on_eight_devices_is_training_on_one(fsdp):
    params = {"w1": normal(0, 64, 256) / 8, "b1": normal(1, 256), "w2": normal(2, 256, 64) / 16}
    momentum = jax.tree.map(np.zeros_like, params)
    data = {"x": normal(3, 16, 64), "y": normal(4, 16, 64)}

    mesh = make_mesh(-1, fsdp, devices=devices())
    sharding = state_sharding(mesh, params)
    if fsdp > 1:
        assert not sharding["w1"].is_fully_replicated and sharding["b1"].is_fully_replicated
    state_shardings = (replicated(mesh), sharding, sharding)
    sharded_step = jax.jit(train_step, out_shardings=state_shardings)
    many = jax.device_put((params, momentum), (sharding, sharding))
    placed = put_batch(data, mesh)
    one_step = jax.jit(train_step)
    one = params, momentum
    for _ in range(3):
        loss, *one = one_step(*one, **data)
        sharded_loss, *many = sharded_step(*many, **placed)
        np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
    for got, want in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    placement = jax.tree.map(lambda x, s: x.sharding == s, many[0], sharding)
    assert all(jax.tree.leaves(placement))


def test_the_branches_of_guidance_move_nothing_between_devices():
    """Each device guides its own clips, because branches have an axis beside the batch."""
    module = tiny(in_channels=12, **ONE_LEVEL)
    params = drawn_params(module)
    mesh = make_mesh(-1, 1, devices=devices())
    z, structure = normal(0, 8, 2, 4, 4, 4), normal(1, 8, 2, 4, 4, 4)
    args = z, np.arange(8) * 100, normal(2, 8, 1, 6), structure, np.arange(8)

    def guided(params, *args):
        def network(*inputs, **keywords):
            return module.apply({"params": params}, *inputs, **keywords)

        return guided_prediction(network, *args, 1.2, 5.0)

    placed = jax.device_put(params, replicated(mesh)), *put_batch(args, mesh)
    program = quick_jit(guided).lower(*placed).compile()
    collectives = r"all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    assert not re.findall(collectives, program.as_text())
    got = program(*placed)
    assert got.sharding.is_equivalent_to(batch_sharding(mesh), got.ndim)
    want = quick_jit(guided)(params, *args)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
