"""Masks: which part of a video is edited. White is edited, black stays as it is.

A mask is cut at half brightness, and lies on the source's frames. It is made at two sizes: in cells
of latents, where sampling keeps the source, and in pixels of the result, where the source's own
pixels are put back. There the edit fades out over a few pixels, which begin at the mask's edge.
"""

import dataclasses
import os
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.settings import show
from gen1_jax.video.fitting import CROP, Size, fit_image, kept_area
from gen1_jax.video.footage import Footage, open_footage
from gen1_jax.video.inputs import to_array
from gen1_jax.video.io import Video
from gen1_jax.video.maps import load_array, stack_maps
from gen1_jax.video.paths import as_path
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.selection import show_size
from gen1_jax.video.streams import Stream

ACCEPTED = (
    "a video, a picture for all frames, a folder of frames, an .npy file, pictures or an array "
    "[n H W] is accepted; white is edited"
)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as Pillow's mode L
_HALF = 127.5  # of 255
_SAME_SHAPE = 0.98  # of the area; sizes are rounded to even numbers, or to those of latents
_BILINEAR = Image.Resampling.BILINEAR  # without negative weights, so without halos


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask on the frames of a video.

    Attributes:
      grey: `[H W]` uint8, of each frame that is edited, in the mask's own size.
      footage: the frames.
      is_of_part: whether it lies on the part that the frames are of the input, not on all of it.
      inverted: whether black is edited, and not white.
      feather: width, in pixels of the frames, over which the edit fades out around the mask.
    """

    grey: Stream
    footage: Footage
    is_of_part: bool = False
    inverted: bool = False
    feather: float = 0.0

    def on_frames(self) -> Stream:
        """Returns how much of the edit each pixel of the frames takes, [H W] in [0, 1]."""
        footage = self.footage

        def place(grey: np.ndarray) -> np.ndarray:
            if self.is_of_part:
                return self._feathered(_scaled(grey, footage.size))
            whole = self._on_source(grey)
            return self._feathered(fit_image(whole, footage.size, _BILINEAR, footage.fit))

        return self.grey.map(place)

    def on_result(self, size: Size) -> Stream:
        """Returns the same for a result, which has no padding, of a size [h w]."""
        footage, part = self.footage, self.footage.full_size
        rows, columns = footage.inside or (slice(0, footage.size[0]), slice(0, footage.size[1]))
        inner = rows.stop - rows.start, columns.stop - columns.start
        if tuple(size) == inner:
            return self.on_frames().map(lambda share: share[rows, columns])

        def place(grey: np.ndarray) -> np.ndarray:
            if self.is_of_part:
                own = _scaled(grey, part)
            else:
                own = fit_image(self._on_source(grey), part, _BILINEAR, CROP)
            return self._feathered(fit_image(own, size, _BILINEAR, CROP), size[0] / inner[0])

        return self.grey.map(place)

    def cells(self, factor: int) -> np.ndarray:
        """Returns 1 for each latent of which any pixel takes of the edit, else 0: [n h w 1].

        Args:
          factor: side of a latent in pixels of the frames.

        Raises:
          UserError: nothing is left of the mask at the size of the frames.
        """
        found = []
        for share in self.on_frames():
            parts = share.reshape(len(share) // factor, factor, -1, factor)
            found.append(parts.max((1, 3)) > 0)
        if not np.any(found):
            size = show_size(self.footage.size)
            raise UserError(f"the mask edits nothing: its parts vanish in frames of {size}")
        return np.stack(found)[..., None].astype(np.float32)

    def _on_source(self, grey: np.ndarray) -> np.ndarray:
        return _scaled(grey, self.footage.source_size or self.footage.size)

    def _feathered(self, grey: np.ndarray, scale: float = 1.0) -> np.ndarray:
        edited = (grey > _HALF) != self.inverted
        return feather(edited.astype(np.float32), round(self.feather * scale / 2))


def feather(mask: np.ndarray, radius: int) -> np.ndarray:
    """Fades a mask [h w] of 0 and 1 out over 2 x `radius` pixels around what is 1.

    What is 1 stays 1. What is farther from it than that, along a row or a column, stays 0.
    """
    if radius < 1:
        return mask
    import cv2

    side = 2 * radius + 1
    wider = cv2.dilate(mask, np.ones((side, side), np.uint8))
    return np.clip(cv2.blur(wider, (side, side), borderType=cv2.BORDER_REPLICATE), 0, 1)


def composite(edited: np.ndarray, source: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns a frame [h w 3] uint8: as much of `edited` as `share` [h w] says, else the source."""
    share = share[..., None]
    return np.rint(share * edited + (1 - share) * source).astype(np.uint8)


