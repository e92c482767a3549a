"""One training step: a pure function of seed, step and batch."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_unet import drawn_params, flat, normal

from gen1_jax.aot.hlo import Program
from gen1_jax.batch import Batch
from gen1_jax.distributed import make_mesh, put_batch, replicated
from gen1_jax.errors import UserError
from gen1_jax.models.temporal import TemporalConv, TemporalTransformer
from gen1_jax.training.state import (
    TrainState,
    averaged_params,
    choose_trained,
    make_optimizer,
    new_state,
    state_template,
)
from gen1_jax.training.step import make_step, train_step
from gen1_jax.weights.folder import module_from_config

PARAMS = {
    "dense": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)},
    "clip_mean": np.ones((1, 2), np.float32),  # two axes, but not a kernel
}


KEY = jax.random.key(0)
AVERAGE = {"ema_decay": 0.9, "ema_share": 0.1}


def toy_loss(params, encoder_params, batch, key):
    x = batch.content + jax.random.normal(key, batch.content.shape)
    y = x @ params["dense"]["kernel"] + params["dense"]["bias"]
    return jnp.square(y).mean() * encoder_params["factor"], {"mean": y.mean()}


def toy(steps: int = 1, seed: int = 0, first: int = 0, factor: float = 1.0, **settings):
    """Returns the states before and after each step, and the metrics of the last step."""
    average = AVERAGE | {"ema_share": settings.pop("ema_share", AVERAGE["ema_share"])}
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
            jax.random.key(seed),
            loss=toy_loss,
            optimizer=optimizer,
            **average,
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
    chex.assert_trees_all_equal((one, metrics), (two, again))
    assert int(one.step) == 1 and metrics.keys() == {"loss", "gradient_norm", "bad_steps", "mean"}
    for changed in (toy(seed=1), toy(first=1)):
        assert changed[1]["loss"] != metrics["loss"]


def test_decay_and_share_both_bound_what_the_average_spans():
    """The average spans a share of the run so far, and then the steps that the decay allows."""
    kernel = "dense/kernel"
    (_, first), _ = toy()
    np.testing.assert_array_equal(flat(first.ema)[kernel], flat(first.params)[kernel])
    for start, span in ((0, [1, 1.1, 1.2]), (500, [10, 10, 10])):
        states, _ = toy(3, first=start)
        expected = PARAMS["dense"]["kernel"]
        for state, steps in zip(states[1:], span, strict=True):
            expected += (flat(state.params)[kernel] - expected) / steps
            np.testing.assert_allclose(flat(state.ema)[kernel], expected, rtol=1e-6)


def test_a_share_of_one_gives_the_mean_of_all_steps():
    states, _ = toy(4, ema_share=1.0)
    mean = np.mean([state.params["dense"]["kernel"] for state in states[1:]], axis=0)
    np.testing.assert_allclose(states[-1].ema["dense"]["kernel"], mean, rtol=1e-6)


def test_the_gradient_is_clipped_as_a_whole():
    # After one step Adam's first moment is (1 − b1) times the clipped gradient.
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


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    def loss(params, encoder_params, batch, key):
        y = batch.content @ params["dense"]["kernel"]
        return jnp.square(y - 1).mean(), {"mean": y.mean()}

    batch = Batch(content=normal(3, 12, 3))
    optimizer = make_optimizer(num_steps=9, learning_rate=0.1, warmup_steps=0)
    settings = {"loss": loss, "optimizer": optimizer, **AVERAGE}
    state = new_state(optimizer, PARAMS)
    whole, parts = (
        train_step(state, batch, {}, 0.1, KEY, **settings, microbatches=count) for count in (1, 4)
    )
    chex.assert_trees_all_close(parts, whole, atol=1e-6)
    with pytest.raises(UserError, match="a batch of 12 does not divide into 5 microbatches"):
        train_step(state, batch, {}, 0.1, KEY, **settings, microbatches=5)


def test_only_what_a_pattern_names_is_trained_and_takes_memory():
    optimizer = make_optimizer(num_steps=9, learning_rate=0.1, warmup_steps=0)
    batch, settings = Batch(content=normal(3, 4, 3)), {"optimizer": optimizer, "loss": toy_loss}
    settings |= AVERAGE
    before = new_state(optimizer, PARAMS, ("bias$",))
    state, metrics = train_step(
        before, batch, {"factor": 1.0}, 0.1, KEY, **settings, trains=("bias$",), microbatches=2
    )
    whole, _ = train_step(
        new_state(optimizer, PARAMS), batch, {"factor": 1.0}, 0.1, KEY, **settings, microbatches=2
    )
    names = {"dense/bias"}
    assert flat(state.ema).keys() == flat(optax.tree.get(state.opt_state, "mu")).keys() == names
    averaged, after = flat(averaged_params(state)), flat(state.params)
    assert averaged.keys() == after.keys() == flat(PARAMS).keys()
    for name, value in flat(PARAMS).items():
        assert np.array_equal(after[name], value) == (name not in names)
        assert np.array_equal(averaged[name], value) == (name not in names)
    # Adam's first update is a sign, the same whether or not the others are trained.
    np.testing.assert_allclose(after["dense/bias"], flat(whole.params)["dense/bias"], rtol=1e-5)


@pytest.mark.parametrize(
    ("trains", "message"),
    [
        (("dense/bais",), "trains: 'dense/bais' matches no parameter; near it: dense/bias"),
        (("bias", "temporal"), "'temporal' matches no parameter; near it: "),
        (("(",), "trains: '\\(' is no regular expression: "),
        ("bias", "trains is 'bias'; accepted: a tuple of patterns, \\('bias',\\)"),
    ],
)
def test_a_pattern_that_trains_nothing_is_refused(trains, message):
    with pytest.raises(UserError, match=message):
        choose_trained(PARAMS, trains)


def test_parts_of_a_batch_draw_different_numbers():
    def loss(params, encoder_params, batch, key):
        draw = jax.random.normal(key)
        return params["dense"]["kernel"].sum(), {"draw": draw, "square": draw**2}

    optimizer = make_optimizer(num_steps=9, learning_rate=0.1, warmup_steps=0)
    settings = {"loss": loss, "optimizer": optimizer, **AVERAGE}
    state, batch = new_state(optimizer, PARAMS), Batch(content=normal(3, 4, 3))
    _, metrics = train_step(state, batch, {}, 0.1, KEY, **settings, microbatches=2)
    assert metrics["square"] - metrics["draw"] ** 2 > 1e-3  # the variance of the two draws


def bad_from(first: int, last: int):
    """Returns a loss that is NaN at steps first … last − 1; the content holds the step."""

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
            state, batch, {}, 0.1, KEY, loss=bad_from(1, 3), optimizer=optimizer, **AVERAGE
        )
        counts.append(int(metrics["bad_steps"]))
        kept = [getattr(before, name) for name in ("params", "ema", "opt_state")]
        now = [getattr(state, name) for name in ("params", "ema", "opt_state")]
        same = all(map(np.array_equal, jax.tree.leaves(kept), jax.tree.leaves(now)))
        assert same == (step in (1, 2)) and int(state.step) == step + 1
    assert counts == [0, 1, 2, 0, 0]


def test_a_gradient_without_numbers_changes_nothing_although_the_loss_is_finite():
    def loss(params, encoder_params, batch, key):
        return jnp.sqrt(params["dense"]["bias"].sum() - 2), {}  # √0, whose slope is infinite

    optimizer = make_optimizer(num_steps=10, learning_rate=0.1, warmup_steps=0)
    state, batch = new_state(optimizer, PARAMS), Batch(content=jnp.ones((1, 3)))
    settings = {"loss": loss, "optimizer": optimizer, **AVERAGE}
    after, metrics = train_step(state, batch, {}, 0.1, KEY, **settings)
    assert metrics["loss"] == 0 and int(after.bad_steps) == 1
    chex.assert_trees_all_equal(after.params, PARAMS)


def test_sharded_parameters_train_to_the_same_numbers(quick):
    """Four devices, over two of which the parameters are sharded, agree with one device.

    So they do if they reduce their gradients once, after both microbatches.
    """
    module = module_from_config(
        {"_class_name": "PriorTransformer", "num_attention_heads": 4, "attention_head_dim": 32}
        | {"num_layers": 1, "embedding_dim": 128, "embedding_proj_dim": 128, "num_embeddings": 4}
    )
    params = drawn_params(module)
    x = normal(0, 8, 128)

    def loss(params, encoder_params, batch, key):
        noisy = batch.content + jax.random.normal(key, batch.content.shape)
        b = noisy.shape[0]
        hidden, mask = jnp.repeat(batch.content[:, None], 4, axis=1), np.ones((b, 4), bool)
        t = jax.random.randint(jax.random.fold_in(key, 1), (b,), 0, 900)
        got = module.apply({"params": params}, noisy, t, batch.content, hidden, mask)
        return jnp.square(got - batch.content).mean(), {"time": t.mean(dtype=jnp.float32)}

    optimizer = make_optimizer(num_steps=4, learning_rate=1e-3, warmup_steps=0)
    results, reduced = [], []
    for count, fsdp, once in ((1, 1, "no"), (4, 2, "no"), (4, 2, "float32")):
        mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:count])
        template = state_template(module, optimizer, mesh, min_size_to_shard=512)
        state = jax.tree.map(
            lambda x, t: jax.device_put(np.array(x), t.sharding),
            new_state(optimizer, params),
            template,
        )
        options = {"dtype": "float32", **AVERAGE, "microbatches": 2, "reduce_once": once}
        step = make_step(loss, optimizer, template, **options)
        arguments = state, put_batch(Batch(content=x), mesh), {}, 1e-3, KEY
        program = step.lower(*arguments).compile()
        state, metrics = program(*arguments)
        sent = Program(program.as_text()).collectives(count)
        reduced.append(sum(sent[kind].bytes for kind in sent if "reduce" in kind))
        for got, wanted in zip(*map(jax.tree.leaves, (state, template)), strict=True):
            assert got.sharding == wanted.sharding
        assert all(x.sharding.is_fully_replicated for x in metrics.values())
        # Adam's first update is only a sign; its first moment holds the gradient.
        moments = optax.tree.get(state.opt_state, "mu")
        results.append(jax.tree.map(np.asarray, (metrics, moments)))
        split = [x for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated]
        assert bool(split) == (fsdp > 1)
    for other in results[1:]:
        chex.assert_trees_all_close(results[0], other, rtol=1e-5, atol=1e-6)
    assert reduced[0] == 0 and 0.4 < reduced[2] / reduced[1] < 0.6


class Temporal(nn.Module):
    """The UNet's two temporal layers, on latents [b n h w c]."""

    @nn.compact
    def __call__(self, z):
        z = TemporalConv(name="conv")(nn.Dense(8, name="proj")(z)[:, :, None])
        return TemporalTransformer(2, 4, 8, name="transformer")(z)[:, :, 0]

    def dummy_inputs(self):
        return (jnp.zeros((1, 4, 2, 2, 4)),)


