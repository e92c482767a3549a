"""What a mask keeps is the source on its way through the noise, and in the end the source."""

import jax.numpy as jnp
import numpy as np
from tiny_unet import normal

from gen1_jax.diffusion.blending import END, Kept, blend
from gen1_jax.diffusion.process import (
    ddim_step,
    make_schedule,
    q_sample,
    sampling_timesteps,
    target,
)

SHAPE = (3, 4, 5, 2)


def test_the_source_is_kept_at_every_step_of_a_toy():
    """A network that knows the answer makes it inside; outside, it sees the source at its own t."""
    schedule = make_schedule()
    source, noise, answer = (normal(i, *SHAPE) for i in range(3))
    mask = (normal(3, *SHAPE[:3], 1) > 0).astype(jnp.float32)
    kept, inside = Kept(source, noise, mask), np.broadcast_to(mask, SHAPE) == 1
    steps, landings = sampling_timesteps(1000, 7)
    z = blend(schedule, noise, kept, steps[0])
    for i, (t, t_next) in enumerate(zip(steps, landings, strict=True)):
        expected = np.asarray(q_sample(schedule, source, noise, jnp.asarray(t)))
        np.testing.assert_array_equal(np.asarray(z)[~inside], expected[~inside])
        # What explains z_t as noise over the answer.
        a, s = schedule.coefficients(jnp.asarray(t), z)
        prediction = target(schedule, answer, (z - a * answer) / s, jnp.asarray(t))
        z = ddim_step(schedule, prediction, z, t, t_next)
        z = blend(schedule, z, kept, [*steps, END][i + 1])
    np.testing.assert_array_equal(np.asarray(z)[~inside], np.asarray(source)[~inside])
    # 3 % of the noise stays, as in Stable Diffusion.
    np.testing.assert_allclose(np.asarray(z)[inside], np.asarray(answer)[inside], atol=0.15)


def test_all_or_nothing():
    schedule = make_schedule()
    z, source, noise = (normal(i, *SHAPE) for i in range(3))
    everything, nothing = (
        np.ones((*SHAPE[:3], 1), np.float32),
        np.zeros((*SHAPE[:3], 1), np.float32),
    )
    np.testing.assert_array_equal(blend(schedule, z, Kept(source, noise, everything), 500), z)
    np.testing.assert_array_equal(blend(schedule, z, Kept(source, noise, nothing), END), source)