# ---- reading


def to_mask(value: Any, footage: Footage, inverted: bool = False, feather: float = 0.0) -> Mask:
    """Returns a mask that a caller gave, on the frames of a video.

    Args:
      value: a path, Pillow images, a `Video`, `Footage` or an array [n H W], [H W] or [n H W 3].
      footage: the frames.
      inverted: see `Mask`.
      feather: see `Mask`.

    Raises:
      UserError: it is no mask, or has another shape or another number of frames, or edits nothing.
    """
    grey, rate, where = _open(value)
    taken = choose_frames(grey.count, rate, footage, where)
    grey = grey.pick(taken)
    darkest, brightest, size = 255, 0, (0, 0)
    for frame in grey:
        size = frame.shape
        darkest, brightest = min(darkest, frame.min()), max(brightest, frame.max())
    is_of_part = _is_of_part(size, footage, where)
    if darkest > _HALF if inverted else brightest < _HALF:
        extreme = f"darkest value is {darkest}" if inverted else f"brightest value is {brightest}"
        colour = "black is edited with --invert-mask" if inverted else "white is edited"
        raise UserError(
            f"{where}: nothing would be edited, since its {extreme} of 255 and {colour}"
        )
    if brightest < _HALF if inverted else darkest > _HALF:
        warnings.warn(f"{where}: all of it is edited, as without a mask", stacklevel=3)
    return Mask(grey, footage, is_of_part, bool(inverted), float(feather))


