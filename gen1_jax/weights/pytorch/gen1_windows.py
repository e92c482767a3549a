"""Guidance, and windows over videos that are longer than the clips of the training.

All windows are predicted at each step, and their weighted mean is taken where they overlap.
"""

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .gen1_checks import check_tensor
from .gen1_structure import level_embedding


def place_windows(
    count: int, length: int, overlap: int, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frames [k n] of windows over a video, and their weights [k n].

    The first begins with the video and the last ends with it. Weights fall off towards a window's
    ends, and sum to 1 at each frame. With a stride, a window takes every stride-th frame; those
    between belong to further windows.

    Args:
      count: frames of the video.
      length: frames of a window; a shorter video is one window.
      overlap: frames that consecutive windows share at least.
      stride: frames of the video from one frame of a window to the next; a video that is too short
        for it is taken closer together.
    """
    length = min(length, count)
    overlap = min(overlap, length - 1)
    stride = max(1, min(stride, count // length))
    frames = []
    for phase in range(stride):
        own = np.arange(phase, count, stride)
        number = -(-(len(own) - length) // (length - overlap)) + 1
        starts = np.linspace(0, len(own) - length, number).round().astype(int)
        frames += [own[start : start + length] for start in starts]
    frames = np.stack(frames)
    place = np.arange(1, length + 1)
    weights = np.broadcast_to(np.minimum(place, place[::-1]), frames.shape).astype(np.float64)
    sums = np.zeros(count)
    np.add.at(sums, frames, weights)
    return frames, (weights / sums[frames]).astype(np.float32)


class GuidanceMixin:
    """What a pipeline predicts with its UNet."""

    def prepare_latents(self, latents: Tensor | None, structure: Tensor, generator) -> Tensor:
        """Returns the noise to begin with [b c n h w]: what is given, or drawn."""
        b, c, n, h, w = structure.shape
        device = structure.device
        if latents is None:
            latents = randn_tensor((b, n, h, w, c), generator, device, torch.float32)
            latents = latents.permute(0, 4, 1, 2, 3)
        check_tensor("latents", latents)
        if latents.ndim == 4:  # [n h w c], an earlier layout
            latents = latents.permute(3, 0, 1, 2)[None]
        if latents.shape != structure.shape:
            raise ValueError(f"latents of {tuple(latents.shape)}; {tuple(structure.shape)}")
        return latents.to(device, torch.float32) * self.scheduler.init_noise_sigma

    def windowed_prediction(
        self,
        windows: tuple[np.ndarray, np.ndarray],
        latents: Tensor,
        t: Tensor,
        content: Tensor,
        structure: Tensor,
        *controls,
    ) -> Tensor:
        """Returns the guided prediction [b c n h w] of videos of any length.

        Args:
          windows: of `place_windows`.
          latents, t, content, structure, controls: see `guided_prediction`.
        """
        if len(windows[0]) == 1:
            return self.guided_prediction(latents, t, content, structure, *controls)
        total = torch.zeros_like(latents)
        for frames, weights in zip(*windows, strict=True):
            frames, weights = (torch.from_numpy(x).to(latents.device) for x in (frames, weights))
            own, seen = latents[:, :, frames], structure[:, :, frames]
            prediction = self.guided_prediction(own, t, content, seen, *controls)
            total.index_add_(2, frames, prediction * weights[:, None, None])
        return total

    @torch.no_grad()
    def guided_prediction(
        self,
        latents: Tensor,
        t: Tensor,
        content: Tensor,
        structure: Tensor,
        level: int,
        temporal_scale: float,
        guidance_scale: float,
        per_frame: bool = False,
        null: Tensor | None = None,
    ) -> Tensor:
        """Returns v~ = v_img(∅) + ω_t (v_vid(∅) - v_img(∅)) + ω (v_vid(c) - v_vid(∅)).

        The three predictions are one call. Its last branch skips the temporal layers. With
        `per_frame` it is v_img(∅) + ω (v_img(c) - v_img(∅)), of two branches that skip them.
        Latents, structure and result are [b c n h w], the content is [b d], and so is `null`, which
        takes the place of ∅.
        """
        sample = torch.cat([latents, structure], dim=1).movedim(1, -1)
        embedding = level_embedding(level).to(latents).expand(*sample.shape[:-1], -1)
        sample = torch.cat([sample, embedding], dim=-1).to(self.unet.dtype)
        null = torch.zeros_like(content) if null is None else null
        context = [content, null] if per_frame else [content, null, null]
        sample = torch.stack([sample] * len(context), dim=1)  # [b g n h w c]
        branches = self.unet(
            sample,
            t.reshape(1).expand(len(latents)),
            torch.stack(context, dim=1)[:, :, None],  # [b g l=1 d]
            num_video_branches=0 if per_frame else 2,
        )
        predictions = branches.float().movedim(-1, 2).unbind(1)
        if per_frame:
            image_content, image_null = predictions
            return image_null + guidance_scale * (image_content - image_null)
        video_content, video_null, image_null = predictions
        towards_video = temporal_scale * (video_null - image_null)
        return image_null + towards_video + guidance_scale * (video_content - video_null)
