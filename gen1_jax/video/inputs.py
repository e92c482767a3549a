"""Whatever a caller may hand over as frames or as a picture, made an array.

Accepted are paths, Pillow images, lists of Pillow images, `Video`, and arrays of any library that
NumPy can read.
"""

import os
import warnings
from typing import Any

import numpy as np
from PIL import Image

from gen1_jax.errors import UserError, one_line
from gen1_jax.settings import show
from gen1_jax.video.footage import Footage, open_footage
from gen1_jax.video.io import Video, read_video
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.selection import describe_size

_FRAMES = "a path, a Video, a list of pictures of one size or an array [n H W 3] uint8 is accepted"
_PICTURE = "a path, a Pillow image or an array [H W 3] uint8 is accepted"
_EXAMPLES = 8  # frames of a video that is an example


def to_frames(value: Any) -> Footage:
    """Returns frames in memory that a caller gave, as they are.

    Raises:
      UserError: the value is nothing of the kind.
    """
    if isinstance(value, Video):
        taken = value.taken
        return Footage.of(
            value.frames, value.fps, taken.start, taken.stride, taken.source_size, taken.fit,
            taken.inside,
        )  # fmt: skip
    if isinstance(value, Image.Image):
        value = [value]
    if are_pictures(value):
        arrays = [image_to_rgb(image) for image in value]
        if len({array.shape for array in arrays}) > 1:
            raise UserError(f"frames are pictures of several sizes; {_FRAMES}")
        return Footage.of(np.stack(arrays))
    array = to_array("frames", value, _FRAMES)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        raise UserError(f"frames are {array.dtype} {list(array.shape)}; {_FRAMES}")
    return Footage.of(array)


def to_picture(value: Any, size: int) -> np.ndarray:
    """Returns a picture `[H W 3]` uint8 that a caller gave.

    A warning says what CLIP does not see of it.

    Args:
      value: a path, a Pillow image or an array.
      size: the side of the square that CLIP sees.

    Raises:
      UserError: the value is nothing of the kind.
    """
    name = "image"
    if isinstance(value, str | os.PathLike):
        video = read_video(value, num_frames=1)
        name, picture = str(video.path), video.frames[0]
        if video.taken.total != 1:
            warnings.warn(f"{name}: its first frame is the picture", stacklevel=3)
    elif isinstance(value, Image.Image):
        picture = image_to_rgb(value)
    else:
        picture = to_array("image", value, _PICTURE)
        if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
            raise UserError(f"image is {picture.dtype} {list(picture.shape)}; {_PICTURE}")
        if not picture.size:
            raise UserError(f"image is empty, {list(picture.shape)}; {_PICTURE}")
    if picture.shape[0] != picture.shape[1]:
        seen = describe_size(picture.shape[:2], (size, size))
        warnings.warn(f"{name}: {seen}, which is what CLIP sees", stacklevel=3)
    return picture


def to_example(value: Any, size: int) -> list[np.ndarray]:
    """Returns pictures `[H W 3]` uint8 of one example: one of a picture, some of a video.

    Args:
      value: see `to_picture`.
      size: the side of the square that CLIP sees.

    Raises:
      UserError: the value is nothing of the kind.
    """
    if not isinstance(value, str | os.PathLike):
        return [to_picture(value, size)]
    footage = open_footage(value)
    if len(footage) == 1:
        return [to_picture(value, size)]
    places = set(np.linspace(0, len(footage) - 1, _EXAMPLES).round().astype(int).tolist())
    return [frame for index, frame in enumerate(footage.frames) if index in places]


def are_pictures(value: Any) -> bool:
    """Returns whether a value is a list of Pillow images."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, Image.Image) for item in value)
    )


def to_array(name: str, value: Any, accepted: str) -> np.ndarray:
    """Returns a value as an array, or refuses it in one line that says what is accepted."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors of a GPU
        raise UserError(f"{name}: {one_line(error)}; {accepted}") from error
    if array.dtype == object or array.ndim == 0:
        raise UserError(f"{name} is {show(value)} ({type(value).__name__}); {accepted}")
    return array
