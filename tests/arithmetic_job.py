"""Sums and products whose results are known, for tests/test_arithmetic.py.

A faulty jaxlib may return wrong numbers, crash or hang, so the checks run outside the suite's own
process: `python tests/arithmetic_job.py NAME` prints one line of JSON for each result, as soon as
it is computed.
"""

import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

# The known fault begins at 32,769 rows.
ROWS = (40_000, 200_000)
# Float32 rounds a value by up to 2^-24 of it.
ROUNDING = 2.0**-24
# A value that depends on one row alone takes a few tens of rounded operations.
ONE_ROW = 64 * ROUNDING

Result = tuple[str, object, object, float]  # name, got, expected, allowed relative error


def sum_of(n: int) -> float:
    """Returns the relative error allowed in a float32 sum of `n` values.

    XLA:CPU adds one value after another, and each addition rounds the sum so far. Such roundings
    are independent and grow with the root of `n`; four times that is allowed. jaxlib 0.10.1 comes
    to a quarter of what is allowed (a group norm's gradient), and 0.11.2 stays far below it.
    """
    return 4 * n**0.5 * ROUNDING


# ---- public reproducers


def wrong_sums_of_rows() -> Iterator[Result]:
    """jax#39103: jaxlib 0.10.2 gives 1065369600 in the last of 32,769 rows; 1073741824 is right."""
    matrix = jnp.eye(3)

    def squares(rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)

    for count in (32_769, *ROWS):
        rows = np.zeros((count, 3), np.float32)
        rows[:, 0] = np.arange(count)
        expected = np.square(rows[:, 0].astype(np.float64))
        yield f"{count} rows", jax.jit(squares)(rows), expected, ONE_ROW


def crash_of_rank_7() -> Iterator[Result]:
    """jax#40412: jaxlib 0.10.2 crashes on a product of rank 7 that is summed over one axis."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 3, 1, 2, 2, 8, 8, 8), np.float32)
    got = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
    yield "rank 7", got, (a.astype(np.float64) * b).sum(axis=3), ONE_ROW


def crash_of_rank_8() -> Iterator[Result]:
    """jax#39257: jaxlib 0.10.2 and 0.11.0 crash or hang on a product broadcast to rank 8."""
    a, b = np.full((10, 4, 6), 2, np.float32), np.ones((10, 4, 6, 9, 9, 9, 9, 9), np.float32)

    def logarithm(a: jax.Array, b: jax.Array) -> jax.Array:
        total = jnp.sum(a[..., None, None, None, None, None] * b, axis=2)
        return jnp.log(jnp.maximum(total, 1e-16))

    expected = np.full((10, 4, 9, 9, 9, 9, 9), np.log(12.0))
    yield "rank 8", jax.jit(logarithm)(a, b), expected, ONE_ROW


# ---- our own reductions, jitted, against NumPy in float64


def normal(seed: int, *shape: int) -> np.ndarray:
    """Returns values around 1, so that neither their sum nor their mean vanishes."""
    return 1 + np.random.default_rng(seed).standard_normal(shape, np.float32)


