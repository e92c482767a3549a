"""What lies outside a mask: PSNR, SSIM and distances of features, against references."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gen1_jax.evaluation.judges import Judges
from gen1_jax.evaluation.metrics import perceptual
from gen1_jax.evaluation.metrics.similarity import distance_outside, psnr_outside, ssim_outside

RNG = np.random.default_rng(0)


def published_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 on `[h w]`, by PyTorch's convolution over whole windows."""
    offset = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offset**2) / (2 * 1.5**2))
    window = torch.outer(window, window) / window.sum() ** 2

    def mean(value: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(value[None, None], window[None, None])[0, 0]

    x, y = (torch.from_numpy(each.astype(np.float64)) for each in (x, y))
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


@pytest.fixture(scope="module")
def pair():
    """Two clips `[1 2 24 20 3]`, and a mask of one pixel in the corner, outside SSIM's reach."""
    source = RNG.integers(0, 256, (1, 2, 24, 20, 3), np.uint8)
    noise = RNG.normal(0, 20, source.shape)
    mask = np.zeros(source.shape[:-1], bool)
    mask[..., 0, 0] = True
    return (source + noise).clip(0, 255).astype(np.uint8), source, mask


def test_psnr_by_hand(pair):
    frames, source, mask = pair
    off = source.astype(np.int64).clip(5, None) - 5
    raised = np.where(source < 5, source, off).astype(np.uint8)
    squared = ((raised.astype(float) - source) ** 2).mean(-1)
    expected = [10 * np.log10(255**2 / squared[0, i][~mask[0, i]].mean()) for i in range(2)]
    np.testing.assert_allclose(psnr_outside(raised, source, mask), [np.mean(expected)])
    np.testing.assert_allclose(psnr_outside(source, source, mask), [60])


def test_ssim_is_the_published_one(pair):
    frames, source, mask = pair
    expected = np.mean(
        [
            published_ssim(frames[0, i, ..., c], source[0, i, ..., c])
            for i in (0, 1)
            for c in (0, 1, 2)
        ]
    )
    # The corner is in the windows of no inner pixel but one, whose statistics lack it.
    assert ssim_outside(frames, source, mask)[0] == pytest.approx(expected, abs=2e-3)
    elsewhere = np.concatenate([mask[:, :1], ~mask[:, :1] & False], axis=1)
    only_second = ssim_outside(frames[:, ::-1], source[:, ::-1], elsewhere[:, ::-1])
    assert only_second[0] == pytest.approx(expected, abs=2e-3)
    np.testing.assert_allclose(ssim_outside(source, source, mask), [1])


def test_ssim_without_a_mask_in_a_frame_is_exact(pair):
    """A mask in the first frame alone leaves the second as published."""
    frames, source, _ = pair
    mask = np.zeros(source.shape[:-1], bool)
    mask[:, 0] = True  # covers the first frame, which then does not count
    expected = np.mean(
        [published_ssim(frames[0, 1, ..., c], source[0, 1, ..., c]) for c in range(3)]
    )
    np.testing.assert_allclose(ssim_outside(frames, source, mask), [expected], rtol=1e-9)


def test_what_is_inside_the_mask_does_not_count(pair):
    frames, source, mask = pair
    mask = mask.copy()
    mask[:, :, 4:15, 3:12] = True
    other = np.where(mask[..., None], 255 - frames, frames)
    for measure in (psnr_outside, ssim_outside):
        np.testing.assert_allclose(measure(other, source, mask), measure(frames, source, mask))
    outside = np.where(mask[..., None], frames, source)
    np.testing.assert_allclose(psnr_outside(outside, source, mask), [60])
    np.testing.assert_allclose(ssim_outside(outside, source, mask), [1])


def test_masks_that_leave_nothing_to_measure(pair):
    frames, source, mask = pair
    maps = [RNG.uniform(size=(1, 2, 6, 5))]
    for empty in (np.zeros_like(mask), np.ones_like(mask)):
        assert np.isnan(psnr_outside(frames, source, empty)[0])
        assert np.isnan(ssim_outside(frames, source, empty)[0])
        assert np.isnan(distance_outside(maps, empty)[0])
    small = (slice(None), slice(None), slice(0, 10), slice(0, 10))
    assert np.isnan(ssim_outside(frames[small], source[small], mask[small])[0])
    grey = np.full_like(source, 9)
    assert ssim_outside(grey, grey, mask)[0] == 1 and psnr_outside(grey, grey, mask)[0] == 60


def test_distances_count_by_area():
    mask = np.zeros((1, 1, 4, 6), bool)
    mask[..., :2, :3] = True  # the first of 2 x 2 places
    mask[..., 2:, 3] = True  # a third of the last
    layer = np.array([[[[9.0, 1], [2, 3]]]])
    expected = (1 + 2 + 3 * 2 / 3) / (1 + 1 + 2 / 3)
    np.testing.assert_allclose(distance_outside([layer], mask), [expected])
    odd = np.arange(15.0).reshape(1, 1, 3, 5)  # 4 x 6 pixels do not divide; areas add up
    one = np.ones((1, 1, 3, 5))
    np.testing.assert_allclose(distance_outside([one], mask), [1])
    np.testing.assert_allclose(distance_outside([layer, one], mask), [expected + 1])
    assert 0 < distance_outside([odd], mask)[0] < 14


def test_distances_of_features():
    frames, others = RNG.integers(0, 256, (2, 2, 3, 4, 6, 3), np.uint8)

    def features(images):
        return [images, images[:, ::2, ::2] * 3]

    first, second = perceptual.compare(features, jnp.asarray(frames), jnp.asarray(others))
    assert first.shape == (2, 3, 4, 6) and second.shape == (2, 3, 2, 3)
    unit = [
        x / np.linalg.norm(x, axis=-1, keepdims=True)
        for x in (frames / 127.5 - 1, others / 127.5 - 1)
    ]
    expected = ((unit[0] - unit[1]) ** 2).sum(-1)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    np.testing.assert_allclose(second, expected[:, :, ::2, ::2], atol=1e-5)
    weighted = perceptual.compare(
        features, jnp.asarray(frames), jnp.asarray(others), [jnp.array([1.0, 0, 0]), jnp.zeros(3)]
    )
    np.testing.assert_allclose(weighted[0], ((unit[0] - unit[1]) ** 2)[..., 0], atol=1e-5)
    np.testing.assert_array_equal(weighted[1], 0)


def test_distances_in_the_features_of_the_autoencoder(editor, quick):
    """Of each stage of its encoder; nothing for equal frames, more for a larger change."""
    size = editor.conditioner.vae.spatial_factor * 8
    source = RNG.integers(0, 256, (3, 2, size, size, 3), np.uint8)
    frames = source.copy()
    frames[1, :, :, : size // 2] //= 2
    frames[2] = 255 - source[2]
    maps = Judges(editor).compare(frames, source)
    stages = len(editor.conditioner.vae.block_out_channels)
    assert [x.shape[2] for x in maps] == [
        size // min(2 ** (i + 1), 2 ** (stages - 1)) for i in range(stages)
    ]
    total = np.array([[layer[i].mean() for i in range(3)] for layer in maps])
    assert (total[:, 0] < 1e-12).all() and total.sum(0).max() < 4
    left, right = (maps[0][1, ..., :4].mean(), maps[0][1, ..., -4:].mean())
    assert left > 3 * right  # it says where
    assert (total[:, 2] > total[:, 1]).all()
