"""The schedule, the three views of a prediction, and DDIM against diffusers' `DDIMScheduler`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.diffusion.process import (
    PREDICTION_TYPES,
    ddim_step,
    make_schedule,
    min_snr_weight,
    q_sample,
    sampling_timesteps,
    target,
    to_z0_eps,
)
from gen1_jax.errors import UserError

SHAPE = (4, 2, 3, 3, 4)


def normal(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scheduler(**settings):
    """Returns diffusers' DDIM with Stable Diffusion 1.5's settings."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    sd15 = dict(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return diffusers.DDIMScheduler(**sd15 | settings)


@pytest.mark.parametrize(("t", "value"), [(0, 0.99915), (500, 0.276332), (999, 0.0046601)])
def test_alpha_bar_is_stable_diffusion_s(t, value):
    schedule = make_schedule()
    assert schedule.num_timesteps == 1000 and schedule.alphas_cumprod.dtype == jnp.float32
    np.testing.assert_allclose(schedule.alphas_cumprod[t], value, rtol=5e-6)


def test_zero_terminal_snr_ends_in_noise_alone_and_begins_as_before():
    plain, zero = (np.asarray(make_schedule(zero_terminal_snr=z).alphas_cumprod) for z in (0, 1))
    assert zero[-1] == 0 and zero[0] == plain[0]
    assert (np.diff(zero) < 0).all() and (zero[1:] < plain[1:]).all()
    reference = scheduler(rescale_betas_zero_snr=True).alphas_cumprod.numpy()
    # diffusers computes ᾱ from float32 β, which loses digits near ᾱ = 0.
    np.testing.assert_allclose(zero, reference, atol=1e-5)


@pytest.mark.parametrize("t", [np.array([0, 1, 500, 999]), np.int32(700)])
def test_noising_is_diffusers(t):
    torch = pytest.importorskip("torch")
    z0, eps = normal(0), normal(1)
    times = torch.from_numpy(np.broadcast_to(t, SHAPE[:1]).copy())
    want = scheduler().add_noise(torch.from_numpy(z0), torch.from_numpy(eps), times).numpy()
    np.testing.assert_allclose(q_sample(make_schedule(), z0, eps, t), want, atol=2e-6)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_target_gives_back_z0_and_eps(kind, zero_snr):
    if kind == "epsilon" and zero_snr:
        return  # refused, see below
    schedule = make_schedule(zero_terminal_snr=zero_snr, prediction_type=kind)
    z0, eps, t = normal(0), normal(1), np.array([0, 1, 500, 999])
    zt = q_sample(schedule, z0, eps, t)
    back = to_z0_eps(schedule, target(schedule, z0, eps, t), zt, t)
    # Errors grow: ε is divided by √ᾱ ≥ 0.068, z_0 by √(1−ᾱ) ≥ 0.029, v by nothing.
    for got, want in zip(back, (z0, eps), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6 if kind == "v_prediction" else 2e-5)


def test_v_is_the_formula_and_the_noising_turned_by_a_right_angle():
    schedule = make_schedule()
    z0, eps, t = normal(0), normal(1), np.array([0, 300, 600, 999])
    alpha = np.asarray(schedule.alphas_cumprod, np.float64)[t][:, None, None, None, None]
    v = target(schedule, z0, eps, t)
    np.testing.assert_allclose(v, alpha**0.5 * eps - (1 - alpha) ** 0.5 * z0, atol=1e-6)
    zt = q_sample(schedule, z0, eps, t)
    np.testing.assert_allclose(np.square(v) + np.square(zt), z0**2 + eps**2, rtol=1e-5)


@pytest.mark.parametrize(("t", "snr"), [(0, 1175.5), (500, 0.381849), (999, 0.0046819)])
def test_min_snr_gamma_is_the_papers_weight(t, snr):
    """The three weights are those of one prediction's error of z_0, which is min(SNR, γ)."""
    schedule = make_schedule()
    alpha = float(schedule.alphas_cumprod[t])
    np.testing.assert_allclose(alpha / (1 - alpha), snr, rtol=1e-3)
    expected = {"v_prediction": snr + 1, "epsilon": snr, "sample": 1}
    for kind, divisor in expected.items():
        weight = min_snr_weight(schedule.replace(prediction_type=kind), np.array([t]), 5.0)
        np.testing.assert_allclose(weight, [min(snr, 5.0) / divisor], rtol=1e-3)


def test_steps_are_stable_diffusion_s():
    steps, landings = sampling_timesteps(1000, 50)
    assert steps.dtype == landings.dtype == np.int32
    np.testing.assert_array_equal(steps, range(981, 0, -20))
    np.testing.assert_array_equal(landings, range(961, -20, -20))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 30, 50, 333, 999])
def test_steps_are_diffusers(spacing, num_steps):
    reference = scheduler(timestep_spacing=spacing)
    reference.set_timesteps(num_steps)
    steps, landings = sampling_timesteps(1000, num_steps, spacing)
    np.testing.assert_array_equal(steps, reference.timesteps.numpy())
    np.testing.assert_array_equal(landings, steps - 1000 // num_steps)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("total", [1000, 64])
def test_any_number_of_steps_falls_within_the_schedule(spacing, total):
    for num_steps in range(1, total + 1):
        steps, landings = sampling_timesteps(total, num_steps, spacing)
        assert steps.shape == landings.shape == (num_steps,)
        assert (0 <= steps).all() and (steps < total).all() and (landings <= steps).all()
        assert (np.diff(steps) <= 0).all() and landings[-1] <= 0


def predict(z, t, cos=jnp.cos):
    """A small stand-in for the network; its slope is so small that DDIM is stable."""
    return 0.8 * cos(2 * z + 0.01 * t)


# For ε at zero SNR diffusers computes infinities; we refuse it.
@pytest.mark.parametrize(
    ("kind", "zero_snr"),
    [
        (kind, zero)
        for kind in PREDICTION_TYPES
        for zero in (False, True)
        if (kind, zero) != ("epsilon", True)
    ],
)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [7, 50])
def test_whole_trajectories_are_diffusers(kind, zero_snr, spacing, num_steps):
    torch = pytest.importorskip("torch")
    reference = scheduler(
        prediction_type=kind, rescale_betas_zero_snr=zero_snr, timestep_spacing=spacing
    )
    reference.set_timesteps(num_steps)
    schedule = make_schedule(zero_terminal_snr=zero_snr, prediction_type=kind)
    want = [normal(2)]
    for t in reference.timesteps:
        z = torch.from_numpy(want[-1])
        want.append(reference.step(predict(z, t, torch.cos), t, z).prev_sample.numpy())

    def step(z, times):
        z = ddim_step(schedule, predict(z, times[0]), z, *times)
        return z, z

    got = jax.lax.scan(step, want[0], sampling_timesteps(1000, num_steps, spacing))[1]
    error = np.abs(np.asarray(got) - np.stack(want[1:])).max() / np.abs(want).max()
    assert error <= 1e-5, f"relative error {error:.1e}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_schedule(prediction_type="x0"), "'x0'; accepted: v_prediction, epsilon, sa"),
        (lambda: make_schedule(zero_terminal_snr=True, prediction_type="epsilon"), "zero_terminal"),
        (lambda: sampling_timesteps(1000, 0), "0 sampling steps; 1 to 1000"),
        (lambda: sampling_timesteps(1000, 1001), "1001 sampling steps; 1 to 1000"),
        (lambda: sampling_timesteps(1000, 50, "linspace"), "'linspace'; accepted: leading, trail"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()