def _norm_in_float64(
    x: np.ndarray, dy: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float, groups: int
) -> tuple[np.ndarray, ...]:
    """Normalises x [rows c] over the rows and a group's channels; each row alone if `groups` is 0.

    Returns:
      y, and the gradients of x, scale and bias for dy.
    """
    x, dy, scale, bias = (np.asarray(a, np.float64) for a in (x, dy, scale, bias))

    def mean(a: np.ndarray) -> np.ndarray:
        if not groups:
            return a.mean(-1, keepdims=True)
        return np.repeat(a.mean(0).reshape(groups, -1).mean(-1), a.shape[-1] // groups)

    centred = x - mean(x)
    factor = (mean(centred**2) + epsilon) ** -0.5
    unit, g = centred * factor, dy * scale
    dx = factor * (g - mean(g) - unit * mean(g * unit))
    return unit * scale + bias, dx, (dy * unit).sum(0), dy.sum(0)


def norms(rows: int) -> Iterator[Result]:
    from gen1_jax.models.layers import GroupNorm, LayerNorm

    channels, scale, bias = 8, normal(1, 8), normal(2, 8)
    x, dy = normal(3, rows, channels), normal(4, rows, channels)
    for name, module, groups in (
        ("group norm", GroupNorm(4, 1e-5), 4),
        ("layer norm", LayerNorm(1e-5), 0),
    ):

        @jax.jit
        def run(x, scale, bias, dy, module=module):
            def apply(x, scale, bias):
                return module.apply({"params": {"scale": scale, "bias": bias}}, x)

            y, backward = jax.vjp(apply, x, scale, bias)
            return y, *backward(dy)

        # For the group norm the rows are the pixels of one image.
        shape = (1, rows // 200, 200, channels) if groups else (rows, channels)
        y, dx, dscale, dbias = run(x.reshape(shape), scale, bias, dy.reshape(shape))
        expected = _norm_in_float64(x, dy, scale, bias, 1e-5, groups)
        allowed = sum_of(2 * rows) if groups else ONE_ROW
        yield name, y.reshape(x.shape), expected[0], allowed
        yield f"{name}, gradient of x", dx.reshape(x.shape), expected[1], allowed
        yield f"{name}, gradient of scale", dscale, expected[2], sum_of(rows)
        yield f"{name}, gradient of bias", dbias, expected[3], sum_of(rows)


def attentions(rows: int) -> Iterator[Result]:
    """Attention as in temporal layers: few frames, and as many batches as there are places."""
    from gen1_jax.models.attention import attention

    length, heads, d = 8, 2, 4
    q, k, v, dy = (normal(5 + i, rows // length, length, heads, d) for i in range(4))

    @jax.jit
    def run(q, k, v, dy):
        y, backward = jax.vjp(attention, q, k, v)
        return y, *backward(dy)

    q64, k64, v64, dy64 = (np.moveaxis(x.astype(np.float64), 2, 1) for x in (q, k, v, dy))
    logits = q64 @ k64.swapaxes(-1, -2) * d**-0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = dy64 @ v64.swapaxes(-1, -2)
    dlogits = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) * d**-0.5
    expected = (
        weights @ v64,
        dlogits @ k64,
        dlogits.swapaxes(-1, -2) @ q64,
        weights.swapaxes(-1, -2) @ dy64,
    )
    names = ("attention", *(f"attention, gradient of {x}" for x in "qkv"))
    for name, got, right in zip(names, run(q, k, v, dy), expected, strict=True):
        yield name, got, np.moveaxis(right, 1, 2), ONE_ROW


def losses(rows: int) -> Iterator[Result]:
    """The objectives over networks of one multiplication, with the draws of their own keys."""
    from gen1_jax.batch import Batch
    from gen1_jax.training import objectives

    key = jax.random.key(0, impl="unsafe_rbg")  # compiles fast
    n, h, w = 4, 20, 20  # a clip
    b = rows // (n * h * w)

    def value(objective, params, batch) -> jax.Array:
        return jax.jit(objective.loss)(params, None, batch, key)[0]

    # ---- diffusion
    batch = Batch(latents=normal(10, b, n, h, w, 4), content=normal(11, b, 4))
    network = SimpleNamespace(in_channels=4, out_channels=4, apply=lambda _, x, t, content: x / 4)
    got = value(objectives.diffusion(network, None), {}, batch)
    time_key, noise_key, *_ = jax.random.split(key, 4)
    t = np.asarray(jax.random.randint(time_key, (b,), 0, 1000))
    eps = np.asarray(jax.random.normal(noise_key, batch.latents.shape), np.float64)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = np.cumprod(1 - betas)[t].reshape(-1, 1, 1, 1, 1)
    z0, signal, noise = batch.latents.astype(np.float64), alpha**0.5, (1 - alpha) ** 0.5
    error = (signal * z0 + noise * eps) / 4 - (signal * eps - noise * z0)
    yield "diffusion loss", got, np.mean(error**2), sum_of(4 * rows)

    # ---- autoencoder
    frames = np.random.default_rng(12).integers(0, 256, (b, n, h, w, 3), np.uint8)

    def autoencoder(_, x, method):
        return (x / 2, x - 2) if method == "encode" else x / 3

    got = value(
        objectives.autoencoder(SimpleNamespace(apply=autoencoder), None, kl_weight=0.1),
        {},
        Batch(frames=frames),
    )
    images = frames.reshape(-1, h, w, 3) / 127.5 - 1
    drawn = np.asarray(jax.random.normal(key, images.shape), np.float64)
    mean, logvar = images / 2, images - 2
    error = (mean + np.exp(logvar / 2) * drawn) / 3 - images
    divergence = np.mean(mean**2 + np.exp(logvar) - 1 - logvar) / 2
    expected = np.abs(error).mean() + np.mean(error**2) + 0.1 * divergence
    yield "autoencoder loss", got, expected, sum_of(3 * rows)

    # ---- contrastive: every image with every caption, about as many pairs as `rows`
    count = int(rows**0.5)
    images, texts = normal(13, count, 8), normal(14, count, 8)
    tokens = np.random.default_rng(15).integers(0, count // 2, (count, 1), np.int32)
    network = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=8),
        apply=lambda variables, pixels, tokens: (images, texts, variables["params"]["logit_scale"]),
    )
    batch = Batch(frames=np.zeros((count, 1, 8, 8, 3), np.uint8), tokens=tokens)
    got = value(objectives.contrastive(network, None), {"logit_scale": np.float32(0.5)}, batch)
    scores = 0.5 * images.astype(np.float64) @ texts.T
    same = tokens == tokens.T
    goal = same / same.sum(-1, keepdims=True)

    def cross_entropy(scores: np.ndarray) -> np.ndarray:
        largest = scores.max(-1, keepdims=True)
        total = largest + np.log(np.exp(scores - largest).sum(-1, keepdims=True))
        return (goal * (total - scores)).sum(-1)

    expected = (cross_entropy(scores).mean() + cross_entropy(scores.T).mean()) / 2
    yield "contrastive loss", got, expected, sum_of(rows)

    # ---- depth
    depth, truth = normal(16, b * n, h, w), normal(17, b, n, h, w)
    network = SimpleNamespace(apply=lambda variables, pixels: variables["params"]["depth"])
    batch = Batch(frames=np.zeros((b, n, h, w, 3), np.uint8), depth=truth)
    got = value(objectives.depth(network, None), {"depth": depth}, batch)

    def standardised(x: np.ndarray) -> np.ndarray:
        x = x.reshape(b, n, h, w).astype(np.float64)
        x = x - x.mean((1, 2, 3), keepdims=True)
        return x / (np.abs(x).mean((1, 2, 3), keepdims=True) + 1e-6)

    error = standardised(depth) - standardised(truth)
    expected = np.abs(error).mean()
    for step in (1, 2, 4):
        coarse = error[:, :, ::step, ::step]
        slopes = [np.abs(np.diff(coarse, axis=axis)).mean() for axis in (2, 3)]
        expected += 0.5 / 3 * sum(slopes)
    yield "depth loss", got, expected, sum_of(rows)


def priors(rows: int) -> Iterator[Result]:
    from gen1_jax.diffusion.prior import TextCondition, prior_loss, squared_cosine_schedule

    key, x0 = jax.random.key(0, impl="unsafe_rbg"), normal(20, rows, 4)
    text = TextCondition(*(np.zeros((rows, 1), np.float32) for _ in TextCondition._fields))
    got = jax.jit(lambda x0: prior_loss(lambda x, *_: x / 2, x0, text, key))(x0)
    time_key, noise_key, _ = jax.random.split(key, 3)
    t = np.asarray(jax.random.randint(time_key, (rows,), 0, 1000))
    noise = np.asarray(jax.random.normal(noise_key, x0.shape), np.float64)
    alpha = squared_cosine_schedule()[1].astype(np.float64)[t][:, None]
    expected = np.mean(((alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise) / 2 - x0) ** 2)
    yield "prior loss", got, expected, sum_of(4 * rows)


def cosines(rows: int) -> Iterator[Result]:
    """Directions of embeddings, and the mean cosine of neighbours as the metrics compute it."""
    from gen1_jax.conditioning import to_content
    from gen1_jax.evaluation.metrics.consistency import frame_consistency

    embeddings = normal(21, rows // 8, 8, 4)
    content = jax.jit(to_content)(embeddings)
    exact = embeddings.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    yield "direction", content, 2 * unit, ONE_ROW

    @jax.jit
    def consistency(x: jax.Array) -> jax.Array:
        x = to_content(x)
        return (x[:, 1:] * x[:, :-1]).mean(-1).mean(-1)

    yield "mean cosine", consistency(embeddings), frame_consistency(exact), ONE_ROW


def gradient_norms(rows: int) -> Iterator[Result]:
    import optax

    tree = {"kernel": normal(22, rows, 4), "bias": normal(23, rows), "scale": normal(24, 8)}
    square = sum(np.square(x, dtype=np.float64).sum() for x in tree.values())
    yield "gradient norm", jax.jit(optax.tree.norm)(tree), square**0.5, sum_of(4 * rows)


OURS = (norms, attentions, losses, priors, cosines, gradient_norms)


def ours() -> Iterator[Result]:
    for rows in ROWS:
        for check in OURS:
            for name, got, expected, allowed in check(rows):
                yield f"{name}, {rows} rows", got, expected, allowed


CHECKS: dict[str, Callable[[], Iterator[Result]]] = {
    "jax#39103": wrong_sums_of_rows,
    "jax#40412": crash_of_rank_7,
    "jax#39257": crash_of_rank_8,
    "ours": ours,
}


def main(name: str) -> None:
    for what, got, expected, allowed in CHECKS[name]():
        got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        assert got.shape == expected.shape, (what, got.shape, expected.shape)
        error = np.abs(got - expected).max() / np.abs(expected).max()
        line = {"what": what, "error": float(error), "allowed": allowed}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
