"""Attention and its gradient, written by hand, against the formula and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_unet import normal, quick_jit

from gen1_jax.models.attention import attention

Q, K, V = (normal(i, 2, length, 3, 4) for i, length in enumerate((5, 7, 7)))
# Each query keeps some keys.
MASK = np.random.default_rng(0).random((2, 1, 5, 7)) < 0.7
MASK[..., 0] = True


def plain(q, k, v, mask, scale):
    logits = scale * jnp.einsum("blhd,bmhd->bhlm", q, k)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    return jnp.einsum("bhlm,bmhd->blhd", jax.nn.softmax(logits), v)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_and_its_gradient_are_those_of_the_formula(mask, scale):
    def with_gradients(function, scale):
        def loss(q, k, v):
            y = function(q, k, v, mask, scale)
            return jnp.sum(y * normal(3, *y.shape)), y

        return quick_jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(Q, K, V)

    got = with_gradients(attention, scale)
    want = with_gradients(plain, 4**-0.5 if scale is None else scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
