"""The training step, the loop, its settings, and what a stage takes over from the last.

That a stopped run goes on to the same numbers stands in test_resume.py.
"""

import itertools
import os
import signal

import jax
import jax.numpy as jnp
import micro
import numpy as np
import optax
import pytest
from micro_run import load
from safetensors.numpy import load_file
from tiny_unet import drawn_params, flat, normal

from gen1_jax import cli
from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner
from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.diffusion.structure import model_input
from gen1_jax.distributed import make_mesh
from gen1_jax.errors import UserError
from gen1_jax.training import loop as training
from gen1_jax.training.checkpoint import Checkpoints
from gen1_jax.training.loop import train
from gen1_jax.training.objectives import Objective
from gen1_jax.training.step import (
    TrainState,
    make_optimizer,
    make_step,
    new_state,
    state_template,
    train_step,
)
from gen1_jax.training.telemetry import EventLog
from gen1_jax.weights.folder import load_model, module_from_config

# ------------------------------------------------------------------------------------- one step

PARAMS = {
    "dense": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)},
    "clip_mean": np.ones((1, 2), np.float32),  # of two axes, but no matrix
}


def toy_loss(params, encoder_params, batch, key):
    x = batch.content + jax.random.normal(key, batch.content.shape)
    y = x @ params["dense"]["kernel"] + params["dense"]["bias"]
    return jnp.square(y).mean() * encoder_params["factor"], {"mean": y.mean()}


def toy(steps: int = 1, seed: int = 0, first: int = 0, factor: float = 1.0, **settings):
    """The states after each step and the metrics of the last."""
    settings = {"num_steps": 10, "learning_rate": 0.1, "warmup_steps": 0} | settings
    optimizer = make_optimizer(**settings)
    state = TrainState(
        jnp.asarray(first, jnp.int32), PARAMS, PARAMS, optimizer.init(PARAMS), jnp.int32(0)
    )
    batch = Batch(content=normal(3, 4, 3))
    states = [state]
    for _ in range(steps):
        state, metrics = train_step(
            state,
            batch,
            {"factor": factor},
            optimizer.learning_rate(state.step),
            loss=toy_loss,
            optimizer=optimizer,
            ema_decay=0.9,
            seed=seed,
        )
        states.append(state)
    return states, metrics


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan")])
def test_a_clip_norm_that_stops_learning_is_refused(clip_norm):
    with pytest.raises(UserError, match="clip_norm is .*; a number above 0 is accepted"):
        make_optimizer(num_steps=1, learning_rate=0.1, warmup_steps=0, clip_norm=clip_norm)


def test_same_seed_step_and_batch_give_the_same_numbers():
    (_, one), metrics = toy()
    (_, two), again = toy()
    jax.tree.map(np.testing.assert_array_equal, (one, metrics), (two, again))
    assert int(one.step) == 1 and metrics.keys() == {"loss", "gradient_norm", "bad_steps", "mean"}
    for changed in (toy(seed=1), toy(first=1)):
        assert changed[1]["loss"] != metrics["loss"]


def test_the_average_follows_closely_at_first_and_by_its_decay_later():
    for first in (0, 500):
        states, _ = toy(3, first=first)
        expected = PARAMS["dense"]["kernel"]
        for k, state in enumerate(states[1:]):
            step = first + k
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * state.params["dense"]["kernel"]
            np.testing.assert_allclose(state.ema["dense"]["kernel"], expected, rtol=1e-6)


def test_the_gradient_is_clipped_as_a_whole():
    # Adam's first moment after one step is (1 − b1) times the gradient that it was given.
    for factor in (1e4, 1e-4):
        (_, state), metrics = toy(factor=factor, clip_norm=0.5, b1=0.9)
        moment = optax.tree.get(state.opt_state, "mu")
        given = optax.tree.norm(moment) / (1 - 0.9)
        np.testing.assert_allclose(given, min(0.5, metrics["gradient_norm"]), rtol=1e-4)


def test_weight_decay_is_for_matrices_alone():
    states, _ = toy(factor=0.0, weight_decay=0.5)
    after = flat(states[1].params)
    np.testing.assert_allclose(after.pop("dense/kernel"), 1 - 0.1 * 0.5, rtol=1e-6)
    for name, value in after.items():
        assert np.all(value == 1), name