def check_feather(value: Any) -> None:
    """Raises UserError if a feather is no width."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf"):
        raise UserError(f"feather {show(value)}; a width of 0 pixels or more is accepted")


def choose_frames(count: int, rate: Fraction | None, footage: Footage, where: str) -> np.ndarray:
    """Returns which frame of a mask lies on each frame of a video, [n].

    One frame lies on all. A mask with as many frames as are edited has one for each. A mask with as
    many as the whole input has the one of its place. A video that takes as long as the input, at
    another rate, has the one of its time.

    Args:
      count: frames of the mask.
      rate: its frames per second, where it has a rate.
      footage: the video.
      where: what the mask is, for messages.

    Raises:
      UserError: it has another length.
    """
    number, taken = len(footage), footage.taken
    places = footage.start + footage.stride * np.arange(number)
    if count == 1:
        return np.zeros(number, int)
    if count == number:
        return np.arange(number)
    total = taken.total if taken is not None else None
    slack = 0 if total is None or taken.total_is_exact else max(2, total // 50)
    if count > places[-1] and (total is None or abs(count - total) <= slack):
        return places
    if total is not None and rate is not None and footage.rate is not None:
        difference = abs(count / rate - total / footage.rate)
        if difference <= 1 / rate + 1 / footage.rate + slack / footage.rate:
            # A frame is shown from its time on, until the next one's.
            at = [int(place * rate / footage.rate + 1e-3) for place in places.tolist()]
            return np.minimum(at, count - 1)
    accepted = [f"{number}, one for each frame that is edited"]
    if total is not None and total != number:
        accepted.append(f"{total} for the whole input")
    if footage.rate is not None:
        accepted.append("a video that takes as long at another rate")
    raise UserError(
        f"{where}: has {count} frames; accepted are {', '.join(accepted)}, or 1 frame for all"
    )


def _is_of_part(size: Size, footage: Footage, where: str) -> bool:
    """Returns whether a mask of a size lies on the part that the frames are of the input.

    Raises:
      UserError: it has neither the shape of the input nor of that part.
    """
    source, part = footage.source_size or footage.size, footage.full_size
    on_source, on_part = kept_area(size, source), kept_area(size, part)
    if max(on_source, on_part) < _SAME_SHAPE:
        shapes = [show_size(source)]
        if kept_area(source, part) < _SAME_SHAPE:
            shapes.append(f"{show_size(part)}, the part that is edited,")
        raise UserError(
            f"{where}: is {show_size(size)} (height × width); the shape of "
            f"{' or of '.join(shapes)} is accepted"
        )
    return on_part > on_source


def _open(value: Any) -> tuple[Stream, Fraction | None, str]:
    """Returns the frames [H W] uint8 of a mask, their rate where they have one, and its name."""
    where = "mask"
    if isinstance(value, str | os.PathLike):
        path = as_path(value, ACCEPTED)
        if path.suffix.lower() in (".npy", ".npz"):
            return Stream.of(_to_grey(load_array(path, ACCEPTED), str(path))), None, str(path)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; {ACCEPTED}")
        rate = None if path.is_dir() else open_footage(path, num_frames=1).rate
        value, where = open_footage(path), str(path)
        return value.frames.map(_luma), rate, where
    if isinstance(value, Footage):
        return value.frames.map(_luma), value.rate, str(value.path or where)
    if isinstance(value, Video):
        return Stream.of(_to_grey(value.frames, where)), value.fps, str(value.path)
    if isinstance(value, Image.Image):
        value = [value]
    if isinstance(value, list | tuple) and value and isinstance(value[0], Image.Image):
        pictures = [_luma(image_to_rgb(each, managed=False)) for each in value]
        return Stream.of(stack_maps(pictures, where)), None, where
    array = to_array(where, value, ACCEPTED)
    return Stream.of(_to_grey(array, where)), None, where


def _to_grey(array: np.ndarray, where: str) -> np.ndarray:
    """Returns an array of a mask as [n H W] uint8: truths, floats in [0, 1], or whole numbers.

    Whole numbers go to 255, or to 1 where no larger one is there.

    Raises:
      UserError: the array has another shape or other values.
    """
    kind = array.dtype.kind
    is_coloured = array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8
    array = array[None] if array.ndim == 2 else array
    if not (is_coloured or array.ndim == 3) or not array.size or kind not in "biuf":
        raise UserError(
            f"{where}: {array.dtype} {list(array.shape)} is no mask; numbers [n H W] are accepted, "
            "or [H W] for all frames"
        )
    if is_coloured:
        return np.stack([_luma(frame) for frame in array])
    least, most = array.min(), array.max()
    limit = 1 if kind in "bf" or most <= 1 else 255
    if not (least >= 0 and most <= limit):  # also true of NaN
        accepted = "0 to 1" if limit == 1 else "0 to 255, or 0 and 1,"
        raise UserError(f"{where}: has values from {least} to {most}; {accepted} are accepted")
    return np.rint(array.astype(np.float32) * (255 / limit)).astype(np.uint8)


def _luma(frame: np.ndarray) -> np.ndarray:
    """Returns the brightness [H W] uint8 of a frame [H W 3] uint8."""
    return np.rint(frame.astype(np.float32) @ _LUMA).astype(np.uint8)


def _scaled(grey: np.ndarray, size: Size) -> np.ndarray:
    """Returns a mask [H W] as [h w] float32 of another size of about the same shape."""
    image = Image.fromarray(grey.astype(np.float32))
    return np.asarray(image.resize(size[::-1], _BILINEAR))
