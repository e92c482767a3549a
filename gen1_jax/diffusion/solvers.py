"""Solvers of the sampling process: DDIM, DPM-Solver++(2M) and UniPC, one prediction a step.

A table holds the numbers of every step, made on the host in float64. `step` is the same pure
function for all steps, so a scan can run it, or a host that goes from step to step.

- ddim: first order, η = 0; it lands at ᾱ_0.
- dpm++: DPM-Solver++(2M), Lu et al. 2211.01095, of second order by the estimate of z_0 before.
- unipc: UniPC, Zhao et al. 2302.04867, of order 2 with B_2(h); it corrects each step by the next
  prediction.

The last two end at z_0 itself, and are diffusers' `DPMSolverMultistepScheduler` and
`UniPCMultistepScheduler` as `from_config` makes them of Stable Diffusion 1.5's DDIM.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen1_jax.diffusion.process import (
    Schedule,
    ddim_step,
    q_sample,
    sampling_timesteps,
    to_z0_eps,
)
from gen1_jax.errors import UserError
from gen1_jax.settings import closest

SOLVERS = ("ddim", "dpm++", "unipc")
_LEAST_ALPHA = 2.0**-24  # in the place of ᾱ = 0, as diffusers has it: finite logarithms


class Rows(NamedTuple):
    """The numbers of each step; `jax.tree.map(lambda x: x[i], rows)` is one step's row.

    Attributes:
      t: the timestep at which the network sees z, [s] int32.
      landing: the timestep at which z stands afterwards, [s] int32. Below 0 it is the end: ᾱ_0 for
        DDIM, z_0 itself for the others.
      estimate: the shares of z and of the prediction in the estimate of z_0, [s 2] float32; None
        for DDIM.
      correct: of z, the last corrected z, and the estimates of z_0 (this one, the one before, the
        one before that) in the corrected z, [s 5] float32; None for solvers that correct nothing.
      advance: of the corrected z and the estimates of z_0 (this one, the one before) in the next z,
        [s 3] float32; None for DDIM.
    """

    t: np.ndarray
    landing: np.ndarray
    estimate: np.ndarray | None = None
    correct: np.ndarray | None = None
    advance: np.ndarray | None = None


class State(NamedTuple):
    """What goes from step to step.

    Attributes:
      z: [b ...].
      history: earlier estimates of z_0, the newest first, and for UniPC the last corrected z.
    """

    z: jax.Array
    history: tuple[jax.Array, ...] = ()


def check_solver(solver: object) -> None:
    """Raises UserError if there is no such solver."""
    if solver not in SOLVERS:
        guess = closest(solver, SOLVERS) if isinstance(solver, str) else ""
        raise UserError(f"no solver {solver!r}{guess}; accepted: {', '.join(SOLVERS)}")


def count_steps(num_steps: int, strength: float) -> int:
    """Returns how many of the steps are run at a strength."""
    return max(1, round(strength * num_steps))


# ---- the table


def make_table(
    schedule: Schedule,
    solver: str = "ddim",
    num_steps: int = 50,
    spacing: str = "leading",
    strength: float = 1.0,
) -> Rows:
    """Returns the numbers of every step that is run.

    Args:
      schedule: the diffusion process.
      solver: one of `SOLVERS`.
      num_steps: steps of the whole trajectory.
      spacing: "leading" (SD 1.5) or "trailing" (for zero terminal SNR).
      strength: the share of the trajectory that is run, its end, in (0, 1]; at least one step is.

    Raises:
      UserError: a solver, a strength, a number of steps or a spacing that is not possible.
    """
    check_solver(solver)
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength}; accepted: above 0, up to 1")
    first = num_steps - count_steps(num_steps, strength)
    if solver == "ddim":
        steps, landings = sampling_timesteps(schedule.num_timesteps, num_steps, spacing)
        return Rows(steps[first:], landings[first:])
    steps = multistep_timesteps(schedule.num_timesteps, num_steps, spacing)[first:]
    alphas = np.asarray(schedule.alphas_cumprod, np.float64)[steps]
    alphas = np.append(np.maximum(alphas, _LEAST_ALPHA), 1.0)  # it ends without noise
    a, s = np.sqrt(alphas), np.sqrt(1 - alphas)
    with np.errstate(divide="ignore"):
        log_snr = np.log(a) - np.log(s)  # λ; ∞ at the end
    make = _dpm if solver == "dpm++" else _unipc
    correct, advance = make(a, s, log_snr)
    return Rows(
        steps,
        np.append(steps[1:], -1).astype(np.int32),
        _estimate(schedule.prediction_type, a[:-1], s[:-1]).astype(np.float32),
        None if correct is None else correct.astype(np.float32),
        advance.astype(np.float32),
    )


def multistep_timesteps(num_timesteps: int, num_steps: int, spacing: str) -> np.ndarray:
    """Returns the timesteps [num_steps] int32 of DPM++ and UniPC, which differ from DDIM's.

    Leading ones begin and end a stride away from pure noise and from z_0: 951 … 20 for 50 steps.

    Raises:
      UserError: a number of steps or a spacing that is not possible.
    """
    steps, _ = sampling_timesteps(num_timesteps, num_steps, spacing)
    if spacing == "leading":
        stride = max(1, num_timesteps // (num_steps + 1))
        offset = min(1, num_timesteps - 1 - num_steps * stride)  # below 1 for the most steps only
        steps = (np.arange(num_steps, 0, -1) * stride + offset).astype(np.int32)
    return steps


def _estimate(prediction_type: str, a: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Returns the shares [s 2] of z and of the prediction in the estimate of z_0."""
    zeros, ones = np.zeros_like(a), np.ones_like(a)
    shares = {"v_prediction": (a, -s), "epsilon": (1 / a, -s / a), "sample": (zeros, ones)}
    return np.stack(shares[prediction_type], axis=1)


