"""DPM-Solver++ and UniPC against diffusers' own schedulers, over whole trajectories."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.commands.edit_solver import add_solver_argument
from gen1_jax.diffusion.process import PREDICTION_TYPES, make_schedule, q_sample, target
from gen1_jax.diffusion.sampler import integrate
from gen1_jax.diffusion.solvers import SOLVERS, begin, make_table, step
from gen1_jax.errors import UserError

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

# Of diffusers' own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
MULTISTEP = ("dpm++", "unipc")


def scheduler(solver, **settings):
    """Returns diffusers' scheduler, made of the config of SD 1.5's DDIM as users do it."""
    sd15 = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "prediction_type": "v_prediction",
    }
    config = diffusers.DDIMScheduler(**sd15 | settings).config
    return getattr(diffusers, CLASSES[solver]).from_config(config)


def normal(seed):
    return np.random.default_rng(seed).normal(size=(2, 3, 4, 4)).astype(np.float32)


def predict(z, t, cos=np.cos):
    """A small stand-in for the network."""
    return 0.8 * cos(2 * z + 0.01 * t)


def reference_trajectory(reference, z, first=0):
    """Returns z after each step of diffusers' scheduler from the first-th on."""
    found = []
    if first:
        reference.set_begin_index(first)
    for t in reference.timesteps[first:]:
        own = torch.from_numpy(z)
        z = reference.step(predict(own, t, torch.cos), t, own).prev_sample.numpy()
        found.append(z)
    return np.stack(found)


def trajectory(schedule, rows, state):
    """Returns z after each of our steps, computed by NumPy."""
    state, found = jax.tree.map(np.asarray, state), []
    for i in range(len(rows.t)):
        row = jax.tree.map(lambda x, i=i: x[i], rows)
        prediction = predict(state.z, np.float32(row.t))
        state, _ = step(schedule, row, state, prediction)
        found.append(state.z)
    return np.stack(found)


def assert_same(got, want):
    error = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert error <= 1e-5, f"relative error {error:.1e}"


@pytest.mark.parametrize("solver", MULTISTEP)
@pytest.mark.parametrize(
    ("kind", "zero_snr"),
    [(kind, False) for kind in PREDICTION_TYPES] + [("v_prediction", True), ("sample", True)],
)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_whole_trajectories_are_diffusers(solver, kind, zero_snr, spacing):
    schedule = make_schedule(zero_terminal_snr=zero_snr, prediction_type=kind)
    reference = scheduler(
        solver, prediction_type=kind, rescale_betas_zero_snr=zero_snr, timestep_spacing=spacing
    )
    noise = normal(2)
    for num_steps in (1, 2, 3, 7, 20, 50):
        reference.set_timesteps(num_steps)
        rows = make_table(schedule, solver, num_steps, spacing)
        np.testing.assert_array_equal(rows.t, reference.timesteps)
        want = reference_trajectory(reference, noise)
        assert_same(trajectory(schedule, rows, begin(schedule, rows, noise)), want)


