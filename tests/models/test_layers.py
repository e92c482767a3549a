"""The layers that every model shares, against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_unet import normal

from gen1_jax.models.layers import GroupNorm, LayerNorm, timestep_embedding

# A mean that is large beside the deviation: in half precision its rounding would swamp the result.
X = jnp.asarray(100 + normal(0, 2, 6, 5, 8), jnp.bfloat16)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_of_half_precision_has_statistics_in_float32(groups):
    scale, bias = normal(1, 8), normal(2, 8)
    params = {"params": {"scale": scale, "bias": bias}}
    got = GroupNorm(groups, 1e-5, dtype=jnp.float32).apply(params, X)
    x = np.asarray(X, np.float64).reshape(2, 30, groups, 8 // groups)
    x = x - x.mean((1, 3), keepdims=True)
    x = (x / np.sqrt(x.var((1, 3), keepdims=True) + 1e-5)).reshape(X.shape)
    np.testing.assert_allclose(got, x * scale + bias, atol=1e-3)


def test_layer_norm_of_half_precision_has_statistics_in_float32():
    scale, bias = normal(1, 8), normal(2, 8)
    params = {"params": {"scale": scale, "bias": bias}}
    got = LayerNorm(1e-5, dtype=jnp.float32).apply(params, X)
    x = np.asarray(X, np.float64)
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, x * scale + bias, atol=1e-3)


def test_the_timestep_embedding_goes_from_a_period_of_one_radian_to_ten_thousand():
    """diffusers' `flip_sin_to_cos` without a shift; test_unet_parity.py compares the network."""
    t = np.array([0, 1, 500, 999])
    angles = t[:, None] / 10_000 ** (np.arange(16) / 16)
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(timestep_embedding(t, 32), want, atol=1e-4)