def _dpm(a: np.ndarray, s: np.ndarray, log_snr: np.ndarray) -> tuple[None, np.ndarray]:
    """Returns the shares of DPM-Solver++(2M). Its first and last steps are of first order."""
    advance = []
    for i in range(len(a) - 1):
        h = log_snr[i + 1] - log_snr[i]
        new = -a[i + 1] * np.expm1(-h)
        old = 0.0
        if 0 < i < len(a) - 2:
            old = -new * 0.5 * h / (log_snr[i] - log_snr[i - 1])
        advance.append((s[i + 1] / s[i], new - old, old))
    return None, np.array(advance)


def _unipc(a: np.ndarray, s: np.ndarray, log_snr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shares of UniPC's corrector and predictor, of order 2 with B_2(h) = e^−h − 1.

    The first step and the last are of first order, and so is the correction of the first.
    """
    correct, advance = [], []
    for i in range(len(a) - 1):
        # ---- the corrector goes over the step that led here once more
        if i == 0:
            correct.append((1.0, 0.0, 0.0, 0.0, 0.0))
        else:
            h = log_snr[i] - log_snr[i - 1]
            b = -a[i] * np.expm1(-h)
            new, older = 0.5, 0.0
            if i > 1:
                ratio = (log_snr[i - 2] - log_snr[i - 1]) / h
                phi = np.expm1(-h) / -h - 1
                sums = np.array([phi, 2 * (phi / -h - 0.5)]) / np.expm1(-h)
                older, new = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], sums)
                older /= ratio
            correct.append((0.0, s[i] / s[i - 1], b * new, b * (1 - new - older), b * older))
        # ---- the predictor
        h = log_snr[i + 1] - log_snr[i]
        new = -a[i + 1] * np.expm1(-h)
        old = 0.0
        if 0 < i < len(a) - 2:
            old = new * 0.5 * h / (log_snr[i - 1] - log_snr[i])
        advance.append((s[i + 1] / s[i], new - old, old))
    return np.array(correct), np.array(advance)


# ---- the trajectory


def begin(
    schedule: Schedule, rows: Rows, noise: jax.Array, source: jax.Array | None = None
) -> State:
    """Returns the state before the first step.

    Args:
      schedule: the diffusion process.
      rows: of `make_table`.
      noise: [b ...] standard normal.
      source: latents [b ...] to start from (SDEdit); they are noised to the first step. None starts
        from pure noise.
    """
    z = jnp.asarray(noise, jnp.float32)
    if source is not None:
        z = q_sample(schedule, source, z, jnp.asarray(rows.t[0]))
    count = 0 if rows.advance is None else 1 if rows.correct is None else 3
    return State(z, tuple(jnp.zeros_like(z) for _ in range(count)))  # apart, to be donated


def step(
    schedule: Schedule, row: Rows, state: State, prediction: jax.Array
) -> tuple[State, jax.Array]:
    """Takes a step.

    Args:
      schedule: the diffusion process.
      row: of the step.
      state: the state before it.
      prediction: of `schedule.prediction_type`, at `row.t`, in the shape of z.

    Returns:
      The state after the step, and the estimate of z_0 that it made.
    """
    z, history = state
    if row.advance is None:
        z0, _ = to_z0_eps(schedule, prediction, z, row.t)
        return State(ddim_step(schedule, prediction, z, row.t, row.landing)), z0
    z0 = row.estimate[0] * z + row.estimate[1] * prediction
    if row.correct is None:
        return State(_sum(row.advance, z, z0, *history), (z0,)), z0
    old, older, last = history
    z = _sum(row.correct, z, last, z0, old, older)
    return State(_sum(row.advance, z, z0, old), (z0, old, z)), z0


def _sum(shares: jax.Array, *values: jax.Array) -> jax.Array:
    return sum(shares[i] * value for i, value in enumerate(values))
