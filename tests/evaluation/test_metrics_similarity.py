"""What lies outside a mask: PSNR, SSIM and distances of features, against references."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from gen1_jax.errors import UserError
from gen1_jax.evaluation.judges import Judges
from gen1_jax.evaluation.metrics import perceptual
from gen1_jax.evaluation.metrics.lpips import NETWORKS, Lpips
from gen1_jax.evaluation.metrics.similarity import distance_outside, psnr_outside, ssim_outside
from gen1_jax.evaluation.metrics.table import DEFAULT, choose_metrics

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
    """Each stage of its encoder tells nothing for equal frames, more for a larger change."""
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


# ---- LPIPS


def write_lpips(folder, network: str, **changes) -> dict:
    """Writes random weights of LPIPS in the public names; returns them."""
    net, rng = NETWORKS[network], np.random.default_rng(1)
    tensors, width = {}, 3
    sides = {0: 11, 3: 5} if network == "alex" else {}
    widths = iter(np.repeat(net.widths, (1, 1, 1, 1, 1) if network == "alex" else (2, 2, 3, 3, 3)))
    for layer in net.layers:
        if hasattr(layer, "number"):
            side, out = sides.get(layer.number, 3), int(next(widths))
            scale = (width * side**2 / 2) ** -0.5
            kernel = rng.standard_normal((out, width, side, side), np.float32) * scale
            tensors[f"features.{layer.number}.weight"] = kernel
            tensors[f"features.{layer.number}.bias"] = rng.standard_normal(out, np.float32) * 0.1
            width = out
    for i, out in enumerate(net.widths):
        tensors[f"lin{i}.model.1.weight"] = rng.uniform(0, 1, (1, out, 1, 1)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    save_file(tensors | changes, folder / "lpips.safetensors")
    return tensors


def torch_lpips(tensors: dict, images: list[np.ndarray]) -> np.ndarray:
    """LPIPS on AlexNet by PyTorch, as the lpips package computes it: `[n h w 3]` twice → `[n]`."""
    f, layers = torch.nn.functional, []
    for image in images:
        x = torch.from_numpy(image / np.float32(127.5) - 1).permute(0, 3, 1, 2)
        shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[
            ..., None, None
        ]
        x, taps = (x - shift) / scale, []
        for number, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if number in (3, 6):
                x = f.max_pool2d(x, 3, 2)
            weight, bias = (
                torch.from_numpy(tensors[f"features.{number}.{k}"]) for k in ("weight", "bias")
            )
            x = f.relu(f.conv2d(x, weight, bias, stride, padding))
            taps.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        layers.append(taps)
    total = 0
    for i, (a, b) in enumerate(zip(*layers, strict=True)):
        lin = torch.from_numpy(tensors[f"lin{i}.model.1.weight"])
        total = total + f.conv2d((a - b) ** 2, lin).mean((1, 2, 3))
    return total.numpy()


def test_lpips_is_the_published_one(tmp_path, quick):
    tensors = write_lpips(tmp_path, "alex")
    frames, others = RNG.integers(0, 256, (2, 1, 2, 40, 56, 3), np.uint8)
    maps = Lpips(tmp_path)(frames, others)
    found = sum(np.asarray(layer).mean((2, 3)) for layer in maps)[0]
    np.testing.assert_allclose(found, torch_lpips(tensors, [frames[0], others[0]]), rtol=1e-4)


def test_lpips_tells_its_networks_apart(tmp_path):
    write_lpips(tmp_path, "alex")
    assert Lpips(tmp_path).name == "alex"
    lins = {
        f"lin{i}.model.1.weight": np.zeros((1, w, 1, 1), "f4")
        for i, w in enumerate(NETWORKS["vgg"].widths)
    }
    write_lpips(tmp_path, "alex", **lins)
    with pytest.raises(UserError, match="features.2.weight and .bias of torchvision's vgg"):
        Lpips(tmp_path)
    lins["lin0.model.1.weight"] = np.zeros((1, 63, 1, 1), "f4")
    write_lpips(tmp_path, "alex", **lins)
    with pytest.raises(UserError, match="of AlexNet or VGG16 are accepted"):
        Lpips(tmp_path)
    (tmp_path / "lpips.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is no safetensors file"):
        Lpips(tmp_path)
    with pytest.raises(UserError, match="a folder with safetensors files is accepted"):
        Lpips(tmp_path / "nothing")


def test_a_measure_needs_its_network():
    assert choose_metrics(None) == DEFAULT and "lpips_alex_outside" not in DEFAULT
    assert choose_metrics(None, {"lpips-vgg"}) == (*DEFAULT, "lpips_vgg_outside")
    assert choose_metrics(["lpips_alex_outside"], {"lpips-alex"}) == ("lpips_alex_outside",)
    with pytest.raises(UserError, match="lpips_alex_outside needs --lpips FOLDER, with AlexNet"):
        choose_metrics(["flicker", "lpips_alex_outside"], {"lpips-vgg"})
