"""Scaled dot-product attention whose backward pass keeps no array of query-key pairs.

Attention is two matrix products. On a TPU the kernels of `attention_tpu.py` take over the long
self-attention of images.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp

# Shortest sequence, in tokens, that goes to a kernel. The scores of a shorter one are no larger
# than the other arrays, so a kernel would gain nothing.
KERNEL_MIN_LENGTH = 256


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Returns scaled dot-product attention, with a float32 softmax.

    Args:
      q: Queries [b lq heads d].
      k: Keys [b lk heads d].
      v: Values [b lk heads d].
      mask: Broadcastable to [b heads lq lk]; True keeps a pair.
      scale: Factor of the scores; d^-1/2 if None.

    Returns:
      [b lq heads d] in the values' type.
    """
    chex.assert_rank([q, k, v], 4)
    chex.assert_equal_shape_suffix([q, k], 2)
    chex.assert_equal_shape_prefix([k, v], 3)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _attend(q * jnp.asarray(scale, q.dtype), k, v, mask)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the attention of queries that are already scaled; all arrays [b l heads d]."""
    return _attend_forward(q, k, v, mask)[0]


def _attend_forward(q, k, v, mask):
    y, lse = _choose(_attend_by_kernel, _attend_by_products, q, k, v, mask)
    return y, (q, k, v, mask, y, lse)


def _attend_backward(kept, dy):
    *kept, lse = kept
    gradients = _choose(_gradients_by_kernel, _gradients_by_products, *kept, lse, dy)
    return *gradients, None


_attend.defvjp(_attend_forward, _attend_backward)


def _choose(by_kernel, by_products, q, k, v, mask, *others):
    """Calls the kernels for long self-attention without a mask on a TPU, else the products."""
    _, length, heads, d = q.shape
    plain = partial(by_products, mask)
    if mask is not None or k.shape[1] != length or length < KERNEL_MIN_LENGTH or length % 8:
        return plain(q, k, v, *others)
    from gen1_jax.models import attention_tpu  # imported late: Pallas takes a while to import

    if attention_tpu.choose_tiles(length, heads, d, q.dtype, v.dtype) is None:
        return plain(q, k, v, *others)
    return jax.lax.platform_dependent(q, k, v, *others, tpu=by_kernel, default=plain)


# ---- by matrix products


def _heads_first(x: jax.Array) -> jax.Array:
    """[b l heads d] → [b heads l d]."""
    return x.transpose(0, 2, 1, 3)


def _logits(q: jax.Array, k: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the float32 scores [b heads lq lk] of q [b heads lq d] and k [b heads lk d]."""
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    return logits if mask is None else jnp.where(mask, logits, jnp.finfo(jnp.float32).min)


def _attend_by_products(mask, q, k, v):
    """Returns the result [b lq heads d] and each query's log-sum-exp [b heads lq]."""
    q, k, v = map(_heads_first, (q, k, v))
    logits = _logits(q, k, mask)
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1, keepdims=True)
    # The division follows the product with v: it then takes lq x d values instead of lq x lk.
    y = ((weights.astype(v.dtype) @ v) / total).astype(v.dtype)
    return _heads_first(y), (largest + jnp.log(total))[..., 0]


def _gradients_by_products(mask, q, k, v, y, lse, dy):
    """Returns the gradients of q, k and v, with the weights computed again from `lse`."""
    q, k, v, y, dy = map(_heads_first, (q, k, v, y, dy))
    weights = jnp.exp(_logits(q, k, mask) - lse[..., None])
    # The gradients of v and k are computed transposed, so that the large array is the right side
    # of a product as it is. As a transposed left side it makes XLA up to 7 times slower on CPU.
    dv = dy.swapaxes(-1, -2) @ weights.astype(dy.dtype)
    dlogits = weights * (dy @ v.swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True))
    if mask is not None:  # a row that is masked whole has weights, but no gradient
        dlogits = jnp.where(mask, dlogits, 0)
    dlogits = dlogits.astype(q.dtype)
    dk = q.swapaxes(-1, -2) @ dlogits
    return tuple(map(_heads_first, (dlogits @ k, dk.swapaxes(-1, -2), dv.swapaxes(-1, -2))))


# ---- by the kernels of a TPU


def _channels_first(x: jax.Array) -> jax.Array:
    """[b l heads d] → [b heads d l], the kernels' layout."""
    return x.transpose(0, 2, 3, 1)


def _attend_by_kernel(q, k, v):
    from gen1_jax.models.attention_tpu import attend

    y, lse = attend(*map(_channels_first, (q, k, v)))
    return y.transpose(0, 3, 1, 2), lse


def _gradients_by_kernel(q, k, v, y, lse, dy):
    from gen1_jax.models.attention_tpu import attend_backward

    q, k, v, y, dy = map(_channels_first, (q, k, v, y, dy))
    return tuple(x.transpose(0, 3, 1, 2) for x in attend_backward(q, k, v, y, lse, dy))
