"""The prior's diffusion process: schedule, noising, loss and unCLIP's ancestral sampler.

The functions are pure, over standardised CLIP image embeddings [b d]. The network is a callable
`predict(noisy [b d], timesteps [b], embed [b d], hidden [b l e], mask [b l]) → x0 [b d]`.
The numbers are those of diffusers' `UnCLIPScheduler` (x0-prediction, fixed small variance), with
which the priors of Karlo and Kandinsky 2.1 were published.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gen1_jax.errors import UserError

NUM_TRAIN_TIMESTEPS = 1000

Predict = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class TextCondition(NamedTuple):
    """The text that conditions the prior; a batch of one stands for every example.

    Attributes:
      embed: pooled and projected text embedding [b d].
      hidden: last hidden states of the text tower [b l e].
      mask: True for the tokens that count [b l].
    """

    embed: jax.Array
    hidden: jax.Array
    mask: jax.Array


class StepTable(NamedTuple):
    """The sampler's coefficients: x_prev = x0_scale x0 + x_scale x + noise_scale noise.

    Attributes:
      timesteps: falling timesteps [s].
      x0_scale: [s].
      x_scale: [s].
      noise_scale: [s].
    """

    timesteps: np.ndarray
    x0_scale: np.ndarray
    x_scale: np.ndarray
    noise_scale: np.ndarray


@functools.cache
def squared_cosine_schedule(
    num_timesteps: int = NUM_TRAIN_TIMESTEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns β and ᾱ of the squared-cosine schedule (Nichol & Dhariwal 2021), each [T] float32."""

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    edges = [alpha_bar(i / num_timesteps) for i in range(num_timesteps + 1)]
    beta = [min(1 - after / before, 0.999) for before, after in zip(edges, edges[1:], strict=False)]
    beta = np.asarray(beta, np.float32)
    # Float32 betas multiplied up in float64, as in PyTorch, where the checkpoints were trained.
    alpha_bars = np.cumprod((np.float32(1) - beta).astype(np.float64)).astype(np.float32)
    return beta, alpha_bars


def q_sample(x0: jax.Array, timesteps: jax.Array, noise: jax.Array) -> jax.Array:
    """Noises standardised embeddings x0 [b d] to `timesteps` [b] with `noise` [b d]."""
    chex.assert_equal_shape([x0, noise])
    alpha_bar = jnp.asarray(squared_cosine_schedule()[1])[timesteps][:, None]
    return jnp.sqrt(alpha_bar) * x0 + jnp.sqrt(1 - alpha_bar) * noise


def x0_loss(predicted: jax.Array, x0: jax.Array) -> jax.Array:
    """Returns each example's mean squared error, [b d] → [b] float32."""
    chex.assert_equal_shape([predicted, x0])
    return jnp.square(predicted.astype(jnp.float32) - x0.astype(jnp.float32)).mean(-1)


def drop_text(text: TextCondition, null: TextCondition, drop: jax.Array) -> TextCondition:
    """Replaces the text by the empty prompt where `drop` [b] is True."""

    def choose(null_part: jax.Array, part: jax.Array) -> jax.Array:
        return jnp.where(drop.reshape(-1, *[1] * (part.ndim - 1)), null_part, part)

    return TextCondition(*map(choose, null, text))


def prior_loss(
    predict: Predict,
    x0: jax.Array,
    text: TextCondition,
    key: jax.Array,
    null: TextCondition | None = None,
    drop_rate: float = 0.1,
) -> jax.Array:
    """Returns the training loss, a scalar: x0-prediction at uniformly drawn timesteps.

    Args:
      predict: the network.
      x0: standardised image embeddings [b d].
      text: the captions.
      key: draws timesteps, noise and dropped captions.
      null: the empty prompt, which replaces a caption with probability `drop_rate`; None: never.
      drop_rate: see `null`.
    """
    chex.assert_rank(x0, 2)
    time_key, noise_key, drop_key = jax.random.split(key, 3)
    timesteps = jax.random.randint(time_key, x0.shape[:1], 0, NUM_TRAIN_TIMESTEPS)
    noise = jax.random.normal(noise_key, x0.shape, x0.dtype)
    if null is not None:
        text = drop_text(text, null, jax.random.bernoulli(drop_key, drop_rate, x0.shape[:1]))
    predicted = predict(q_sample(x0, timesteps, noise), timesteps, *text)
    return x0_loss(predicted, x0).mean()


