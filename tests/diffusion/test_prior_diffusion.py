"""The prior's schedule, sampler and loss, against diffusers' `UnCLIPScheduler`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.diffusion.prior import (
    StepTable,
    TextCondition,
    ancestral_step,
    drop_text,
    prior_loss,
    q_sample,
    sample_prior,
    squared_cosine_schedule,
    step_table,
)
from gen1_jax.errors import UserError

DIM, LENGTH = 12, 5


def scheduler(clamp):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UnCLIPScheduler(
        prediction_type="sample", variance_type="fixed_small_log", clip_sample_range=clamp
    )


def scheduler_step(reference, x0, i, x, noise, monkeypatch):
    """Takes one step of diffusers' scheduler with given noise."""
    torch = pytest.importorskip("torch")
    name = "diffusers.schedulers.scheduling_unclip.randn_tensor"
    monkeypatch.setattr(name, lambda *_, **__: torch.from_numpy(np.array(noise)))
    t = reference.timesteps
    previous = int(t[i + 1]) if i + 1 < len(t) else None
    x0, x = (torch.from_numpy(np.array(array)) for array in (x0, x))
    return reference.step(x0, int(t[i]), x, prev_timestep=previous).prev_sample.numpy()


def text(batch, seed):
    rng = np.random.default_rng(seed)
    return TextCondition(
        embed=rng.normal(size=(batch, DIM)).astype(np.float32),
        hidden=rng.normal(size=(batch, LENGTH, 7)).astype(np.float32),
        mask=np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (batch, 1)),
    )


def predict(x, t, embed, hidden, mask):
    """A small stand-in for the network, nonlinear in all of its inputs."""
    summary = (hidden * mask[..., None]).sum((1, 2))[:, None]
    return 3 * jnp.tanh(x + embed) + jnp.sin(summary) + jnp.cos(t / 100.0)[:, None]


def test_schedule_is_diffusers():
    reference = scheduler(5.0)
    betas, alpha_bars = squared_cosine_schedule()
    np.testing.assert_array_equal(betas, reference.betas.numpy())
    np.testing.assert_allclose(alpha_bars, reference.alphas_cumprod.numpy(), rtol=2e-7)
    assert betas.dtype == alpha_bars.dtype == np.float32


def test_noising_is_diffusers():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x0, noise = rng.normal(size=(2, 6, DIM)).astype(np.float32)
    t = np.array([0, 1, 250, 500, 998, 999])
    want = scheduler(5.0).add_noise(*map(torch.from_numpy, (x0, noise, t))).numpy()
    np.testing.assert_allclose(q_sample(x0, t, noise), want, atol=1e-6)


@pytest.mark.parametrize("num_steps", [2, 3, 25, 60, 999, 1000])
def test_timesteps_are_diffusers(num_steps):
    reference = scheduler(5.0)
    reference.set_timesteps(num_steps)
    np.testing.assert_array_equal(step_table(num_steps).timesteps, reference.timesteps.numpy())


@pytest.mark.parametrize(("num_steps", "clamp"), [(25, 5.0), (25, 10.0), (7, 1.0), (1000, 5.0)])
def test_every_step_is_diffusers(num_steps, clamp, monkeypatch):
    reference = scheduler(clamp)
    reference.set_timesteps(num_steps)
    table = step_table(num_steps)
    assert all(np.asarray(entry).dtype == np.float32 for entry in table[1:])
    rng = np.random.default_rng(num_steps)
    for i in {*range(0, num_steps, max(1, num_steps // 25)), num_steps - 2, num_steps - 1}:
        x, x0, noise = rng.normal(size=(3, 2, DIM)).astype(np.float32)
        want = scheduler_step(reference, 4 * x0, i, x, noise, monkeypatch)
        step = StepTable(*(entry[i] for entry in table))
        np.testing.assert_allclose(
            ancestral_step(x, 4 * x0, noise, step, clamp), want, atol=1e-5, err_msg=f"step {i}"
        )


@pytest.mark.parametrize("guidance_scale", [None, 1.0, 4.0])
def test_sampling_is_diffusers_loop(guidance_scale, monkeypatch):
    batch, num_steps = 3, 12
    prompt, null = text(batch, 0), text(1, 1)
    key = jax.random.key(5)
    reference = scheduler(2.0)
    reference.set_timesteps(num_steps)
    x = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), (batch, DIM)))
    wide = TextCondition(*(np.broadcast_to(n, p.shape) for n, p in zip(null, prompt, strict=True)))
    for i, t in enumerate(reference.timesteps.numpy()):
        t = jnp.full((batch,), t)
        x0 = predict(x, t, *prompt)
        if guidance_scale is not None:
            x0_null = predict(x, t, *wide)
            x0 = x0_null + guidance_scale * (x0 - x0_null)
        noise = jax.random.normal(jax.random.fold_in(key, 1 + i), (batch, DIM))
        x = scheduler_step(reference, x0, i, x, noise, monkeypatch)
    got = jax.jit(
        lambda prompt, null: sample_prior(
            predict,
            prompt,
            null,
            key,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            clamp=2.0,
        )
    )(prompt, None if guidance_scale is None else null)
    # One step agrees to 1e-5 (above); rounding grows with the steps and with the guidance.
    np.testing.assert_allclose(got, x, atol=5e-5)


