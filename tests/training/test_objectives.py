"""Every objective: a finite loss that falls on one fixed batch, and what surrounds it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from micro_run import load
from tiny_unet import drawn_params, flat, normal

from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner
from gen1_jax.data_pipelines.sources import make_stream
from gen1_jax.diffusion.process import make_schedule, target
from gen1_jax.errors import UserError
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.training.objectives import make_objective
from gen1_jax.weights.folder import load_model, module_from_config

PARTS = ("autoencoder", "clip", "depth", "prior", "image", "blur")


def setting(root, part: str, **changes):
    """Returns (objective, parameters, encoder parameters, one batch) of a part."""
    config = load(root, part, **changes)
    module, params = load_model(root / part / "model")
    conditioner, encoder_params = Conditioner.load(config.frozen.to_dict())
    settings = config.loss.to_dict()
    null = load_tokenizer(root / "tokenizer").encode([""])
    objective = make_objective(config.objective, module, conditioner, settings, null)
    return objective, params, encoder_params, next(make_stream(config.data, 0))


def fall(objective, params, encoder_params, batch, steps: int = 30) -> np.ndarray:
    """Returns the losses of Adam's steps on one batch, with the same key at each step."""
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss(params):
            return objective.loss(params, encoder_params, batch, jax.random.key(0))

        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value, metrics, gradient

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, value, metrics, gradient = step(params, state)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, metrics, gradient)))
        losses.append(float(value))
    return np.array(losses)


@pytest.mark.parametrize("part", PARTS)
def test_the_loss_falls(micro_run, quick, part):
    # Clips for depth and the last stage, images for the others.
    changes = {"data.image_fraction": 0.0, "data.batch_size": 2} if part == "blur" else {}
    objective, params, encoder_params, batch = setting(micro_run, part, **changes)
    losses = fall(objective, params, encoder_params, batch)
    assert losses[-5:].mean() < 0.9 * losses[0], losses


def test_an_image_is_a_clip_of_one_frame(micro_run, quick):
    """On an image batch the video model's temporal parameters get no gradient."""
    changes = {"data.image_fraction": 1.0, "data.image_batch_size": 2}
    objective, params, encoder_params, batch = setting(micro_run, "blur", **changes)
    assert batch.num_frames == 1

    def loss(params):
        return objective.loss(params, encoder_params, batch, jax.random.key(0))[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    temporal = [x for path, x in flat(gradient).items() if "temporal" in path]
    assert temporal and not any(np.any(x) for x in temporal)
    assert np.any(gradient["conv_in"]["kernel"])


def test_raw_batches_train_as_encoded_ones_do(micro_run, quick):
    """The loss is the same whether a batch is encoded in the step or before it.

    Latents are drawn, so that their mean and their variance both count.
    """
    config = load(micro_run, "blur")
    module, params = load_model(micro_run / "blur" / "model")
    folders = {name: micro_run / "pipeline" / name for name in ("vae", "clip", "depth")}
    conditioner, encoder_params = Conditioner.load(folders)
    settings = config.loss.to_dict() | {"latents_drawn": True}
    loss = make_objective("diffusion", module, conditioner, settings).loss
    rng = np.random.default_rng(0)
    raw = Batch(
        frames=rng.integers(0, 256, (2, 3, 16, 16, 3), np.uint8),
        structure_level=np.array([0, 4]),
        content_frame=np.array([2, 1]),
    )
    key = jax.random.key(5)
    encoded = jax.jit(conditioner.encode_batch)(encoder_params, raw)
    # This is the gradient of the encoders' parameters: the encoders learn nothing.
    both = jax.jit(jax.value_and_grad(lambda f: loss(params, f, raw, key)[0]))
    value, gradient = both(encoder_params)
    expected = jax.jit(loss)(params, {}, encoded, key)[0]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))


