"""The state that a stage starts with, and what it takes over from the stage before."""

import jax
import numpy as np
import pytest
from micro_run import load
from tiny_unet import flat, normal

from gen1_jax.diffusion.structure import model_input
from gen1_jax.distributed import make_mesh
from gen1_jax.training.loop import _prepare
from gen1_jax.training.objectives import Objective
from gen1_jax.training.state import (
    create_state,
    describe_untrained,
    make_optimizer,
    new_state,
    state_template,
)
from gen1_jax.weights.folder import load_model, module_from_config
from gen1_jax.weights.merge import MergeReport


def start(config):
    """Returns the state that a stage starts with, and its module."""
    module = module_from_config(config.model.to_dict())
    optimizer = make_optimizer(num_steps=2, **config.optimizer)
    mesh = make_mesh(devices=jax.devices()[:1])
    template = state_template(module, optimizer, mesh)
    options = {"name": config.name, "seed": config.seed, "init_from": config.init_from}
    options["merge"] = config.merge.to_dict()
    return create_state(module, optimizer, template, **options)[0], module


def test_the_video_stage_starts_as_the_image_model(micro_run, quick, capsys):
    config = load(micro_run, "video")
    state, video = start(config)
    report = capsys.readouterr().out
    assert "new (" in report and "temporal" in report and str(config.init_from) in report
    image, params = load_model(config.init_from)
    new = flat(state.params).keys() - flat(params).keys()
    assert new and all("temporal" in path for path in new)
    z, t, content = normal(0, 2, 3, 8, 8, 4), np.array([3, 700]), normal(1, 2, 1, 16)
    got = jax.jit(video.apply)({"params": state.params}, z, t, content)
    frames = z.reshape(6, 1, 8, 8, 4)
    each = (frames, t.repeat(3), content.repeat(3, 0))
    want = jax.jit(image.apply)({"params": params}, *each)
    # The two programs are fused differently; test_unet.py compares the networks bit for bit.
    np.testing.assert_allclose(got, want.reshape(got.shape), atol=1e-5)


def test_the_structure_stage_ignores_structure_at_first(micro_run, quick, capsys):
    config = load(micro_run, "structure")
    state, module = start(config)
    assert "1 widened (conv_in/kernel)" in capsys.readouterr().out
    z, t, content = normal(0, 2, 3, 8, 8, 4), np.array([3, 700]), normal(1, 2, 1, 16)
    apply = jax.jit(module.apply)
    outputs = [
        apply({"params": state.params}, model_input(z, s, level), t, content)
        for s, level in ((0 * z, np.array([0, 0])), (5 * normal(2, *z.shape), np.array([1, 7])))
    ]
    np.testing.assert_array_equal(*outputs)
    video, params = load_model(config.init_from)
    want = jax.jit(video.apply)({"params": params}, z, t, content)
    np.testing.assert_allclose(outputs[0], want, atol=1e-5)


def test_new_parameters_that_do_not_train_are_named():
    report = MergeReport(("temporal/kernel", "temporal/bias"), (), ("conv_in/kernel",))
    trained = {"temporal": {"kernel": 0, "bias": 0}}
    said = describe_untrained(report, trained)
    assert said.startswith("1 new or widened parameters are not trained") and "conv_in" in said
    assert describe_untrained(report, trained | {"conv_in": {"kernel": 0}}) == ""


class Stream:
    """A stream of no batches."""

    def __iter__(self):
        return iter(())

    def get_state(self):
        return {}

    def set_state(self, place):
        pass


@pytest.mark.parametrize(
    ("new", "mean", "bias"),
    [(("mean", "bias"), 5.0, 5.0), (("bias",), 0.0, 5.0), (("mean",), 5.0, 0.0), ((), 0.0, 0.0)],
)
def test_what_a_model_before_brought_is_not_prepared(new, mean, bias):
    """New parameters are prepared, whether they are trained or not."""
    params = {"mean": np.zeros(2, np.float32), "bias": np.zeros(2, np.float32)}
    optimizer = make_optimizer(num_steps=2, learning_rate=0.1, warmup_steps=0)
    state = jax.jit(lambda params: new_state(optimizer, params, ("bias",)))(params)

    def prepare(params, *_):
        assert new, "read data for nothing"
        return jax.tree.map(lambda x: x + 5, params)

    objective = Objective(None, prepares=("mean", "bias"), prepare=prepare)
    after = _prepare(state, objective, {}, Stream(), frozenset(new))
    assert after.params["mean"][0] == mean
    assert after.params["bias"][0] == after.ema["bias"][0] == bias
    assert after.ema.keys() == {"bias"}
