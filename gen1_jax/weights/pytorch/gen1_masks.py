"""Masks: which part of a video is edited. White is edited; what is black stays the source's."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from PIL import Image
from torch import Tensor

from .gen1_frames import Size, fit, kept_area, to_tensor

ACCEPTED = (
    "truths, floats in [0, 1] or 8 bits [n H W] or [b n H W], [H W] for all frames, or pictures"
)
SAME_SHAPE = 0.98  # of the area


@dataclasses.dataclass
class Kept:
    """What a mask keeps of videos.

    Attributes:
      share: how much of the edit each pixel takes, [b 1 n H W] in [0, 1].
      pixels: the sources' frames [b 3 n H W] in [-1, 1].
      mask: 1 for latents that are edited, [b 1 n h w].
      source: the sources' latents [b c n h w].
    """

    share: Tensor
    pixels: Tensor
    mask: Tensor
    source: Tensor

    def blend(self, scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, i: int) -> Tensor:
        """Returns latents before step i, which outside are the source noised to its timestep.

        After the last step they are the source's own.
        """
        outside = self.source
        if i < len(scheduler.timesteps):
            outside = scheduler.add_noise(outside, noise, scheduler.timesteps[i : i + 1])
        return self.mask * latents + (1 - self.mask) * outside

    def composite(self, edited: Tensor) -> Tensor:
        """Puts the sources' pixels back in edits [b 3 n H W]."""
        return self.share * edited.clamp(-1, 1) + (1 - self.share) * self.pixels


def make_kept(
    pipe: Any,
    mask: Any,
    inverted: bool,
    feather: float | None,
    videos: list[np.ndarray],
    size: Size,
    how: str,
    chunk_size: int | None,
) -> Kept:
    """Returns what a mask keeps of videos.

    Args:
      pipe: the pipeline.
      mask: what a caller gave.
      inverted: whether black is edited.
      feather: pixels over which an edit fades out around the mask; None: the side of a latent.
      videos: [n H W 3] uint8 each.
      size: the size at which they are edited.
      how: "crop" or "pad".
      chunk_size: frames that are encoded at a time.

    Raises:
      ValueError: the mask or the feather is not accepted.
    """
    device, factor = pipe._execution_device, pipe.vae_scale_factor
    feather = factor if feather is None else feather
    if not isinstance(feather, numbers.Real) or not 0 <= feather < math.inf:
        raise ValueError(f"feather {feather!r}; a width of 0 pixels or more")
    masks = to_masks(mask, len(videos), len(videos[0]))
    grey = np.stack(
        [fit_mask(m, v.shape[1:3], size, how) for m, v in zip(masks, videos, strict=True)]
    )
    edited = torch.from_numpy((grey > 127.5) != bool(inverted)).float().to(device)
    if not edited.any():
        raise ValueError("the mask edits nothing; white is edited, or black with invert_mask")
    share = fade(edited.flatten(0, 1), round(feather / 2))
    cells = F.max_pool2d(share[:, None], factor)[:, 0] > 0
    frames = [to_tensor(fit(each, size, how), device) / 127.5 - 1 for each in videos]
    latents = [
        torch.cat([pipe.encode(x) for x in each.split(chunk_size or len(each))], 1)
        for each in frames
    ]
    share, cells = (x.unflatten(0, edited.shape[:2])[:, None] for x in (share, cells.float()))
    return Kept(share, torch.stack(frames).movedim(2, 1), cells, torch.stack(latents))


def fade(mask: Tensor, radius: int) -> Tensor:
    """Fades masks [n h w] of 0 and 1 out over 2 x `radius` pixels around what is 1."""
    if radius < 1:
        return mask
    side = 2 * radius + 1
    wider = F.max_pool2d(mask[:, None], side, 1, radius)
    wider = F.pad(wider, [radius] * 4, mode="replicate")
    return F.avg_pool2d(wider, side, 1)[:, 0].clamp(0, 1)


def to_masks(value: Any, b: int, n: int) -> np.ndarray:
    """Returns a mask as [b n H W] float32, 0 … 255.

    Raises:
      ValueError: it is none, or for another number of videos or frames.
    """
    pictures = [value] if hasattr(value, "convert") else value
    if isinstance(pictures, (list, tuple)) and pictures and hasattr(pictures[0], "convert"):
        value = [np.asarray(picture.convert("L")) for picture in pictures]
    try:
        if isinstance(value, (list, tuple)):
            value = np.stack([np.asarray(each) for each in value])
        value = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError):  # what cannot be one array
        raise ValueError(f"mask of {type(value).__name__}; {ACCEPTED}") from None
    if value.dtype.kind not in "biuf" or not 2 <= value.ndim <= 4 or not value.size:
        raise ValueError(f"mask of {value.dtype} {list(value.shape)}; {ACCEPTED}")
    limit = 1 if value.dtype.kind in "bf" or value.max() <= 1 else 255
    if not (value.min() >= 0 and value.max() <= limit):  # also true of NaN
        raise ValueError(f"mask has values {value.min()} to {value.max()}; 0 to {limit}")
    value = value.astype(np.float32).reshape(*(1,) * (4 - value.ndim), *value.shape)
    if value.shape[0] not in (1, b) or value.shape[1] not in (1, n):
        raise ValueError(f"mask of {list(value.shape[:2])} frames; [{b} {n}], or 1 for all")
    return np.broadcast_to(np.rint(value * (255 / limit)), (b, n, *value.shape[2:]))


def fit_mask(mask: np.ndarray, source: Size, size: Size, how: str) -> np.ndarray:
    """Returns a mask [n H W], which lies on frames of the source's size, as they are fitted.

    A mask of the shape of the cropped frames lies on those.

    Raises:
      ValueError: it has neither shape.
    """
    given = mask.shape[1:]
    cut = size if how == "crop" else source
    if max(kept_area(given, source), kept_area(given, cut)) < SAME_SHAPE:
        raise ValueError(f"mask of {given[0]} x {given[1]}; the shape of {source[0]} x {source[1]}")
    is_of_part = kept_area(given, cut) > kept_area(given, source)
    own = np.stack([_scaled(each, size if is_of_part else source) for each in mask])
    return own if is_of_part else fit(own, size, how)


def _scaled(mask: np.ndarray, size: Size) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(mask))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
