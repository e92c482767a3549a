"""DDIM sampling: exact with an oracle, partial starts, one scan."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.diffusion.process import (
    PREDICTION_TYPES,
    ddim_step,
    make_schedule,
    q_sample,
    sampling_timesteps,
    target,
)
from gen1_jax.diffusion.sampler import integrate
from gen1_jax.errors import UserError

SHAPE = (2, 3, 4, 4, 4)


def normal(seed):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def oracle(schedule, z0):
    """Returns a prediction that knows the clean latents, and so the noise."""

    def denoise(z, t):
        a, s = schedule.coefficients(t, z)
        return target(schedule, z0, (z - a * z0) / s, t)

    return denoise


def network(z, t):
    """A smooth function of z and t [b]."""
    return jnp.tanh(z) * jnp.cos(t / 300.0)[:, None, None, None, None]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("spacing", "num_steps"),
    # A leading trajectory of one step is at t = 1, where noise hardly counts.
    [("leading", 4), ("leading", 50), ("trailing", 1), ("trailing", 50)],
)
def test_an_oracle_s_latents_are_returned(kind, spacing, num_steps):
    schedule = make_schedule(prediction_type=kind)
    z0, noise = normal(0), normal(1)
    got = integrate(oracle(schedule, z0), schedule, noise, num_steps, spacing=spacing)
    # Pure noise stands for z_T, so the oracle sees (noise − √ᾱ_T z_0) / √(1−ᾱ_T) as its ε. The last
    # step lands at ᾱ_0 (`set_alpha_to_one=False`), where 3 % of this ε remains.
    first = sampling_timesteps(1000, num_steps, spacing)[0][0]
    a, s = schedule.coefficients(jnp.asarray(first), noise)
    want = q_sample(schedule, z0, (noise - a * z0) / s, jnp.asarray(0))
    np.testing.assert_allclose(got, want, atol=5e-5)
    assert np.abs(got - z0).max() < 0.15


@pytest.mark.parametrize("zero_snr", [False, True])
def test_an_oracle_with_the_source_s_own_noise_is_exact(zero_snr):
    schedule = make_schedule(zero_terminal_snr=zero_snr)
    z0, noise = normal(0), normal(1)
    spacing = "trailing" if zero_snr else "leading"
    got = integrate(oracle(schedule, z0), schedule, noise, 20, spacing=spacing, source=z0)
    np.testing.assert_allclose(got, q_sample(schedule, z0, noise, jnp.asarray(0)), atol=1e-5)


@pytest.mark.parametrize(
    ("strength", "steps"), [(1.0, 10), (0.5, 5), (0.34, 3), (0.1, 1), (1e-9, 1), (0.999, 10)]
)
def test_a_partial_start_begins_from_the_noised_source(strength, steps):
    schedule = make_schedule()
    source, noise = normal(0), normal(1)
    seen = []

    def denoise(z, t):
        jax.debug.callback(lambda *args: seen.append(args), z, t, ordered=True)
        return network(z, t)

    got = integrate(denoise, schedule, noise, 10, source=source, strength=strength)
    jax.block_until_ready(got)
    jax.effects_barrier()
    run = list(range(901, 0, -100))[-steps:]
    assert [t.tolist() for _, t in seen] == [[t, t] for t in run]
    start = q_sample(schedule, source, noise, jnp.asarray(run[0]))
    np.testing.assert_allclose(seen[0][0], start, atol=1e-6)
    want = start
    for t in run:
        prediction = network(want, jnp.full(2, t))
        want = ddim_step(schedule, prediction, want, jnp.asarray(t), jnp.asarray(t - 100))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_less_strength_stays_nearer_to_the_source():
    schedule, source, noise = make_schedule(), normal(0), normal(1)
    distances = [
        np.square(
            integrate(network, schedule, noise, 10, source=source, strength=s) - source
        ).mean()
        for s in (0.1, 0.3, 0.6, 1.0)
    ]
    assert (np.diff(distances) > 0).all(), distances


def test_without_a_source_it_begins_from_the_noise():
    schedule, noise = make_schedule(), normal(1)
    got = integrate(network, schedule, noise, 1)
    t = jnp.full(2, 1)  # leading: the only step of one is at 0, and SD's offset
    np.testing.assert_allclose(
        got, ddim_step(schedule, network(noise, t), noise, t, jnp.zeros(2, jnp.int32)), atol=1e-6
    )


def test_the_same_noise_gives_the_same_latents_bit_for_bit():
    schedule = make_schedule()
    sample = jax.jit(lambda noise: integrate(network, schedule, noise, 10))
    first = sample(normal(1))
    np.testing.assert_array_equal(first, sample(normal(1)))
    assert np.abs(first - sample(normal(2))).max() > 0.1


def test_noise_in_half_precision_is_computed_in_float32():
    noise = jnp.asarray(normal(1), jnp.bfloat16)
    got = integrate(network, make_schedule(), noise, 10)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(
        got, integrate(network, make_schedule(), noise.astype(jnp.float32), 10)
    )


def equations(jaxpr):
    """Yields every equation of a program, nested programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("strength", [None, 0.5])
def test_the_trajectory_is_one_scan(strength):
    schedule, noise = make_schedule(), normal(1)
    options = {} if strength is None else {"source": normal(0), "strength": strength}
    program = jax.make_jaxpr(lambda z: integrate(network, schedule, z, 50, **options))(noise)
    loops = [e for e in equations(program.jaxpr) if e.primitive.name in ("scan", "while")]
    assert [e.primitive.name for e in loops] == ["scan"]
    assert loops[0].params["length"] == (25 if strength else 50)
    tanh = [e for e in equations(program.jaxpr) if e.primitive.name == "tanh"]
    assert len(tanh) == 1  # the network stands in the program once


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan")])
@pytest.mark.parametrize("source", [None, np.zeros(SHAPE, np.float32)])
def test_a_strength_out_of_range_is_refused(strength, source):
    with pytest.raises(UserError, match="strength .*; accepted: above 0, up to 1"):
        integrate(network, make_schedule(), normal(1), 10, source=source, strength=strength)
