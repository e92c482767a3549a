"""Whether the output leaves alone what lies outside a mask.

Only pixels outside the mask count. PIE-Bench and FiVE paint the mask black in both pictures and
measure the whole, which raises every value, the more the larger the mask is.

A mask that is empty, or covers all of a clip, gives NaN.
"""

import numpy as np
from scipy.ndimage import correlate1d

Array = np.ndarray

# Equal pictures have no finite PSNR. This is the most that VMAF's tools report for 8 bits.
MAX_PSNR = 60.0
# Wang et al. 2004.
_SSIM_SIDE, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr_outside(frames: Array, source: Array, mask: Array) -> Array:
    """Returns the PSNR of the pixels outside the mask, the mean over frames, `[b]` in dB.

    A frame's PSNR is at most 60 dB, and a frame that the mask covers has none.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      source: `[b n h w 3]` uint8.
      mask: `[b n h w]` bool, what may change.
    """
    outside = ~np.asarray(mask, bool)
    squared = ((np.asarray(frames, np.float64) - source) ** 2).mean(-1)
    count = outside.sum((2, 3))
    mse = np.where(outside, squared, 0.0).sum((2, 3)) / np.maximum(count, 1)
    psnr = np.minimum(10 * np.log10(255**2 / np.maximum(mse, 1e-12)), MAX_PSNR)
    return mean_of_frames(psnr, count, mask)


def ssim_outside(frames: Array, source: Array, mask: Array) -> Array:
    """Returns the SSIM outside the mask, the mean over frames, `[b]` from −1 to 1.

    It is Wang et al. 2004: a Gaussian window of 11 pixels and σ 1.5, K1 0.01, K2 0.03; of each
    RGB channel, then their mean. The windows' statistics are of the pixels outside the mask alone.
    Without a mask this is the published SSIM. NaN for frames with a side below 11 pixels.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      source: `[b n h w 3]` uint8.
      mask: `[b n h w]` bool, what may change.
    """
    outside = ~np.asarray(mask, bool)
    ssim = _ssim_map(frames, source, outside)
    edge = _SSIM_SIDE // 2
    ssim, inner = ssim[:, :, edge:-edge, edge:-edge], outside[:, :, edge:-edge, edge:-edge]
    count = inner.sum((2, 3))
    total = np.where(inner, ssim, 0.0).sum((2, 3))
    return mean_of_frames(total / np.maximum(count, 1), count, mask)


def distance_outside(maps: list[Array], mask: Array) -> Array:
    """Returns the mean over frames of perceptual distances outside the mask, `[b]`.

    Args:
      maps: the distance at each place, `[b n h' w']` for each layer of features; see perceptual.py.
        The layers' means are added up, as LPIPS does (Zhang et al. 2018). A place counts by the
        share of its pixels that lie outside the mask. Frames too small for a layer give NaN.
      mask: `[b n h w]` bool, what may change.
    """
    outside = ~np.asarray(mask, bool)
    total = np.zeros(outside.shape[:2])
    if any(0 in layer.shape for layer in maps):
        return np.full(len(outside), np.nan)
    for layer in maps:
        share = _area_share(outside, layer.shape[2:])
        weight = share.sum((2, 3))
        total += (np.asarray(layer, np.float64) * share).sum((2, 3)) / np.maximum(weight, 1e-12)
    return mean_of_frames(total, outside.sum((2, 3)), mask)


# ---- shared steps


def mean_of_frames(values: Array, count: Array, mask: Array) -> Array:
    """Returns the mean over the frames that have any pixel to measure, `[b n]` → `[b]`.

    Args:
      values: `[b n]`.
      count: `[b n]` pixels measured.
      mask: `[b n h w]`; a clip of which it marks nothing gives NaN.
    """
    has = (count > 0) & np.asarray(mask, bool).any((1, 2, 3))[:, None]
    frames = has.sum(1)
    total = np.where(has, values, 0.0).sum(1)
    return np.where(frames > 0, total / np.maximum(frames, 1), np.nan)


def _ssim_map(frames: Array, source: Array, where: Array) -> Array:
    """Returns the SSIM at each pixel from the pixels of its window that count, `[b n h w]`."""
    offset = np.arange(_SSIM_SIDE) - _SSIM_SIDE // 2
    window = np.exp(-(offset**2) / (2 * _SSIM_SIGMA**2))
    window /= window.sum()

    def blurred(x: Array) -> Array:
        x = correlate1d(x, window, axis=2, mode="constant")
        return correlate1d(x, window, axis=3, mode="constant")

    weight = where.astype(np.float64)
    inside = np.maximum(blurred(weight), 1e-12)
    total = np.zeros(where.shape)
    for channel in range(3):  # one at a time, for the memory
        x, y = (np.asarray(p[..., channel], np.float64) for p in (frames, source))
        mean = lambda value: blurred(weight * value) / inside  # noqa: E731
        mean_x, mean_y = mean(x), mean(y)
        var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
        covariance = mean(x * y) - mean_x * mean_y
        top = (2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)
        total += top / ((mean_x**2 + mean_y**2 + _SSIM_C1) * (var_x + var_y + _SSIM_C2))
    return total / 3


def _area_share(outside: Array, size: tuple[int, int]) -> Array:
    """Returns the share of each place's pixels that lie outside, `[b n h w]` → `[b n h' w']`."""

    def averaging(pixels: int, places: int) -> Array:
        """Row i has the share of each pixel in the i-th of equal parts of the axis."""
        low = np.arange(places)[:, None] * pixels / places
        left = np.arange(pixels)[None]
        overlap = np.minimum(left + 1, low + pixels / places) - np.maximum(left, low)
        return np.maximum(overlap, 0) * places / pixels

    rows, columns = (averaging(*p) for p in zip(outside.shape[2:], size, strict=True))
    return np.einsum("ih,bnhw,jw->bnij", rows, outside, columns, optimize=True)