def test_the_rate_warms_up_and_falls_to_its_last_fraction():
    states, _ = toy(10, factor=0.0, weight_decay=1.0, warmup_steps=2, final_fraction=0.5)
    kernels = [state.params["dense"]["kernel"][0, 0] for state in states]
    rates = [1 - b / a for a, b in zip(kernels, kernels[1:], strict=False)]
    np.testing.assert_allclose(rates[:3], [0, 0.05, 0.1], atol=1e-6)
    assert all(a > b for a, b in zip(rates[2:], rates[3:], strict=False))
    assert 0.05 < rates[-1] < 0.06


# ------------------------------------------------------------------------------------- the loop


def stream(config):
    return lambda: make_stream(config.data, config.seed)


def test_the_autoencoder_ends_with_latents_of_unit_deviation(micro_run, quick, tmp_path):
    config = load(micro_run, "autoencoder", log_every=3, num_steps=3)
    folder = train(config, tmp_path, stream(config), None, progress=False)
    vae, params = load_model(folder)
    frames = np.concatenate([next(stream(config)()).frames for _ in range(4)])
    latents = Conditioner(vae=vae).encode_frames({"vae": params}, frames)
    assert abs(latents.std() - 1) < 0.15 and vae.scaling_factor != 0.18215
    assert (tmp_path / "logs").is_dir() and not (tmp_path / "samples").exists()


def test_the_prior_keeps_the_statistics_of_its_data(micro_run, quick, tmp_path):
    """Neither gradients nor weight decay reach them."""
    decay = {"optimizer.weight_decay": 0.5}
    config = load(micro_run, "prior", log_every=5, num_steps=5, **decay)
    folder = train(config, tmp_path, stream(config), None, progress=False)
    batches = stream(config)()
    content = np.concatenate([next(batches).content for _ in range(8)]).astype(np.float32)
    _, params = load_model(folder)
    np.testing.assert_allclose(params["clip_mean"][0], content.mean(0), atol=1e-5)
    np.testing.assert_allclose(params["clip_std"][0], content.std(0), atol=2e-4)


def test_a_finished_run_is_not_run_again(micro_run, tmp_path):
    config = load(micro_run, "clip")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "finished.json").write_text('{"steps": 2}')
    assert train(config, tmp_path, lambda: pytest.fail("read data")) == tmp_path / "model"


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("num_steps", 0, "1 or more"),
        ("log_every", 0, "1 or more"),
        ("sample_every", -1, "1 or more"),
        ("checkpoint_every", 0, "1 or more"),
        ("keep_checkpoints", 0, "1 or more"),
        ("seed", -1, "0 to"),
        ("dtype", "float33", "bfloat16"),
        ("objective", "guess", "autoencoder, contrastive"),
        ("loss", {"kl": 1.0}, "kl_weight"),
        ("frozen", {"unet": "x"}, "vae, clip"),
        ("frozen", {"vae": "nowhere"}, "nowhere"),
        ("init_from", "nowhere", "nowhere"),
        ("mesh.data", 3, "mesh"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(micro_run, tmp_path, key, value, part):
    config = load(micro_run, "autoencoder")
    if isinstance(value, dict):
        config[key] = value
    else:
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=part) as caught:
        train(config, tmp_path / "w", stream(config), None, progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "w").exists()


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    def loss(params, encoder_params, batch, key):
        y = batch.content @ params["dense"]["kernel"]
        return jnp.square(y - 1).mean(), {"mean": y.mean()}

    batch = Batch(content=normal(3, 12, 3))
    optimizer = make_optimizer(num_steps=9, learning_rate=0.1, warmup_steps=0)
    settings = {"loss": loss, "optimizer": optimizer, "ema_decay": 0.9, "seed": 0}
    state = new_state(optimizer, PARAMS)
    whole, parts = (
        train_step(state, batch, {}, 0.1, **settings, microbatches=count) for count in (1, 4)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts, whole)
    with pytest.raises(UserError, match="a batch of 12 does not divide into 5 microbatches"):
        train_step(state, batch, {}, 0.1, **settings, microbatches=5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("remat", "all", "accepted: none, products, layer"),
        ("microbatches", 0, "microbatches is 0"),
    ],
)
def test_what_saves_memory_is_checked(micro_run, tmp_path, key, value, message):
    config = load(micro_run, "blur", **{key: value})
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "w", stream(config), None, progress=False)


