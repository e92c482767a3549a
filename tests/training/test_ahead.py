"""Programs are compiled before the first step, for all batches that are to come."""

import jax
import jax.numpy as jnp
import numpy as np
from micro_run import SMALL, load

from gen1_jax.batch import Batch, BatchKind
from gen1_jax.data_pipelines.sources import (
    make_stream,
    make_validation_streams,
    read_preview_batch,
)
from gen1_jax.distributed import batch_sharding, make_mesh
from gen1_jax.training import objectives
from gen1_jax.training.ahead import Program, batches_to_come, compile_together, shape_of
from gen1_jax.training.objectives import Objective
from gen1_jax.training.previews import Preview
from gen1_jax.workflow import train_on


def test_the_sizes_to_come_have_the_fields_of_the_first_batch():
    mesh = make_mesh(devices=jax.devices()[:1])
    example = Batch(
        latents=np.zeros((2, 8, 4, 6, 4), np.float16), content=np.zeros((2, 16), np.float32)
    )
    kinds = [
        BatchKind(2, 8, (4, 6), 0.5),
        BatchKind(16, 1, (5, 5), 0.4),
        BatchKind(16, 1, (6, 4), 0.1),
    ]
    first, images = batches_to_come(example, kinds, 5, mesh)
    assert first.latents.shape == (2, 8, 4, 6, 4) and images.latents.shape == (16, 1, 5, 5, 4)
    assert images.content.shape == (16, 16) and images.latents.dtype == np.float16
    assert images.content.sharding == batch_sharding(mesh)
    assert len(batches_to_come(example, kinds, 10, mesh)) == 3
    assert len(batches_to_come(example, (), 10, mesh)) == 1


def test_what_is_compiled_ahead_is_not_traced_again():
    traced = []

    @jax.jit
    def scale(x, batch):
        traced.append(batch.shape)
        return x * batch.sum()

    program = Program(scale, make_mesh(devices=jax.devices()[:1]))
    shapes = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in (2, 3)]
    compile_together([program.lower(np.float32(2), shape) for shape in shapes])
    for n in (2, 3, 4, 4):
        assert program(np.float32(2), np.ones(n, np.float32)) == 2 * n
    assert traced == [(2,), (3,), (4,)]


def small_objective() -> Objective:
    """An objective that compiles fast."""

    def loss(params, encoder_params, batch, key):
        return jax.tree.leaves(params)[0].sum() * batch.frames.astype(jnp.float32).mean(), {}

    preview = Preview(lambda params, _, batch: batch.frames[0, 0], lambda _, x: {"x": x})
    return Objective(loss, preview)


def test_a_run_compiles_all_its_programs_before_its_first_step(
    micro_run, quick, tmp_path, monkeypatch
):
    call, seen, missed = Program.__call__, set(), []

    def checked(self, *arguments):
        if shape_of(arguments[1]) not in self._compiled:  # an error in a preview would end nothing
            missed.append(shape_of(arguments[1]))
        seen.add((self._mesh is None, shape_of(arguments[1])))
        return call(self, *arguments)

    monkeypatch.setattr(Program, "__call__", checked)
    monkeypatch.setattr(objectives, "make_objective", lambda *_: small_objective())
    changes = {"data.image_fraction": 0.5, "num_steps": 2, "eval_every": 2, "eval_batches": 1}
    changes["trains"] = ("quant_conv",)  # fewer parameters compile faster
    config = load(micro_run, "autoencoder", **SMALL, **changes)
    folder = train_on(
        config,
        tmp_path,
        lambda: make_stream(config.data, 0),
        lambda: read_preview_batch(config.data),
        lambda: make_validation_streams(config.data),
        progress=False,
    )
    assert not missed
    assert len(seen) == 3  # videos, images, and the preview
    assert folder.is_dir() and any((tmp_path / "samples").iterdir())
