"""The structure condition: clip-normalised maps, their blur levels t_s, the level's embedding."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from gen1_jax.interpolation import interpolation_matrix

NUM_LEVELS = 8  # t_s ∈ {0 … 7}
NO_STRUCTURE = NUM_LEVELS  # the ninth code, beside structure latents of zeros
LEVEL_CHANNELS = 4


def normalise_clip(depth: jax.Array, bounds: jax.Array | None = None) -> jax.Array:
    """Scales depth [b n h w] to [−1, 1] by the clip's smallest and largest value.

    Normalisation by frame would flicker. A clip of constant depth becomes 0.

    Args:
      depth: the depth of clips.
      bounds: [b 2], the values that become −1 and 1, beyond which depth is clipped. A piece of a
        video has those of the whole video. None: those of the clip.
    """
    chex.assert_rank(depth, 4)
    depth = jnp.asarray(depth, jnp.float32)  # differences of a user's uint8 maps would wrap
    if bounds is None:
        low = depth.min((1, 2, 3), keepdims=True)
        high = depth.max((1, 2, 3), keepdims=True)
    else:
        low, high = (bounds[:, i, None, None, None] for i in range(2))
        depth = jnp.clip(depth, low, high)
    span = high - low
    scaled = 2 * (depth - low) / jnp.where(span > 0, span, 1) - 1
    return jnp.where(span > 0, scaled, 0)


def clip_depth(depth: jax.Array, low: float, high: float) -> jax.Array:
    """Clips estimated depth [b n h w] to two quantiles of each clip's values.

    The extremes of a clip can hang on one wrong pixel. Where both quantiles are one value, as in a
    clip of a small object before a flat wall, the clip stays as it is.

    Args:
      depth: inverse depth.
      low: the lower quantile; 0 is the least value.
      high: the higher quantile; 1 is the greatest value.
    """
    chex.assert_rank(depth, 4)
    if (low, high) == (0, 1):
        return depth
    values = depth.reshape(depth.shape[0], -1)
    least, most = jnp.quantile(values, jnp.asarray([low, high]), axis=1)[..., None, None, None]
    return jnp.where(least < most, jnp.clip(depth, least, most), depth)


@functools.cache
def blur_matrices(size: int) -> np.ndarray:
    """Returns all blur levels of one axis as a table of matrices [8 size size].

    Row i of level s holds the weights with which output pixel i reads the input. Level s is s
    rounds of a binomial blur (1 4 6 4 1)/16 and ×½ downsampling, and then linear resampling to
    `size`. Edges are repeated, and at least one pixel is left.
    """
    table = [np.eye(size)]
    reduced = np.eye(size)
    for _ in range(NUM_LEVELS - 1):
        reduced = _halve(reduced.shape[0]) @ reduced
        table.append(_resize(reduced.shape[0], size) @ reduced)
    return np.stack(table).astype(np.float32)


def _halve(size: int) -> np.ndarray:
    """Returns the matrix [⌈size/2⌉ size] that blurs and halves, between pairs for an even size."""
    out = -(-size // 2)
    matrix = np.zeros((out, size))
    taps = np.array([1, 4, 6, 4, 1]) / 16
    if size % 2 == 0:
        taps = np.convolve(taps, [0.5, 0.5])
    for i in range(out):
        for k, weight in enumerate(taps):
            matrix[i, np.clip(2 * i - 2 + k, 0, size - 1)] += weight
    return matrix


def _resize(size: int, out: int) -> np.ndarray:
    """Returns the matrix [out size] of linear interpolation, with pixel centres at (i + ½)/size."""
    positions = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    return interpolation_matrix(positions, size)


def blur(depth: jax.Array, level: jax.Array) -> jax.Array:
    """Blurs depth [b n h w] to level t_s [b], 0 … 7, with one matrix product for each axis."""
    chex.assert_rank([depth, level], [4, 1])
    chex.assert_type([depth, level], [float, int])
    rows = jnp.asarray(blur_matrices(depth.shape[2]))[level]
    columns = jnp.asarray(blur_matrices(depth.shape[3]))[level]
    # Accelerators round factors to 8 or 11 bits by default; level 0 would then be no identity.
    return jnp.einsum("bnhw,bHh,bWw->bnHW", depth, rows, columns, precision="highest")


def add_noise(depth: jax.Array, level: jax.Array) -> jax.Array:
    """Mixes depth [b n h w] in [−1, 1] with noise, whose share of the variance is 0.14 · level [b].

    The noise follows from the depth itself, so that training and editing need no key for it.
    """
    chex.assert_rank([depth, level], [4, 1])
    bits = jax.lax.bitcast_convert_type(depth.sum((1, 2, 3)), jnp.uint32)
    noise = jax.vmap(lambda seed, x: jax.random.normal(jax.random.key(seed), x.shape))(bits, depth)
    share = 0.14 * level.astype(jnp.float32)[:, None, None, None]
    return jnp.sqrt(1 - share) * depth + jnp.sqrt(share) * noise


def find_edges(frames: jax.Array) -> jax.Array:
    """Returns the strength of edges: frames [b n H W 3] uint8 → [b n H W], by Sobel's operator."""
    grey = frames.astype(jnp.float32) @ jnp.asarray([0.299, 0.587, 0.114])
    padded = jnp.pad(grey, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    across = rows[..., 2:] - rows[..., :-2]
    down = columns[..., 2:, :] - columns[..., :-2, :]
    return jnp.hypot(across, down)


def degrade(
    depth: jax.Array, level: jax.Array, degrading: str = "blur", bounds: jax.Array | None = None
) -> jax.Array:
    """Returns a map, scaled to [−1, 1], at the level t_s [b], blurred or with noise.

    Args:
      depth: a grey map [b n h w], such as inverse depth, or one in colours [b n h w 3] in 0 … 255,
        which stay as they are: stretched, a colour would be another one in each clip.
      level: t_s.
      degrading: "blur" or "noise".
      bounds: of a grey map; see `normalise_clip`.
    """
    if depth.ndim == 5:
        # Channels stand beside frames: each is degraded alone.
        scaled = rearrange(to_unit(depth), "b n h w c -> b (n c) h w")
    else:
        scaled = normalise_clip(depth, bounds)
    seen = add_noise(scaled, level) if degrading == "noise" else blur(scaled, level)
    return rearrange(seen, "b (n c) h w -> b n h w c", c=3) if depth.ndim == 5 else seen


def to_unit(colours: jax.Array) -> jax.Array:
    """Scales colours in 0 … 255 to [−1, 1]."""
    return jnp.asarray(colours, jnp.float32) / 127.5 - 1


def structure_image(
    depth: jax.Array, level: jax.Array, degrading: str = "blur", bounds: jax.Array | None = None
) -> jax.Array:
    """Returns the image that the autoencoder encodes, [b n h w 3] in [−1, 1]; see `degrade`."""
    seen = degrade(depth, level, degrading, bounds)
    return seen if seen.ndim == 5 else repeat(seen, "b n h w -> b n h w c", c=3)


def drop_structure(
    structure: jax.Array, level: jax.Array, dropped: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Takes the structure from some clips: their latents become 0, their level `NO_STRUCTURE`.

    Args:
      structure: structure latents [b n h w 4].
      level: t_s, [b].
      dropped: bool [b].
    """
    chex.assert_rank([structure, level, dropped], [5, 1, 1])
    gone = dropped[:, None, None, None, None]
    return jnp.where(gone, 0, structure), jnp.where(dropped, NO_STRUCTURE, level)


def level_embedding(level: jax.Array) -> jax.Array:
    """Embeds t_s [b] → [b 4] with a fast and a slow wave, which tell all levels and none apart."""
    angles = level[:, None].astype(jnp.float32) * jnp.asarray([1.0, 0.25])
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def model_input(z: jax.Array, structure: jax.Array | None, level: jax.Array | None) -> jax.Array:
    """Concatenates the UNet's input [b n h w 12].

    Args:
      z: noisy latents [b n h w 4].
      structure: structure latents [b n h w 4]; None in the stages before structure is introduced,
        whose input is `z` alone.
      level: t_s, [b].
    """
    if structure is None:
        return z
    chex.assert_equal_shape([z, structure])
    b, n, h, w, _ = z.shape
    embedding = repeat(level_embedding(level), "b c -> b n h w c", n=n, h=h, w=w)
    return jnp.concatenate([z, structure.astype(z.dtype), embedding.astype(z.dtype)], axis=-1)