@pytest.mark.parametrize("solver", MULTISTEP)
@pytest.mark.parametrize("strength", [0.04, 0.1, 0.6])
def test_partial_starts_are_diffusers(solver, strength):
    """As its image-to-image pipelines have it: from the noised source, with no history."""
    schedule, reference = make_schedule(), scheduler(solver)
    source, noise = normal(0), normal(1)
    reference.set_timesteps(20)
    rows = make_table(schedule, solver, 20, strength=strength)
    first = 20 - len(rows.t)
    assert len(rows.t) == round(strength * 20)
    start = reference.add_noise(
        *map(torch.from_numpy, (source, noise)), reference.timesteps[[first]]
    )
    state = begin(schedule, rows, noise, source)
    np.testing.assert_allclose(state.z, start, atol=1e-5)
    want = reference_trajectory(reference, start.numpy(), first)
    assert_same(trajectory(schedule, rows, state), want)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_scan_and_single_steps_agree(solver):
    schedule, noise = make_schedule(), normal(1)

    def denoise(z, t):
        return predict(z, t[:, None, None, None].astype(jnp.float32), jnp.cos)

    rows = make_table(schedule, solver, 6)
    state = begin(schedule, rows, noise)
    one = jax.jit(lambda row, state: step(schedule, row, state, denoise(state.z, row.t[None])))
    for i in range(6):
        state, _ = one(jax.tree.map(lambda x, i=i: x[i], rows), state)
    got = integrate(denoise, schedule, noise, 6, solver=solver)
    np.testing.assert_allclose(got, state.z, atol=1e-5)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("solver", MULTISTEP)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_what_knows_the_latents_arrives_at_them(solver, zero_snr):
    schedule = make_schedule(zero_terminal_snr=zero_snr)
    z0, noise = normal(0), normal(1)
    rows = make_table(schedule, solver, 5, "trailing")
    state = begin(schedule, rows, noise, z0)
    for i in range(5):
        row = jax.tree.map(lambda x, i=i: x[i], rows)
        state, estimate = step(schedule, row, state, target(schedule, z0, noise, row.t))
        np.testing.assert_allclose(estimate, z0, atol=2e-3)  # zero SNR is 2⁻²⁴ in the table
        if row.landing >= 0:  # z stands where the source stands when it is noised to there
            there = q_sample(schedule, z0, noise, jnp.asarray(row.landing))
            np.testing.assert_allclose(state.z, there, atol=2e-3)
            assert row.landing == rows.t[i + 1]
    assert rows.landing[-1] == -1
    np.testing.assert_allclose(state.z, z0, atol=2e-3 if zero_snr else 1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_errors_fall_with_the_order(solver):
    """Data that are normal have an exact solution: z keeps its place among all z_t."""
    schedule, noise, spread = make_schedule(), normal(1), 0.5
    alphas = np.asarray(schedule.alphas_cumprod, np.float64)
    deviation = np.sqrt(alphas * spread**2 + 1 - alphas)
    errors = []
    for num_steps in (20, 40):
        rows = make_table(schedule, solver, num_steps, "trailing")
        state = jax.tree.map(np.asarray, begin(schedule, rows, noise))
        for i in range(num_steps // 2):  # down to t = 499
            row = jax.tree.map(lambda x, i=i: x[i], rows)
            a, s = np.sqrt(alphas[row.t]), np.sqrt(1 - alphas[row.t])
            z0 = state.z * a * spread**2 / deviation[row.t] ** 2
            state, _ = step(schedule, row, state, a * (state.z - a * z0) / s - s * z0)
        exact = noise * deviation[row.landing] / deviation[rows.t[0]]
        errors.append(np.abs(state.z - exact).max())
    assert errors[0] / errors[1] > (1.7 if solver == "ddim" else 3), errors


@pytest.mark.parametrize("solver", SOLVERS)
def test_any_number_of_steps_has_finite_numbers(solver):
    schedule = make_schedule(num_timesteps=64, zero_terminal_snr=True)
    for spacing in ("leading", "trailing"):
        for num_steps in range(1, 65):
            rows = make_table(schedule, solver, num_steps, spacing)
            assert all(np.isfinite(x).all() and len(x) == num_steps for x in jax.tree.leaves(rows))
            assert (0 <= rows.t).all() and (rows.t < 64).all() and (rows.landing < rows.t + 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dpm"}, r"no solver 'dpm'; did you mean 'dpm\+\+'\?; accepted: ddim, dpm\+\+"),
        ({"solver": 3}, "no solver 3; accepted: ddim"),
        ({"solver": "unipc", "num_steps": 1001}, "1001 sampling steps; 1 to 1000 are possible"),
        ({"solver": "dpm++", "num_steps": 0}, "0 sampling steps"),
        ({"solver": "dpm++", "spacing": "linspace"}, "spacing 'linspace'; accepted: leading, tr"),
        ({"solver": "unipc", "strength": 0.0}, "strength 0.0; accepted: above 0, up to 1"),
    ],
)
def test_what_cannot_be_solved_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_table(make_schedule(), **options)


def test_a_part_of_a_trajectory_needs_a_source():
    with pytest.raises(UserError, match="strength 0.5 without latents to start from"):
        integrate(predict, make_schedule(), normal(1), 10, strength=0.5)


def test_the_command_line_offers_them_all():
    parser = argparse.ArgumentParser()
    add_solver_argument(parser)
    assert tuple(parser.parse_args(["--solver", name]).solver for name in SOLVERS) == SOLVERS
    assert parser.parse_args([]).solver == "ddim"


def test_the_state_holds_no_more_than_a_solver_needs():
    schedule, sizes = make_schedule(), {"ddim": 0, "dpm++": 1, "unipc": 3}
    for solver, size in sizes.items():
        state = begin(schedule, make_table(schedule, solver, 3), normal(0))
        assert len(state.history) == size