def test_guidance_scale_may_differ_by_prompt():
    prompt, null, key = text(2, 0), text(1, 1), jax.random.key(0)
    both = sample_prior(predict, prompt, null, key, num_steps=4, guidance_scale=jnp.array([1, 4.0]))
    for i, scale in enumerate((1.0, 4.0)):
        one = sample_prior(predict, prompt, null, key, num_steps=4, guidance_scale=scale)
        np.testing.assert_allclose(both[i], one[i], atol=1e-6)


def test_sampling_recovers_what_a_perfect_network_knows():
    truth = jnp.linspace(-2, 2, DIM)

    def perfect(x, t, *_):
        return jnp.broadcast_to(truth, x.shape)

    got = sample_prior(perfect, text(4, 0), text(1, 1), jax.random.key(0))
    # At t = 0 the float32 of 1 − ᾱ is off by 5e-4, in the reference too.
    np.testing.assert_allclose(got, jnp.broadcast_to(truth, got.shape), rtol=1e-3)
    clamped = sample_prior(perfect, text(4, 0), text(1, 1), jax.random.key(0), clamp=1.0)
    np.testing.assert_allclose(clamped[0], truth.clip(-1, 1), rtol=1e-3)


def test_embeddings_may_be_of_another_width_than_text():
    def narrow(x, t, embed, hidden, mask):
        return 0.5 * x + embed[:, :3]

    got = sample_prior(narrow, text(2, 0), None, jax.random.key(0), embedding_dim=3, num_steps=3)
    assert got.shape == (2, 3)


@pytest.mark.parametrize("num_steps", [-1, 0, 1, 1001])
def test_steps_out_of_range_are_refused(num_steps):
    with pytest.raises(UserError, match=f"cannot take {num_steps} steps; accepted: 2 to 1000"):
        sample_prior(predict, text(1, 0), None, jax.random.key(0), num_steps=num_steps)


def test_dropped_captions_become_the_empty_prompt():
    prompt, null = text(4, 0), text(1, 1)
    dropped = drop_text(prompt, null, jnp.array([True, False, False, True]))
    for part, full, empty in zip(dropped, prompt, null, strict=True):
        np.testing.assert_array_equal(part[1:3], full[1:3])
        np.testing.assert_array_equal(part[0], empty[0])
        np.testing.assert_array_equal(part[3], empty[0])


def test_loss():
    x0 = jax.random.normal(jax.random.key(0), (64, DIM))
    prompt, null, key = text(64, 0), text(1, 1), jax.random.key(1)
    assert prior_loss(lambda *_: x0, x0, prompt, key, null) == 0
    np.testing.assert_allclose(prior_loss(lambda *_: x0 + 2, x0, prompt, key, null), 4, rtol=1e-5)
    first, again = (prior_loss(predict, x0, prompt, key, null) for _ in range(2))
    assert first == again != prior_loss(predict, x0, prompt, jax.random.key(2), null)
    # At a rate of 1 the network sees only the empty prompt.
    seen = []
    prior_loss(lambda x, t, *c: seen.append(c) or x, x0, prompt, key, null, drop_rate=1.0)
    np.testing.assert_array_equal(seen[0][0], np.broadcast_to(null.embed, (64, DIM)))