def bad_from(first: int, last: int):
    """A loss that is no number at steps first … last - 1, told by the content that is fed."""

    def loss(params, encoder_params, batch, key):
        step = batch.content[0, 0]
        bad = (step >= first) & (step < last)
        y = params["dense"]["kernel"].sum()
        return jnp.where(bad, jnp.nan, 1.0) * y**2, {}

    return loss


def test_a_step_without_numbers_changes_nothing_and_is_counted():
    optimizer = make_optimizer(num_steps=10, learning_rate=0.1, warmup_steps=0)
    state = new_state(optimizer, PARAMS)
    counts = []
    for step in range(5):
        batch = Batch(content=jnp.full((1, 3), step))
        before = state
        state, metrics = train_step(
            state, batch, {}, 0.1, loss=bad_from(1, 3), optimizer=optimizer, ema_decay=0.9, seed=0
        )
        counts.append(int(metrics["bad_steps"]))
        kept = [getattr(before, name) for name in ("params", "ema", "opt_state")]
        now = [getattr(state, name) for name in ("params", "ema", "opt_state")]
        same = all(map(np.array_equal, jax.tree.leaves(kept), jax.tree.leaves(now)))
        assert same == (step in (1, 2)) and int(state.step) == step + 1
    assert counts == [0, 1, 2, 0, 0]


def test_several_steps_without_numbers_end_the_run_and_keep_the_batch(
    micro_run, quick, tmp_path, monkeypatch, capsys
):
    def loss(params, encoder_params, batch, key):
        return jax.tree.leaves(params)[0].sum() * jnp.nan, {}

    monkeypatch.setattr(training, "make_objective", lambda *_: Objective(loss))
    config = load(micro_run, "autoencoder", log_every=1000, checkpoint_every=1000, num_steps=9)
    with pytest.raises(UserError, match="at step 5 the loss is nan.* the 5th in a row; its batch"):
        train(config, tmp_path, stream(config), None, progress=False)
    assert "4 in a row" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "model").exists()
    batch = np.load(tmp_path / "bad_batch_5_0.npz")
    expected = list(itertools.islice(stream(config)(), 5))[-1]
    np.testing.assert_array_equal(batch["frames"], expected.frames)


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(signal.SIGINT, training.Stopped, 130), (signal.SIGTERM, training.Preempted, 75)],
)
def test_a_signal_saves_and_has_its_own_exit_code(micro_run, quick, tmp_path, number, kind, code):
    config = load(micro_run, "autoencoder", num_steps=9, checkpoint_every=100)

    class Signalled:
        """A stream that sends the process a signal with its fourth batch."""

        def __init__(self):
            self._stream, self._count = stream(config)(), 0
            self.get_state, self.set_state = self._stream.get_state, self._stream.set_state

        def __iter__(self):
            return self

        def __next__(self):
            self._count += 1
            if self._count == 4:
                os.kill(os.getpid(), number)
            return next(self._stream)

    with pytest.raises(kind, match="stopped and saved at step 4 of 9") as stopped:
        train(config, tmp_path, Signalled, None, progress=False)
    assert getattr(stopped.value, "exit_code", 130) == code
    assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == 4


def test_a_run_says_where_its_time_goes(micro_run, quick, tmp_path, monkeypatch):
    scalars, add = {}, EventLog.add_scalar

    def record(self, name, value, step):
        scalars.setdefault(name, []).append(value)
        return add(self, name, value, step)

    monkeypatch.setattr(EventLog, "add_scalar", record)
    config = load(micro_run, "autoencoder", num_steps=6)
    train(config, tmp_path, stream(config), None, progress=False, profile=2)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
        for line in plane.lines
        for event in line.events
    ]
    assert [dict(event.stats)["step_num"] for event in events if event.name == "train"] == [2, 3]
    # Nor the calls of Python (`$file.py:1 name`): tracing those can crash a process of threads.
    assert not [event.name for event in events if event.name.startswith("$")]
    for name in ("examples_per_second", "model_teraflops_per_second", "time/data", "time/other"):
        assert len(scalars[name]) == 6 and min(scalars[name]) > 0, name
    assert scalars["time/compile"][0] > 0 and "mfu" not in scalars  # nobody rates a CPU so


