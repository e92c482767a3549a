"""The diffusion process: schedule, noising, and the three affine views v, z_0, ε of one prediction.

Everywhere z, v and ε are [b ...] and t is [b] or a scalar. All arithmetic is float32.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gen1_jax.errors import UserError

PREDICTION_TYPES = ("v_prediction", "epsilon", "sample")


@flax.struct.dataclass
class Schedule:
    """The noise schedule, and what the network predicts.

    Attributes:
      alphas_cumprod: ᾱ_t for t = 0 … T−1, [T] float32.
      prediction_type: one of `PREDICTION_TYPES`.
    """

    alphas_cumprod: jax.Array
    prediction_type: str = flax.struct.field(pytree_node=False, default="v_prediction")

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.alphas_cumprod.shape[0]

    def coefficients(self, t: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns √ᾱ_t and √(1−ᾱ_t), shaped to multiply `like`."""
        chex.assert_rank(t, {0, 1})
        chex.assert_type(t, int)
        alpha = self.alphas_cumprod[t]
        alpha = alpha.reshape(alpha.shape + (1,) * (like.ndim - alpha.ndim))
        return jnp.sqrt(alpha), jnp.sqrt(1 - alpha)


def make_schedule(
    num_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    zero_terminal_snr: bool = False,
    prediction_type: str = "v_prediction",
) -> Schedule:
    """Returns Stable Diffusion's "scaled linear" schedule: √β rises linearly.

    Args:
      num_timesteps: T.
      beta_start: the first β.
      beta_end: the last β.
      zero_terminal_snr: rescale √ᾱ so that it ends at 0 (Lin et al. 2305.08891). Sampling then
        needs trailing timesteps, and ε cannot be predicted: the last z_t is pure noise, and its ε
        says nothing about z_0.
      prediction_type: what the network predicts.

    Raises:
      UserError: an unknown prediction type, or ε with zero terminal SNR.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(
            f"prediction type {prediction_type!r}; accepted: {', '.join(PREDICTION_TYPES)}"
        )
    if zero_terminal_snr and prediction_type == "epsilon":
        raise UserError(
            "zero_terminal_snr with prediction type 'epsilon'; accepted: v_prediction, sample"
        )
    betas = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2
    root = np.sqrt(np.cumprod(1.0 - betas))
    if zero_terminal_snr:
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return Schedule(jnp.asarray(root**2, jnp.float32), prediction_type)


def q_sample(schedule: Schedule, z0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
    """Noises z_0 to z_t = √ᾱ_t z_0 + √(1−ᾱ_t) ε."""
    chex.assert_equal_shape([z0, eps])
    a, s = schedule.coefficients(t, z0)
    return a * z0 + s * eps


def target(schedule: Schedule, z0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
    """Returns what the network should predict; for v that is √ᾱ_t ε − √(1−ᾱ_t) z_0."""
    chex.assert_equal_shape([z0, eps])
    a, s = schedule.coefficients(t, z0)
    if schedule.prediction_type == "v_prediction":
        return a * eps - s * z0
    return eps if schedule.prediction_type == "epsilon" else z0


def min_snr_weight(schedule: Schedule, t: jax.Array, gamma: float) -> jax.Array:
    """Returns the weight of the squared error at t, after Min-SNR-γ (Hang et al. 2303.09556).

    For z_0 it is min(SNR, γ), with SNR_t = ᾱ_t / (1 − ᾱ_t). The same prediction has an error of ε
    that is √SNR times that of z_0, and one of v that is √(SNR + 1) times that of z_0. Their
    weights are therefore divided by SNR and by SNR + 1.

    Args:
      schedule: the schedule, which says what the network predicts.
      t: timesteps.
      gamma: γ; 5 in the paper.
    """
    alpha = schedule.alphas_cumprod[t]
    snr = alpha / (1 - alpha)
    weight = jnp.minimum(snr, gamma)
    if schedule.prediction_type == "v_prediction":
        return weight / (snr + 1)
    return weight / snr if schedule.prediction_type == "epsilon" else weight


def to_z0_eps(
    schedule: Schedule, prediction: jax.Array, zt: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (z_0, ε) of a prediction at z_t.

    For v they are z_0 = √ᾱ_t z_t − √(1−ᾱ_t) v and ε = √ᾱ_t v + √(1−ᾱ_t) z_t.
    """
    chex.assert_equal_shape([prediction, zt])
    a, s = schedule.coefficients(t, zt)
    if schedule.prediction_type == "v_prediction":
        return a * zt - s * prediction, a * prediction + s * zt
    if schedule.prediction_type == "epsilon":
        return (zt - s * prediction) / a, prediction
    return prediction, (zt - a * prediction) / s


def sampling_timesteps(
    num_timesteps: int, num_steps: int, spacing: str = "leading", offset: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the timesteps of a DDIM trajectory, and the timestep at which each step lands.

    Args:
      num_timesteps: T.
      num_steps: steps of the trajectory.
      spacing: "leading" or "trailing".
      offset: added to leading timesteps; 1 gives Stable Diffusion 1.5's 981 … 1 for 50 steps.

    Returns:
      Two falling arrays [num_steps] int32. A landing below 0 stands for ᾱ_0
      (`set_alpha_to_one=False`).

    Raises:
      UserError: a number of steps or a spacing that is not possible.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise UserError(f"{num_steps} sampling steps; 1 to {num_timesteps} are possible")
    stride = num_timesteps // num_steps
    if spacing == "leading":
        steps = np.arange(num_steps)[::-1] * stride + offset
    elif spacing == "trailing":
        # Not arange(T, 0, -T/n): rounding gives it n + 1 values for 62 of the n up to 1000.
        ends = num_timesteps - np.arange(num_steps) * (num_timesteps / num_steps)
        steps = np.round(ends).astype(int) - 1
    else:
        raise UserError(f"timestep spacing {spacing!r}; accepted: leading, trailing")
    # With num_steps = T the offset leads past the last timestep: there the step moves nothing.
    steps, landings = (np.minimum(x, num_timesteps - 1) for x in (steps, steps - stride))
    return steps.astype(np.int32), landings.astype(np.int32)


def ddim_step(
    schedule: Schedule, prediction: jax.Array, zt: jax.Array, t: jax.Array, t_next: jax.Array
) -> jax.Array:
    """Takes a deterministic DDIM step (η = 0): √ᾱ' z_0 + √(1−ᾱ') ε, with ᾱ' at `t_next`.

    A `t_next` below 0 stands for ᾱ_0.
    """
    z0, eps = to_z0_eps(schedule, prediction, zt, t)
    return q_sample(schedule, z0, eps, jnp.maximum(t_next, 0))