def test_raw_batches_without_their_encoders_are_refused(micro_run):
    module = module_from_config(load(micro_run, "blur").model.to_dict())
    loss = make_objective("diffusion", module, Conditioner(), {}).loss
    raw = Batch(frames=np.zeros((1, 2, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="vae, clip and depth.*missing: vae, clip, depth"):
        loss({}, {}, raw, jax.random.key(0))


def test_content_and_structure_are_dropped_for_zeros(micro_run, quick):
    """At a rate of 1 they have no influence; at a rate of 0 they have."""
    module, params = load_model(micro_run / "blur" / "model")
    batch = Batch(
        latents=normal(0, 4, 2, 8, 8, 4),
        structure=normal(1, 4, 2, 8, 8, 4),
        structure_level=np.arange(4, dtype=np.int32),
        content=normal(2, 4, 16),
    )
    others = [
        batch.replace(content=normal(3, 4, 16)),
        batch.replace(structure=normal(4, 4, 2, 8, 8, 4)),
        batch.replace(structure_level=batch.structure_level[::-1].copy()),
    ]
    for rate, same in ((1.0, True), (0.0, False)):
        settings = {"content_drop_rate": rate, "structure_drop_rate": rate}
        loss = jax.jit(make_objective("diffusion", module, Conditioner(), settings).loss)
        values = [float(loss(params, {}, b, jax.random.key(1))[0]) for b in (batch, *others)]
        assert all((values[0] == value) == same for value in values[1:])


class PositionTable(nn.Module):
    """Predicts the row of its table that stands for a frame."""

    in_channels = out_channels = 4
    max_frames = 6

    @nn.compact
    def __call__(self, z, t, content, first_frame=None):
        table = self.param("table", nn.initializers.normal(), (self.max_frames, 4))
        first = jnp.zeros_like(t) if first_frame is None else first_frame
        rows = table[first[:, None] + jnp.arange(z.shape[1])]
        return jnp.broadcast_to(rows[:, :, None, None], z.shape)


@pytest.mark.parametrize(("random_positions", "trained"), [(False, 2), (True, 6)])
def test_random_positions_train_every_row_of_the_table(random_positions, trained):
    batch = Batch(latents=normal(0, 64, 2, 1, 1, 4), content=normal(1, 64, 8))
    settings = {"random_positions": random_positions}
    loss = make_objective("diffusion", PositionTable(), Conditioner(), settings).loss
    params = {"table": normal(2, 6, 4)}
    for images in (False, True):  # an image is one frame, and has no position
        batch = batch.replace(latents=batch.latents[:, :1]) if images else batch
        gradient = jax.grad(lambda p, b=batch: loss(p, {}, b, jax.random.key(0))[0])(params)
        moved = np.abs(gradient["table"]).sum(-1) > 0
        np.testing.assert_array_equal(moved, np.arange(6) < (1 if images else trained))


def test_min_snr_gamma_weighs_each_example_by_its_timestep():
    """A mean of weighted errors: with γ so large that nothing is cut, SNR / (SNR + 1) = ᾱ_t."""
    batch = Batch(latents=normal(0, 64, 1, 1, 1, 4), content=normal(1, 64, 8))
    params, key = {"table": normal(2, 6, 4)}, jax.random.key(0)

    def loss(**settings):
        made = make_objective("diffusion", PositionTable(), Conditioner(), settings)
        return made.loss(params, {}, batch, key)[0]

    time_key, noise_key, *_ = jax.random.split(key, 5)
    t = jax.random.randint(time_key, (64,), 0, 1000)
    schedule, eps = make_schedule(), jax.random.normal(noise_key, batch.latents.shape)
    error = jnp.square(params["table"][0] - target(schedule, batch.latents, eps, t))
    np.testing.assert_allclose(loss(), error.mean(), rtol=1e-5)
    weighted = error.mean((1, 2, 3, 4)) * schedule.alphas_cumprod[t]
    np.testing.assert_allclose(loss(min_snr_gamma=1e9), weighted.mean(), rtol=1e-5)
    assert loss(min_snr_gamma=1.0) < loss(min_snr_gamma=5.0) < loss(min_snr_gamma=1e9)
    with pytest.raises(UserError, match="min_snr_gamma is 0; a number above 0 is accepted"):
        loss(min_snr_gamma=0)


def test_the_prior_prepares_the_statistics_of_its_data():
    settings = {"calibration_examples": 71}  # 8 of the batches
    objective = make_objective("prior", PriorTransformer(), Conditioner(), settings)
    params = {"clip_mean": np.zeros((1, 3)), "clip_std": np.ones((1, 3)), "x": 5}
    content = 200 + 3 * normal(0, 12, 10, 3) + np.arange(12)[:, None, None]
    batches = iter([Batch(content=c.astype(np.float32)) for c in content])
    prepared = objective.prepare(params, {}, batches)
    rows = content[:8].reshape(-1, 3)
    assert len(list(batches)) == 4
    np.testing.assert_allclose(prepared["clip_mean"], rows.mean(0, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(prepared["clip_std"], rows.std(0, keepdims=True), rtol=1e-3)
    assert prepared["x"] == 5 and params["clip_std"].sum() == 3


def test_the_prior_drops_captions_for_the_tokenizer_s_empty_text(micro_run, quick):
    """Where every caption is dropped, the loss is that of empty captions, whatever pads them."""
    _, params, encoder_params, batch = setting(micro_run, "prior")
    module, _ = load_model(micro_run / "prior" / "model")
    conditioner, _ = Conditioner.load(load(micro_run, "prior").frozen.to_dict())
    padding = 7  # no end-of-text, as Stable Diffusion 2's tokenizer pads
    null = load_tokenizer(micro_run / "tokenizer").encode([""])
    null = np.where(np.arange(null.shape[1]) < 2, null, padding)
    losses = []
    for drop_rate, tokens in ((1.0, batch.tokens), (0.0, np.repeat(null, batch.size, axis=0))):
        settings = {"drop_rate": drop_rate}
        loss = make_objective("prior", module, conditioner, settings, null).loss
        arguments = params, encoder_params, batch.replace(tokens=tokens), jax.random.key(0)
        losses.append(float(jax.jit(loss)(*arguments)[0]))
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_depth_is_learned_up_to_a_scale_and_a_shift_and_the_right_way_up(micro_run, quick):
    """Scale and shift of the true depth do not change the loss; depth upside down is penalised."""
    objective, params, encoder_params, batch = setting(micro_run, "depth")
    loss = jax.jit(objective.loss)
    key = jax.random.key(0)
    value, metrics = loss(params, encoder_params, batch, key)
    scaled, _ = loss(params, encoder_params, batch.replace(depth=3 * batch.depth + 7), key)
    turned, other = loss(params, encoder_params, batch.replace(depth=-batch.depth), key)
    np.testing.assert_allclose(value, scaled, rtol=1e-3)
    assert abs(turned - value) > 1e-4
    np.testing.assert_allclose(metrics["correlation"], -other["correlation"], atol=1e-5)
    level = batch.replace(depth=jnp.ones_like(batch.depth))
    assert all(np.isfinite(x) for x in jax.tree.leaves(loss(params, encoder_params, level, key)))


def test_equal_captions_are_no_mistake(micro_run, quick):
    """Examples with the same caption are not negatives of each other."""
    objective, params, encoder_params, batch = setting(
        micro_run, "clip", **{"data.image_batch_size": 8}
    )
    same = batch.replace(tokens=np.repeat(batch.tokens[:1], 8, axis=0))
    value, metrics = jax.jit(objective.loss)(params, encoder_params, same, jax.random.key(0))
    assert metrics["retrieval"] == 1 and np.isfinite(value)


def test_previews_are_pictures_and_numbers(micro_run, quick):
    for part, name in (("autoencoder", "reconstruction"), ("depth", "depth")):
        objective, params, encoder_params, batch = setting(micro_run, part)
        picture = objective.preview(params, encoder_params, batch)[name]
        assert picture.dtype == np.uint8 and picture.shape[-1] == 3 and picture.ndim == 3
    objective, params, encoder_params, batch = setting(micro_run, "prior")
    cosine = objective.preview(params, encoder_params, batch)["cosine"]
    assert isinstance(cosine, float) and -1 <= cosine <= 1


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("guess", {}, "unknown objective 'guess'; accepted: autoencoder"),
        ("prior", {"rate": 1}, "prior has no setting 'rate'; accepted: drop_rate"),
        ("contrastive", {"kl": 1}, "no setting 'kl'; accepted: max_logit_scale"),
    ],
)
def test_unknown_names_are_refused(name, settings, words):
    with pytest.raises(UserError, match=words):
        make_objective(name, None, Conditioner(), settings)


def test_drawn_parameters_are_the_modules(micro_run):
    """No parameter that these tests start from is missing or zero."""
    module = module_from_config(load(micro_run, "video").model.to_dict())
    assert all(np.any(x) for x in jax.tree.leaves(drawn_params(module)))
