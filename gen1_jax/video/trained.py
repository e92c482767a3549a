"""Reads a video as a model was trained: as many frames, at its pace, in one of its sizes."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.fitting import CROP, Size
from gen1_jax.video.io import Video, read_video
from gen1_jax.video.pace import Pace


class TrainedClips(NamedTuple):
    """The clips that a model was trained on.

    Attributes:
      num_frames: frames of a clip.
      sizes: heights and widths of all frames in training, that of the clips first. Sizes of images
        count too: temporal layers see each place of the frames alone, so only the spatial layers
        know of a size, and images trained those.
      pace: time from frame to frame.
    """

    num_frames: int
    sizes: tuple[Size, ...]
    pace: Pace

    @classmethod
    def of(cls, settings: Mapping[str, Any], max_frames: int) -> "TrainedClips":
        """Returns what gen1.json says of the training, for a UNet of so many frames at most.

        Raises:
          UserError: the pace, which a user may add to gen1.json, is no pace.
        """
        sizes = settings.get("sizes") or [settings["size"]]
        stride, rate = settings.get("stride") or 1, settings.get("frame_rate") or None
        if not isinstance(stride, int) or stride < 1:
            raise UserError(f"gen1.json: stride is {show(stride)}; a whole number is accepted")
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
            raise UserError(
                f"gen1.json: frame_rate is {show(rate)}; a number of frames a second is accepted"
            )
        return cls(
            min(settings["num_frames"], max_frames),
            tuple((height, width) for height, width in sizes),
            Pace(stride, rate),
        )

    def read(
        self,
        path: str | os.PathLike,
        *,
        num_frames: int | None = None,
        stride: int | None = None,
        start: int = 0,
        size: Size | Sequence[Size] | None = None,
        fit: str = CROP,
    ) -> Video:
        """Reads a video; what is None is as in training.

        Args:
          path: see `read_video`, as for the others.
          num_frames: frames to read; None: those of a clip in training, or all of a shorter video.
          stride: input frames from one frame to the next; None: by the pace of training. A video
            that is too short for the pace is taken closer together.
          start: index of the first frame.
          size: height and width; None: the size of training that is nearest to the video's shape.
          fit: "crop" or "pad".

        Raises:
          UserError: the video cannot be read, or an argument is not accepted.
        """
        return read_video(
            path,
            num_frames=self.num_frames if num_frames is None else num_frames,
            stride=self.pace if stride is None else stride,
            start=start,
            size=self.sizes if size is None else size,
            fit=fit,
            shorter=num_frames is None,
        )
