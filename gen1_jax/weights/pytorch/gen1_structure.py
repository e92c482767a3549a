"""The structure of a video: estimated depth, its range, its blur levels, and their embedding."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gen1_frames import resize

NUM_LEVELS = 8  # structure levels t_s, 0 … 7
NO_STRUCTURE = NUM_LEVELS  # the ninth code, beside structure latents of zeros
MOST_VALUES = 2**24  # of which quantiles are taken


def estimate_depth(model: nn.Module, pixels: Tensor, resizing: str) -> Tensor:
    """Frames [n 3 H W] in 0 … 255 → inverse depth [n H W], up to a scale and a shift.

    Args:
      model: transformers' `DPTForDepthEstimation`.
      pixels: the frames.
      resizing: "minimal": the side whose size changes least gets that of the network's training,
        both are multiples of two patches, and sizes change as MiDaS does it. "shorter_side": the
        shorter side gets it, both are multiples of a patch, and sizes change as Pillow does it.
    """
    size, patch, side = pixels.shape[2:], model.config.patch_size, model.config.image_size
    if resizing == "minimal":
        factor, grain = min((side / x for x in reversed(size)), key=lambda f: abs(1 - f)), 2
    else:
        factor, grain = side / min(size), 1
    patches = [max(1, round(x * factor / (grain * patch))) * grain for x in size]
    seen = [x * patch for x in patches]
    midas = {"mode": "bicubic", "align_corners": False}
    if resizing == "minimal":
        x = F.interpolate(pixels, seen, **midas) / 127.5 - 1
    else:
        x = resize(pixels, *seen) / 127.5 - 1
    depth = predict_depth(model, x.to(model.dtype), *patches).float()[:, None]
    if depth.shape[2:] != x.shape[2:]:
        depth = F.interpolate(depth, seen, mode="bilinear", align_corners=False)
    if depth.shape[2:] != size:
        linear = {"mode": "bilinear", "antialias": True}
        depth = F.interpolate(depth, size, **(midas if resizing == "minimal" else linear))
    return depth[:, 0]


def predict_depth(model: nn.Module, x: Tensor, rows: int, columns: int) -> Tensor:
    """Calls the depth network on [n 3 H W] of rows x columns patches.

    The network's own `forward` takes squares only, because it does not tell its neck how many
    patches there are. It is called all the same: whoever moves the model to a device and back, such
    as `enable_model_cpu_offload`, waits for that call.
    """

    def tell_patches(neck: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args[:1], {"patch_height": rows, "patch_width": columns}

    told = model.neck.register_forward_pre_hook(tell_patches, with_kwargs=True)
    try:
        return model(x).predicted_depth
    finally:
        told.remove()


def clip_depth(depth: Tensor, low: float, high: float) -> Tensor:
    """Clips estimated depth [b n H W] to two quantiles of each clip's values, if they differ.

    They are exact for up to 2^24 values; of a longer video a regular part of the pixels is taken.
    """
    if (low, high) == (0, 1):
        return depth
    step = -(-depth[0].numel() // MOST_VALUES)
    parts = [each.flatten(1)[:, i % step :: step] for i, each in enumerate(depth.unbind(1))]
    values = torch.cat(parts, dim=1).cpu().numpy()
    least, most = np.quantile(values, [low, high], axis=1)[:, :, None, None, None]
    least, most = (torch.from_numpy(x).to(depth) for x in (least, most))
    return torch.where(least < most, depth.clamp(least, most), depth)


def normalise_clip(depth: Tensor) -> Tensor:
    """Depth [b n H W] → [-1, 1] by the extremes of each clip; those of a frame would flicker."""
    low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    span = high - low
    scaled = 2 * (depth - low) / torch.where(span > 0, span, 1) - 1
    return torch.where(span > 0, scaled, 0)


def see_maps(maps: Tensor, level: int) -> Tensor:
    """Returns maps in [-1, 1] as the model sees them at level t_s.

    Args:
      maps: grey [b n H W], or in colours [b n 3 H W] in 0 … 255, which stay as they are.
      level: t_s.
    """
    return blur(maps / 127.5 - 1 if maps.ndim == 5 else normalise_clip(maps), level)


def blur(depth: Tensor, level: int) -> Tensor:
    """Depth [... H W] → after t_s rounds of blur and x1/2, resampled to its size [... H W]."""
    rows, columns = (blur_matrix(size, level).to(depth) for size in depth.shape[-2:])
    return rows @ depth @ columns.T


def blur_matrix(size: int, level: int) -> Tensor:
    """Returns [size size]: `level` times (1 4 6 4 1)/16 and x1/2, then linear resampling."""
    matrix = np.eye(size)
    for _ in range(level):
        length = len(matrix)
        taps = np.array([1, 4, 6, 4, 1]) / 16
        if length % 2 == 0:  # samples lie between pairs
            taps = np.convolve(taps, [0.5, 0.5])
        half = np.zeros((-(-length // 2), length))
        for i in range(len(half)):
            for k, weight in enumerate(taps):
                half[i, np.clip(2 * i - 2 + k, 0, length - 1)] += weight
        matrix = half @ matrix
    if level:
        length = len(matrix)
        places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        distance = np.abs(places[:, None] - np.arange(length))
        matrix = np.maximum(0, 1 - distance) @ matrix
    return torch.from_numpy(matrix.astype(np.float32))


def level_embedding(level: int) -> Tensor:
    """Level t_s → sinusoidal embedding [4]."""
    angles = level * torch.tensor([1.0, 0.25])
    return torch.cat([angles.cos(), angles.sin()])