def test_a_clip_s_frames_over_several_devices_train_to_the_same_numbers(quick):
    """Four devices, two for the frames of each clip and two for parameters, agree with one."""
    module, trains = Temporal(), ("transformer", "conv")
    batch = Batch(latents=normal(0, 2, 4, 4, 4, 4))

    def loss(params, encoder_params, batch, key):
        noisy = batch.latents + jax.random.normal(key, batch.latents.shape)
        return jnp.square(module.apply({"params": params}, noisy)).mean(), {}

    optimizer = make_optimizer(num_steps=4, learning_rate=1e-3, warmup_steps=0)
    params, results = drawn_params(module), []
    for shape in ((1, 1, 1), (1, 2, 2)):
        mesh = make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
        template = state_template(module, optimizer, mesh, min_size_to_shard=64, trains=trains)
        state = jax.tree.map(
            lambda x, t: jax.device_put(np.array(x), t.sharding),
            new_state(optimizer, params, trains),
            template,
        )
        options = {"dtype": "float32", **AVERAGE, "trains": trains}
        step = make_step(loss, optimizer, template, **options)
        with jax.set_mesh(mesh):
            state, metrics = step(state, put_batch(batch, mesh), {}, 1e-3, KEY)
        moments = optax.tree.get(state.opt_state, "mu")
        results.append(jax.tree.map(np.asarray, (metrics, moments)))
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-6)


def test_a_second_trace_of_one_shape_is_a_fault():
    """A trace of another shape or precision, or of another run's step, is no fault."""
    mesh = make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(num_steps=9, learning_rate=0.1, warmup_steps=0)
    state = jax.jit(partial(new_state, optimizer), out_shardings=replicated(mesh))(PARAMS)
    options = {"dtype": "float32", **AVERAGE}
    for _ in range(2):
        step = make_step(toy_loss, optimizer, state, **options)
        for size in (4, 8, 4):
            batch = Batch(content=normal(3, size, 3))
            state, _ = step(state, batch, {"factor": 1.0}, 0.1, KEY)
    with jax.default_matmul_precision("highest"):
        state, _ = step(state, batch, {"factor": 1.0}, 0.1, KEY)
    step.clear_cache()
    with pytest.raises(AssertionError, match="traced"):
        step(state, batch, {"factor": 1.0}, 0.1, KEY)