# ------------------------------------------------------------------------------------- stages


def start(config):
    """The state that a stage starts with, and its module."""
    module = module_from_config(config.model.to_dict())
    optimizer = make_optimizer(num_steps=2, **config.optimizer)
    mesh = make_mesh(devices=jax.devices()[:1])
    template = state_template(module, optimizer, mesh, config)
    return training._create_state(config, module, optimizer, template), module


def test_the_image_stage_starts_from_an_imported_checkpoint(micro_run, quick, tmp_path, capsys):
    """diffusers' file -> `gen1 import` -> `train`; at a rate of 0 the same tensors come out."""
    diffusers = pytest.importorskip("diffusers")
    settings = {k: v for k, v in micro.get_config("image").model.items() if k[0] != "_"}
    reference = diffusers.UNet2DConditionModel(**settings)
    reference.save_pretrained(tmp_path / "published")
    run = tmp_path / "run"
    assert cli.main(["import", "--unet", str(tmp_path / "published"), "-o", str(run)]) == 0
    config = load(micro_run, "image", init_from=str(run / "unet" / "model"), num_steps=1)
    config.optimizer.learning_rate = 0.0
    folder = train(config, run / "image", stream(config), None, progress=False)
    assert "new (" not in capsys.readouterr().out
    got = load_file(folder / "diffusion_pytorch_model.safetensors")
    want = reference.state_dict()
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        # The average of a value with itself is rounded.
        np.testing.assert_allclose(got[name], tensor.numpy(), rtol=2e-7, err_msg=name)


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
    # Two programs, fused differently; that the networks are equal bit for bit: test_unet.py.
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


@pytest.mark.parametrize(
    ("stage", "init_from", "name"),
    [("structure", "image", "temporal_conv1"), ("blur", "clip", "logit_scale")],
)
def test_a_stage_from_the_wrong_model_names_its_tensors(
    micro_run, quick, tmp_path, stage, init_from, name
):
    config = load(micro_run, stage, init_from=str(micro_run / init_from / "model"))
    with pytest.raises(UserError, match=name) as caught:
        train(config, tmp_path / "w", stream(config), None, progress=False)
    assert "do not merge" in str(caught.value) and not (tmp_path / "w").exists()


def test_sharded_parameters_train_to_the_same_numbers(quick):
    """Over 2 x 2 devices, parameters split in two, against one device."""
    module = module_from_config(
        {"_class_name": "PriorTransformer", "num_attention_heads": 4, "attention_head_dim": 32}
        | {"num_layers": 1, "embedding_dim": 128, "embedding_proj_dim": 128, "num_embeddings": 4}
    )
    params = drawn_params(module)
    x, hidden = normal(0, 8, 128), normal(1, 8, 4, 128)

    def loss(params, encoder_params, batch, key):
        noisy = batch.content + jax.random.normal(key, batch.content.shape)
        mask = np.ones((8, 4), bool)
        t = np.full(8, 300)
        got = module.apply({"params": params}, noisy, t, batch.content, hidden, mask)
        return jnp.square(got - batch.content).mean(), {}

    config = micro.get_config("prior")
    config.ema_decay = 0.9
    optimizer = make_optimizer(num_steps=4, learning_rate=1e-3, warmup_steps=0)
    results = []
    for count, fsdp in ((1, 1), (4, 2)):
        mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:count])
        template = state_template(module, optimizer, mesh, config)
        state = jax.tree.map(
            lambda x, t: jax.device_put(np.array(x), t.sharding),
            new_state(optimizer, params),
            template,
        )
        step = make_step(config, loss, optimizer, template.params)
        state, metrics = step(state, training.put_batch(Batch(content=x), mesh), {}, 1e-3)
        # Adam's first update is a sign; its moment is the gradient.
        moments = optax.tree.get(state.opt_state, "mu")
        results.append(jax.tree.map(np.asarray, (metrics, moments)))
        split = [x for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated]
        assert bool(split) == (fsdp > 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
