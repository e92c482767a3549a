"""What a caller wants of an edit: the keywords of `VideoEditor.edit`, named as the flags are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen1_jax.controls import Controls, check_prompts, rename_older, seeds_of
from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.masks import check_feather


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of an edit.

    Attributes:
      prompt: the wanted content in words; either this or `image` is given.
      image: a picture whose look is wanted: a path, a Pillow image or an array [H W 3] uint8.
      structure_map: takes the place of the estimated depth: inverse depth (bright is near), or any
        map that stands in for it. A path (video, picture, folder of pictures, .npy), Pillow images,
        or an array [n H W], or [H W] for all frames. It is scaled to the frames' size.
      mask: which part is edited; the rest stays the source's. White is edited. A path (video,
        picture, folder of frames, .npy), Pillow images, or an array [n H W], or [H W] for all
        frames. None: everything is edited.
      invert_mask: whether black is edited, and not white.
      feather: width, in pixels of the frames, over which the edit fades out around the mask; None:
        the side of a latent.
      structure_level: see `Controls`, as for the following four.
      temporal_scale: ω_t.
      guidance_scale: ω; None is the model's own.
      steps: DDIM steps.
      per_frame: whether each frame is edited alone.
      seed: the seed of the noise.
      window: frames that are predicted together; None: as many as in training.
      overlap: frames that consecutive windows share at least; None: half of the window.
      window_stride: frames of the video from one frame of a window to the next; None: as far apart
        in time as in training, where the video's rate is known.
      batch_size: windows that are predicted at a time; None: one for each device.
    """

    prompt: str | None = None
    image: Any = None
    structure_map: Any = None
    mask: Any = None
    invert_mask: bool = False
    feather: float | None = None
    structure_level: int = 0
    temporal_scale: float = 1.0
    guidance_scale: float | None = None
    steps: int = 50
    per_frame: bool = False
    seed: int = 0
    window: int | None = None
    overlap: int | None = None
    window_stride: int | None = None
    batch_size: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Wanted":
        """Returns what keywords say, which may have names of earlier releases.

        Raises:
          UserError: a keyword is unknown, or its value has a wrong type or is out of range.
        """
        wanted = cls(**rename_older(dict(given), {field.name for field in dataclasses.fields(cls)}))
        wanted.check()
        return wanted

    @property
    def controls(self) -> Controls:
        """The controls among the fields."""
        names = [field.name for field in dataclasses.fields(Controls)]
        return Controls(**{name: getattr(self, name) for name in names})

    def check(self) -> None:
        """Raises UserError if a field has a wrong type or is out of range."""
        if (self.prompt is None) == (self.image is None):
            raise UserError("give either a prompt or an image to take the content from")
        for name, value in vars(self.controls).items():
            if np.ndim(value):
                raise UserError(f"{name} is {show(value)}; edit accepts one number")
        self.controls.check()
        seeds_of(self.seed, 1)
        if not isinstance(self.invert_mask, bool | np.bool_):
            raise UserError(f"invert_mask is {show(self.invert_mask)}; True or False is accepted")
        if self.feather is not None:
            check_feather(self.feather)
        if self.mask is None and (self.invert_mask or self.feather is not None):
            raise UserError("invert_mask and feather need a mask; give one")
        if self.prompt is not None:
            check_prompts([self.prompt])
