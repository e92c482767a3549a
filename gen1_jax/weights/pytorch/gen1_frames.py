"""Videos, pictures and depth as users hold them, made arrays, and fitted to a size.

Accepted are Pillow images, NumPy arrays [... H W 3] and tensors [... 3 H W], of 8 bits or of floats
in [0, 1], and lists of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

Size = tuple[int, int]  # height, width
VIDEO = "a list of frames, [n H W 3] or a tensor [n 3 H W]; 8 bits or floats in [0, 1]"


def to_videos(value: Any) -> list[np.ndarray]:
    """Returns one video or a batch of them as a list of [n H W 3] uint8.

    Raises:
      ValueError: it is no video; the message says what is accepted.
    """
    if value is None:
        raise ValueError(f"no video; {VIDEO}")
    if isinstance(value, (list, tuple)):
        if not len(value):
            raise ValueError(f"video is empty; {VIDEO}")
        is_one = _is_picture(value[0])
    else:
        is_one = getattr(value, "ndim", 3) < 5
    return [_to_video(each) for each in ([value] if is_one else value)]


def to_pictures(value: Any) -> list[np.ndarray]:
    """Returns one picture or several as a list of [H W 3] uint8.

    Raises:
      ValueError: it is no picture; the message says what is accepted.
    """
    several = isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 4
    pictures = [to_8_bits(each, "image") for each in (value if several else [value])]
    for picture in pictures:
        if picture.ndim != 3:
            raise ValueError(f"image of {list(picture.shape)}; a picture or a list of pictures")
    return pictures


def to_8_bits(value: Any, what: str) -> np.ndarray:
    """Returns a picture, or an array or tensor of pictures, as [... H W 3] uint8.

    Raises:
      ValueError: it has another shape or type.
    """
    if hasattr(value, "convert"):
        return np.asarray(ImageOps.exif_transpose(value).convert("RGB"))
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.ndim > 2 and value.shape[-3] == 3:
            value = value.movedim(-3, -1)
        value = value.float() if value.is_floating_point() else value
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.size:
        if not (array.min() >= 0 and array.max() <= 1):  # also true of NaN
            raise ValueError(f"{what} has floats {array.min():g} to {array.max():g}; 0 to 1")
        array = (array * 255).round().astype(np.uint8)
    if array.ndim < 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"{what} of {array.dtype} {list(array.shape)}; Pillow images, arrays [... H W 3] or "
            "tensors [... 3 H W] of 8 bits or of floats in [0, 1]"
        )
    return np.ascontiguousarray(array)  # PyTorch reads no array backwards, such as video[::-1]


def best_size(size: Size, sizes: Sequence[Size]) -> Size:
    """Returns the one of `sizes` that is nearest in shape to `size`, the first of equals."""
    return max(sizes, key=lambda other: kept_area(size, other))


def kept_area(size: Size, other: Size) -> float:
    """Returns the share of a picture's area that cropping it to another shape keeps."""
    ratio = (size[0] * other[1]) / (size[1] * other[0])
    return min(ratio, 1 / ratio)


def fit(images: np.ndarray, size: Size, how: str) -> np.ndarray:
    """Scales images [n H W 3] uint8, or maps [n H W] float32, and crops or pads them to `size`.

    Args:
      images: of any size.
      size: height and width.
      how: "crop" covers the size, and cuts the borders off; "pad" lies inside, at `place_inside`,
        with the mirror image around it.
    """
    if images.shape[1:3] == tuple(size):
        return images
    # Bilinear weights are never negative, so edges of depth get no halo.
    method = Image.Resampling.LANCZOS if images.ndim == 4 else Image.Resampling.BILINEAR
    pictures = [Image.fromarray(image) for image in images]
    if how == "crop":
        return np.stack([np.asarray(ImageOps.fit(x, size[::-1], method)) for x in pictures])
    inside = place_inside(images.shape[1:3], size)
    height, width = (part.stop - part.start for part in inside)
    scaled = np.stack([np.asarray(x.resize((width, height), method)) for x in pictures])
    around = [(part.start, side - part.stop) for part, side in zip(inside, size, strict=True)]
    return np.pad(scaled, [(0, 0), *around, (0, 0)][: scaled.ndim], mode="symmetric")


def place_inside(source: Size, size: Size) -> tuple[slice, slice]:
    """Returns the rows and columns of padded frames of `size` that the source fills."""
    scale = min(side / edge for side, edge in zip(size, source, strict=True))
    inner = [
        min(side, max(1, round(edge * scale))) for side, edge in zip(size, source, strict=True)
    ]
    starts = [(side - own) // 2 for side, own in zip(size, inner, strict=True)]
    rows, columns = (slice(at, at + own) for at, own in zip(starts, inner, strict=True))
    return rows, columns


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Images [n H W 3] uint8 → [n 3 H W] float32, 0 … 255."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float()


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Resizes [n 3 H W] as Pillow does: bicubic, antialiased, one axis after the other, 8 bits."""
    if x.shape[2:] == (height, width):
        return x
    for size in ((x.shape[2], width), (height, width)):
        x = F.interpolate(x, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return x


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert") or getattr(value, "ndim", 0) == 3


def _to_video(value: Any) -> np.ndarray:
    if _is_picture(value):
        value = [value]
    if isinstance(value, (list, tuple)):
        frames = [to_8_bits(frame, "a frame") for frame in value]
        if not frames or len({frame.shape for frame in frames}) > 1 or frames[0].ndim != 3:
            sizes = sorted({frame.shape[:2] for frame in frames})
            raise ValueError(f"video has frames of sizes {sizes}; {VIDEO}")
        return np.stack(frames)
    video = to_8_bits(value, "video")
    if video.ndim != 4:
        raise ValueError(f"video of {list(video.shape)}; {VIDEO}")
    return video
