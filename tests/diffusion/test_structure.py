"""Clip normalisation, and the blur levels against a plain loop without matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen1_jax.diffusion.structure import (
    LEVEL_CHANNELS,
    NO_STRUCTURE,
    NUM_LEVELS,
    blur,
    blur_matrices,
    clip_depth,
    degrade,
    drop_structure,
    find_edges,
    level_embedding,
    model_input,
    normalise_clip,
    structure_image,
)

SIZES = [(56, 32), (33, 47), (16, 16), (1, 5)]


def clips(b=2, n=3, h=56, w=32, seed=0):
    return np.random.default_rng(seed).uniform(2, 9, (b, n, h, w)).astype(np.float32)


# ---- normalisation


def test_normalisation_is_over_the_clip():
    depth = clips()
    got = np.asarray(normalise_clip(depth))
    for clip, normalised in zip(depth, got, strict=True):
        low, high = clip.min(), clip.max()
        np.testing.assert_allclose(normalised, 2 * (clip - low) / (high - low) - 1, atol=1e-6)
        assert normalised.min() == -1 and normalised.max() == 1
    # Frames have different extremes: normalised one by one they would flicker.
    assert (got.min((2, 3)) > -1).sum() == (got.max((2, 3)) < 1).sum() == 4


def test_a_flat_clip_is_zero_beside_one_that_is_not():
    depth = clips()
    depth[0] = 5.3
    got = np.asarray(normalise_clip(depth))
    assert (got[0] == 0).all() and np.isfinite(got).all() and np.ptp(got[1]) == 2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3.7e5])
@pytest.mark.parametrize("shift", [0.0, -20.0, 4.0])
def test_scale_and_shift_do_not_matter(scale, shift):
    depth = clips()
    got = normalise_clip((depth + shift) * np.float32(scale))
    np.testing.assert_allclose(got, normalise_clip(depth), atol=1e-5)


def test_maps_of_bytes_do_not_wrap():
    depth = np.arange(0, 240, 2, np.uint8).reshape(1, 2, 6, 10)
    np.testing.assert_allclose(
        normalise_clip(depth), np.linspace(-1, 1, 120).reshape(depth.shape), atol=1e-6
    )


# ---- the range that counts


def test_outliers_are_clipped_to_the_quantiles_of_their_clip():
    depth = clips()
    depth[0, 1, 2, 3], depth[1, 0, 0, 0] = 1e4, -50
    got = np.asarray(clip_depth(depth, 0.02, 0.95))
    for clip, clipped in zip(depth, got, strict=True):
        low, high = np.quantile(clip, [0.02, 0.95])
        np.testing.assert_allclose(clipped, clip.clip(low, high), rtol=1e-5)
    assert np.ptp(normalise_clip(depth)[0, 0]) < 0.01 < 1.9 < np.ptp(normalise_clip(got)[0, 0])


def test_the_whole_range_changes_nothing():
    depth = clips()
    assert clip_depth(depth, 0.0, 1.0) is depth


def test_a_clip_whose_quantiles_are_one_value_keeps_its_range():
    """A small object before a flat wall must not vanish."""
    depth = clips()
    depth[0] = 1
    depth[0, :, :2, :2] = 7
    got = clip_depth(depth, 0.02, 0.98)
    np.testing.assert_array_equal(got[0], depth[0])
    assert np.ptp(got[1]) < np.ptp(depth[1])


# ---- blur levels


def halve(signal):
    """Takes one round along a list: binomial blur with repeated edges, then every other sample.

    An even length keeps the points midway between neighbours, so that nothing moves.
    """
    last = len(signal) - 1
    blurred = [
        sum(
            c * signal[min(max(i + k, 0), last)]
            for k, c in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True)
        )
        / 16
        for i in range(-1, last + 2)
    ]
    at = dict(zip(range(-1, last + 2), blurred, strict=True))
    if len(signal) % 2:
        return [at[i] for i in range(0, last + 1, 2)]
    # The blur reaches past the repeated edge; only the inner pairs are compared.
    return [(at[i] + at[i + 1]) / 2 for i in range(0, last, 2)]


def reference(picture, level):
    """Blurs [h w] to a level: rounds along each axis, then linear between pixel centres."""
    for axis in (0, 1):
        lines = []
        for line in np.moveaxis(picture, axis, -1):
            size, signal = len(line), list(line)
            for _ in range(level):
                signal = halve(signal)
            centres = (np.arange(len(signal)) + 0.5) / len(signal)
            lines.append(np.interp((np.arange(size) + 0.5) / size, centres, signal))
        picture = np.moveaxis(np.stack(lines), -1, axis)
    return picture


@pytest.mark.parametrize("size", SIZES)
def test_levels_are_rounds_of_blur_and_downsampling(size):
    depth = clips(NUM_LEVELS, 1, *size)
    got = np.asarray(jax.jit(blur)(depth, np.arange(NUM_LEVELS)))
    assert got.shape == depth.shape and got.dtype == np.float32
    for level in range(NUM_LEVELS):
        np.testing.assert_allclose(got[level, 0], reference(depth[level, 0], level), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_level_zero_is_the_identity(size):
    depth = clips(2, 3, *size)
    np.testing.assert_array_equal(blur(depth, np.zeros(2, np.int32)), depth)


@pytest.mark.parametrize("size", [1, 2, 5, 32, 33, 47, 56])
def test_each_output_pixel_is_a_mean_and_nothing_moves(size):
    table = blur_matrices(size)
    assert table.shape == (NUM_LEVELS, size, size) and (table >= 0).all()
    np.testing.assert_allclose(table.sum(-1), 1, atol=1e-6)
    # No side is favoured: a mirrored picture is blurred to the mirrored result.
    np.testing.assert_allclose(table, table[:, ::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("size", [(56, 32), (33, 47)])
def test_levels_of_one_call_are_those_of_single_calls(size):
    level = np.array([5, 0, 7, 2, 2])
    depth = clips(len(level), 2, *size)
    together = blur(depth, level)
    alone = [blur(depth[i : i + 1], level[i : i + 1])[0] for i in range(len(level))]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-6)


@pytest.mark.parametrize("size", [(56, 32), (33, 47), (128, 256)])
def test_a_higher_level_is_smoother(size):
    depth = np.repeat(clips(1, 2, *size), NUM_LEVELS, axis=0)
    got = np.asarray(blur(depth, np.arange(NUM_LEVELS)))
    for axis in (2, 3):
        steepness = np.abs(np.diff(got, axis=axis)).mean((1, 2, 3))
        assert (np.diff(steepness) <= 1e-6).all(), steepness
        # Strictly, until the axis has one pixel left.
        rounds = min(NUM_LEVELS - 1, int(np.ceil(np.log2(size[axis - 2]))))
        assert (steepness[1 : rounds + 1] < 0.8 * steepness[:rounds]).all(), steepness


def test_structure_image_is_the_blurred_normalised_depth_thrice():
    depth, level = clips(), np.array([1, 4])
    got = structure_image(depth, level)
    assert got.shape == (2, 3, 56, 32, 3) and np.abs(got).max() <= 1
    for channel in range(3):
        np.testing.assert_array_equal(got[..., channel], blur(normalise_clip(depth), level))


# ---- the network's input


def test_the_embedding_tells_all_levels_and_none_apart():
    codes = NUM_LEVELS + 1
    assert NO_STRUCTURE == NUM_LEVELS == 8
    table = np.asarray(level_embedding(jnp.arange(codes)))
    assert table.shape == (codes, LEVEL_CHANNELS) and np.abs(table).max() <= 1
    distances = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert distances[~np.eye(codes, dtype=bool)].min() > 0.5


def test_dropped_structure_is_zeros_with_a_code_of_its_own():
    structure = jnp.ones((3, 2, 4, 4, 4), jnp.bfloat16)
    got, level = drop_structure(structure, jnp.array([0, 5, 7]), jnp.array([False, True, False]))
    assert got.dtype == structure.dtype and level.dtype == jnp.int32
    np.testing.assert_array_equal(level, [0, NO_STRUCTURE, 7])
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_array_equal(got[::2], structure[::2])


def test_colours_stay_as_they_are_and_blur_channel_by_channel():
    rng = np.random.default_rng(0)
    colours, level = rng.integers(0, 256, (2, 3, 16, 24, 3)).astype(np.uint8), np.array([0, 3])
    got = np.asarray(structure_image(colours, level))
    np.testing.assert_allclose(got[0], colours[0] / 127.5 - 1, atol=1e-6)
    for channel in range(3):
        alone = blur(colours[..., channel].astype(np.float32) / 127.5 - 1, level)
        np.testing.assert_allclose(got[..., channel], alone, atol=1e-6)
    np.testing.assert_allclose(degrade(colours.astype(np.float32), level), got, atol=1e-6)


def test_model_input_is_latents_structure_and_level():
    z, structure = (np.random.default_rng(i).normal(size=(2, 3, 8, 6, 4)) for i in range(2))
    level = np.array([3, 6])
    got = np.asarray(model_input(z.astype(np.float32), structure.astype(np.float32), level))
    assert got.shape == (2, 3, 8, 6, 12) and got.dtype == np.float32
    np.testing.assert_array_equal(got[..., :4], z.astype(np.float32))
    np.testing.assert_array_equal(got[..., 4:8], structure.astype(np.float32))
    want = np.asarray(level_embedding(level))[:, None, None, None]
    np.testing.assert_array_equal(got[..., 8:], np.broadcast_to(want, (2, 3, 8, 6, 4)))


def test_without_structure_the_latents_alone():
    z = jnp.ones((1, 2, 4, 4, 4))
    assert model_input(z, None, None) is z


def test_noise_grows_with_the_level_and_follows_from_the_depth():
    depth = jnp.asarray(np.random.default_rng(0).uniform(0, 5, (2, 3, 16, 16)), jnp.float32)
    depth = jnp.concatenate([depth, depth[:1]])
    clean = normalise_clip(depth)
    np.testing.assert_allclose(degrade(depth, jnp.array([0, 0, 0]), "noise"), clean, atol=1e-6)
    far = np.asarray(degrade(depth, jnp.array([7, 7, 7]), "noise"))
    correlations = [
        np.corrcoef(f.ravel(), c.ravel())[0, 1] for f, c in zip(far, clean, strict=True)
    ]
    assert max(np.abs(correlations)) < 0.3 and 0.8 < far.std() < 1.2
    np.testing.assert_array_equal(far[0], far[2])  # the same depth has the same noise
    assert np.abs(far[0] - far[1]).max() > 1


def test_edges_lie_where_colours_change():
    frames = np.zeros((1, 1, 8, 8, 3), np.uint8)
    frames[..., 4:, :] = 255
    edges = np.asarray(find_edges(jnp.asarray(frames)))[0, 0]
    assert np.flatnonzero(edges[3]).tolist() == [3, 4]
    np.testing.assert_allclose(edges[:, 3], 4 * 255, rtol=1e-3)
    np.testing.assert_allclose(find_edges(jnp.asarray(frames.swapaxes(2, 3)))[0, 0], edges.T)
