"""One clip's frames over eight devices: the same frames as on one, at an eighth of the cost."""

import jax
import numpy as np
import pytest
from tiny_unet import drawn_params, normal

from gen1_jax.aot.hlo import Program
from gen1_jax.diffusion.process import make_schedule
from gen1_jax.diffusion.sampler import sample_latents
from gen1_jax.distributed import batch_sharding, clip_sharding, make_mesh, replicated
from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.cells import make_grid
from gen1_jax.evaluation.sweep import run_sweep
from gen1_jax.evaluation.world_items import world_items
from gen1_jax.models.unet import VideoUNet

SETTINGS = {
    "in_channels": 12,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def sampler(mesh):
    """(compiled program, its arguments) of two guided DDIM steps of one clip of eight frames."""
    module = VideoUNet(**SETTINGS)
    schedule = make_schedule()
    params = jax.device_put(drawn_params(module), replicated(mesh))
    noise, structure = (
        jax.device_put(normal(seed, 1, 8, 16, 16, 4), clip_sharding(mesh)) for seed in (0, 1)
    )
    content, level = normal(2, 1, 12), np.array([2], np.int32)

    def sample(params, noise, structure, content, level):
        return sample_latents(
            module, params, schedule, noise, content, structure, level,
            temporal_scale=1.2, guidance_scale=2.0, num_steps=2,
        )  # fmt: skip

    arguments = params, noise, structure, content, level
    with jax.set_mesh(mesh):
        return jax.jit(sample).lower(*arguments).compile(), arguments


def test_the_frames_of_one_clip_over_eight_devices():
    one, arguments = sampler(make_mesh(devices=jax.devices()[:1]))
    eight, split = sampler(make_mesh(data=1, frames=8))
    want, got = np.asarray(one(*arguments)), eight(*split)
    assert len({str(shard.index) for shard in got.addressable_shards}) == 8  # and they stay there
    np.testing.assert_allclose(got, want, atol=1e-5 * want.std())
    programs = [Program(compiled.as_text()) for compiled in (eight, one)]
    flops = [program.flops() for program in programs]
    assert flops[0] <= flops[1] / 6
    # Neighbours' frames are sent to the convolutions, keys and values to the attention of time.
    assert programs[0].collectives(8).keys() and not programs[1].collectives(1)


@pytest.fixture(scope="module")
def editors(micro_run):
    from conftest import compile_fast

    with pytest.MonkeyPatch.context() as patch:
        compile_fast(patch, micro_run)
        return [
            VideoEditor.load(micro_run / "pipeline", mesh=mesh)
            for mesh in (None, make_mesh(data=2, frames=4))
        ]


def test_an_edit_over_a_mesh_is_the_same_edit(editors):
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
    edits = []
    for editor in editors:
        content = editor.text_content(["a red ball", "a blue cube"])
        edits.append(editor.edit_batch(frames, content, structure_level=1, steps=2))
    for one, spread in zip(*edits, strict=True):
        np.testing.assert_allclose(spread.structure, one.structure, atol=1e-5)
        difference = np.abs(spread.frames.astype(int) - one.frames.astype(int))
        assert difference.max() <= 1  # of 255: rounding


def test_an_evaluation_over_a_mesh_has_the_same_measures(editors, micro_run, tmp_path):
    """A single clip is too few for the devices, so the batch is filled up."""
    items = world_items(micro_run / "world", "test", "test", 1)
    options = {"num_steps": 2, "batch_size": 2, "progress": False}
    found = [
        run_sweep(editor, items, make_grid(), tmp_path / str(i), **options)
        for i, editor in enumerate(editors)
    ]
    ((one,), (spread,)) = found
    del one["seconds"], spread["seconds"]  # how long an edit took
    assert spread.keys() == one.keys() and "mask_iou" in one
    assert {k: v for k, v in one.items() if spread[k] != pytest.approx(v, abs=5e-3)} == {}


def test_every_array_of_an_edit_is_where_it_is_said_to_be(editors, monkeypatch):
    editor, seen = editors[1], []
    sample = editor._sample

    def watched(*arguments):
        seen.append((arguments[:-4], sample(*arguments)))  # without what is static
        return seen[-1][1]

    monkeypatch.setattr(editor, "_sample", watched)
    frames = np.zeros((2, 8, 32, 32, 3), np.uint8)
    content = editor.text_content(["a", "b"])
    editor.edit_batch(frames, content, steps=2)
    clips, batch = clip_sharding(editor.mesh), batch_sharding(editor.mesh)
    ((params, depth, content, keys, *controls), outputs), *_ = seen
    for array, sharding in (
        *((leaf, replicated(editor.mesh)) for leaf in jax.tree.leaves(params)),
        *((array, batch) for array in (content, keys, *controls)),
        *((array, clips) for array in (depth, *outputs)),
    ):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)
    assert len({str(shard.index) for shard in outputs[0].addressable_shards}) == 8


def test_clips_fill_up_the_devices_and_frames_must_divide(editors):
    """A clip over devices for two is edited as it is beside another; its copy is left out."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
    content = editors[1].text_content(["a red ball", "a blue cube"])
    options = {"structure_level": 1, "steps": 2}
    both = editors[1].edit_batch(frames, content, temporal_scale=[0.5, 1.0], **options)
    (alone,) = editors[1].edit_batch(frames[:1], content[:1], temporal_scale=[0.5], **options)
    np.testing.assert_array_equal(alone.frames, both[0].frames)
    np.testing.assert_array_equal(alone.source, frames[0])
    with pytest.raises(UserError, match="clips of 6 frames do not divide over 4 devices"):
        editors[1].edit_batch(frames[:, :6], content, steps=1)
    # Two values for one clip are no values for the clip and its copy.
    with pytest.raises(UserError, match=r"temporal_scale of \[2\]; .* or \[1\]"):
        editors[1].edit_batch(frames[:1], content[:1], temporal_scale=[0.5, 1.0], steps=2)
    with pytest.raises(UserError, match=r"structure map of \[2, .*; \[1, 8, 32, 32\]"):
        editors[1].edit_batch(frames[:1], content[:1], structure=np.zeros((2, 8, 32, 32)))
