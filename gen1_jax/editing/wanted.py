"""What a caller wants of an edit: the keywords of `VideoEditor.edit`, named as the flags are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen1_jax.controls import Controls, check_prompts, rename_older, seeds_of
from gen1_jax.editing.content import BLENDS, read_prompts
from gen1_jax.editing.structure import check_kind
from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.masks import check_feather


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of an edit.

    Attributes:
      prompt: the wanted content in words; this or `image` is given, or both. Several prompts have
        times, from which they count: {0: "a red ball", 2: "a blue ball"}, in seconds, or a list of
        texts such as "2s: a blue ball".
      image: a picture whose look is wanted: a path, a Pillow image or an array [H W 3] uint8; or a
        list of them, which are mixed. Of a video some frames are mixed.
      image_shares: how much each of several pictures counts; None: all alike.
      image_weight: how much the pictures count beside a prompt, 0 to 1.
      blend: how contents are mixed: "slerp" along the arc between them, or their "mean".
      negative_prompt: content that stands in ∅'s place, from which guidance leads away.
      strength: the share of the steps that is run, above 0 up to 1: below 1 an edit begins from the
        noised source, and keeps more of it.
      structure: takes the place of what the model would extract of the frames: inverse depth
        (bright is near) or any map that stands in for it, grey or in colours. A path (video,
        picture, folder of pictures, .npy), Pillow images, or an array [n H W], [H W] for all
        frames, or in colours [n H W 3]. It is scaled to the frames' size.
      structure_kind: of `structure`, or what is extracted where that is None: a name in
        `structure_settings.EXTRACTORS`. None: what the model was trained on.
      any_structure: whether a kind is taken that the model was not trained on.
      no_structure: whether the edit has none; the model must have been trained with some dropped.
      mask: which part is edited; the rest stays the source's. White is edited. A path (video,
        picture, folder of frames, .npy), Pillow images, or an array [n H W], or [H W] for all
        frames. None: everything is edited.
      invert_mask: whether black is edited, and not white.
      feather: width, in pixels of the frames, over which the edit fades out around the mask; None:
        the side of a latent.
      structure_level: see `Controls`, as for the following four.
      temporal_scale: ω_t.
      guidance_scale: ω; None is the model's own.
      steps: sampling steps.
      per_frame: whether each frame is edited alone.
      solver: see `Controls`.
      seed: the seed of the noise.
      content_seed: the seed of what the prior draws for a prompt; None: `seed`.
      redo: sections of an `earlier` edit that are made anew, such as "2.0-3.5s", or numbers of
        frames (first, stop); one or a list of them. All other frames stay as they are there.
      earlier: the result of that edit: a path, or frames.
      window: frames that are predicted together; None: as many as in training.
      overlap: frames that consecutive windows share at least; None: a quarter of the window.
      window_stride: frames of the video from one frame of a window to the next; None: 1. With more,
        the frames between are in windows of their own, which flicker against each other.
      batch_size: windows that are predicted at a time; None: one for each device.
    """

    prompt: Any = None
    image: Any = None
    image_shares: Sequence[float] | None = None
    image_weight: float = 0.5
    blend: str = "slerp"
    negative_prompt: str | None = None
    strength: float = 1.0
    structure: Any = None
    structure_kind: str | None = None
    any_structure: bool = False
    no_structure: bool = False
    mask: Any = None
    invert_mask: bool = False
    feather: float | None = None
    structure_level: int = 0
    temporal_scale: float = 1.0
    guidance_scale: float | None = None
    steps: int = 50
    per_frame: bool = False
    solver: str = "ddim"
    seed: int = 0
    content_seed: int | None = None
    redo: Any = None
    earlier: Any = None
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
        if self.prompt is None and self.image is None:
            raise UserError("give a prompt or an image to take the content from")
        for name, value in vars(self.controls).items():
            if np.ndim(value):
                raise UserError(f"{name} is {show(value)}; edit accepts one number")
        self.controls.check()
        seeds_of(self.seed, 1)
        self._check_structure()
        seeds_of(0 if self.content_seed is None else self.content_seed, 1)
        if (self.redo is None) != (self.earlier is None):
            raise UserError("redo and earlier go together: sections, and the edit that has them")
        if not isinstance(self.invert_mask, bool | np.bool_):
            raise UserError(f"invert_mask is {show(self.invert_mask)}; True or False is accepted")
        if self.feather is not None:
            check_feather(self.feather)
        if self.mask is None and (self.invert_mask or self.feather is not None):
            raise UserError("invert_mask and feather need a mask; give one")
        if self.prompt is not None:
            check_prompts(list(read_prompts(self.prompt).values()))
        if self.negative_prompt is not None:
            check_prompts([self.negative_prompt])
        if self.image is None and self.image_shares is not None:
            raise UserError("image_shares say how much each image counts, and there is none")
        if self.blend not in BLENDS:
            raise UserError(f"blend {show(self.blend)}; {' and '.join(BLENDS)} are accepted")
        for name, low in (("image_weight", 0), ("strength", None)):
            value = getattr(self, name)
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not is_number or not (0 <= value <= 1) or (low is None and value == 0):
                least = "above 0, up to 1" if low is None else "0 to 1"
                raise UserError(f"{name} {show(value)}; a number {least} is accepted")

    def _check_structure(self) -> None:
        for name in ("any_structure", "no_structure"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise UserError(f"{name} is {show(value)}; True or False is accepted")
        if self.structure_kind is not None:
            check_kind(self.structure_kind)
        given = (self.structure is not None, self.structure_kind, self.structure_level)
        if self.no_structure and any(given):
            raise UserError(
                "no_structure leaves nothing for structure, structure_kind and structure_level to "
                "say; give it alone"
            )