def step_table(num_steps: int = 25, num_timesteps: int = NUM_TRAIN_TIMESTEPS) -> StepTable:
    """Returns the timesteps, evenly from T − 1 down to 0, and the coefficients of the steps.

    Args:
      num_steps: steps of the sampler.
      num_timesteps: T.

    Raises:
      UserError: `num_steps` is not in 2 … T.
    """
    if not 2 <= num_steps <= num_timesteps:
        raise UserError(f"the prior cannot take {num_steps} steps; accepted: 2 to {num_timesteps}")
    stride = (num_timesteps - 1) / (num_steps - 1)
    timesteps = (np.arange(num_steps) * stride).round()[::-1].astype(np.int32)
    betas, alpha_bars = squared_cosine_schedule(num_timesteps)
    one = np.float32(1)

    alpha_bar = alpha_bars[timesteps]
    alpha_bar_prev = np.append(alpha_bars[timesteps[1:]], one)  # the last step ends clean
    neighbours = timesteps - np.append(timesteps[1:], -1) == 1
    beta = np.where(neighbours, betas[timesteps], one - alpha_bar / alpha_bar_prev)
    variance = (one - alpha_bar_prev) / (one - alpha_bar) * beta
    return StepTable(
        timesteps=timesteps,
        x0_scale=np.sqrt(alpha_bar_prev) * beta / (one - alpha_bar),
        x_scale=np.sqrt(one - beta) * (one - alpha_bar_prev) / (one - alpha_bar),
        noise_scale=np.where(timesteps > 0, np.sqrt(variance), np.float32(0)),
    )


def ancestral_step(
    x: jax.Array,
    x0: jax.Array,
    noise: jax.Array,
    step: StepTable,
    clamp: float,
) -> jax.Array:
    """Takes one step of the sampler.

    Args:
      x: the embedding before the step [b d].
      x0: its predicted x0 [b d].
      noise: standard normal [b d].
      step: one entry of the step table.
      clamp: the bound of |x0|.

    Returns:
      The embedding after the step [b d].
    """
    x0 = jnp.clip(x0, -clamp, clamp)
    return step.x0_scale * x0 + step.x_scale * x + step.noise_scale * noise


def sample_prior(
    predict: Predict,
    text: TextCondition,
    null: TextCondition | None,
    key: jax.Array,
    *,
    embedding_dim: int | None = None,
    num_steps: int = 25,
    guidance_scale: float | jax.Array = 4.0,
    clamp: float = 5.0,
) -> jax.Array:
    """Samples standardised image embeddings of prompts, in one `lax.scan`.

    Guidance is x0 = x0(null) + guidance_scale (x0(text) − x0(null)). Both predictions go through
    the network in one call, with a branch axis g beside the batch.

    Args:
      predict: the network.
      text: the prompts.
      null: the empty prompt, a batch of one or more; None: no guidance, at half the work.
      key: draws the first noise (`fold_in` 0) and the noise of step i (`fold_in` 1 + i).
      embedding_dim: the width d of an image embedding; None: the width of `text.embed`.
      num_steps: network calls, 2 to 1000.
      guidance_scale: a scalar, or one for each prompt [b].
      clamp: the bound of the predicted standardised embedding; 5 for Karlo, 10 for Kandinsky 2.1.

    Returns:
      Standardised embeddings [b d] float32; times the prior's `clip_std` plus its `clip_mean` they
      are image embeddings.

    Raises:
      UserError: `num_steps` is out of its range.
    """
    table = step_table(num_steps)
    batch = text.embed.shape[0]
    shape = (batch, embedding_dim or text.embed.shape[-1])
    if null is not None:
        null = TextCondition(
            *(jnp.broadcast_to(n, t.shape).astype(t.dtype) for n, t in zip(null, text, strict=True))
        )
        branches = [jnp.stack(pair, axis=1) for pair in zip(null, text, strict=True)]
        both = TextCondition(*(rearrange(part, "b g ... -> (b g) ...") for part in branches))
        guidance_scale = jnp.reshape(jnp.asarray(guidance_scale, jnp.float32), (-1, 1))

    def predict_x0(x: jax.Array, timestep: jax.Array) -> jax.Array:
        if null is None:
            return predict(x, jnp.full((batch,), timestep), *text)
        x = jnp.repeat(x, 2, axis=0)
        x0 = predict(x, jnp.full((2 * batch,), timestep), *both)
        x0_null, x0_text = jnp.moveaxis(rearrange(x0, "(b g) d -> b g d", g=2), 1, 0)
        return x0_null + guidance_scale * (x0_text - x0_null)

    def body(x: jax.Array, inputs: tuple[StepTable, jax.Array]) -> tuple[jax.Array, None]:
        step, index = inputs
        noise = jax.random.normal(jax.random.fold_in(key, 1 + index), shape)
        return ancestral_step(x, predict_x0(x, step.timesteps), noise, step, clamp), None

    x = jax.random.normal(jax.random.fold_in(key, 0), shape)
    steps = jax.tree.map(jnp.asarray, table)
    return jax.lax.scan(body, x, (steps, jnp.arange(num_steps)))[0]
