"""Whatever a caller may hand over as frames, as a picture or as a structure map, made an array.

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
from gen1_jax.video.maps import (
    as_map,
    choose_frames,
    fit_map,
    picture_to_map,
    read_map,
    stack_maps,
)
from gen1_jax.video.paths import as_path
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.selection import describe_size

_FRAMES = "a path, a Video, a list of pictures of one size or an array [n H W 3] uint8 is accepted"
_PICTURE = "a path, a Pillow image or an array [H W 3] uint8 is accepted"
_EXAMPLES = 8  # frames of a video that is an example
_MAP = "a path, a list of grey pictures, or an array [n H W] or [H W] is accepted"


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
    if _are_pictures(value):
        arrays = [image_to_rgb(image) for image in value]
        if len({array.shape for array in arrays}) > 1:
            raise UserError(f"frames are pictures of several sizes; {_FRAMES}")
        return Footage.of(np.stack(arrays))
    array = _as_array("frames", value, _FRAMES)
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
        picture = _as_array("image", value, _PICTURE)
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


def to_map(value: Any, frames: Footage) -> np.ndarray:
    """Returns a structure map `[n H W]` float32 that a caller gave, fitted to the frames of a clip.

    Args:
      value: see the module; of an array `[n H W]`, `[H W]` or `[n H W 3]` uint8.
      frames: the clip. A map that is as long as the clip's input is taken from where the clip is.

    Raises:
      UserError: the value is nothing of the kind, or has another number of frames.
    """
    count, (height, width) = len(frames), frames.size
    where = "structure map"
    if isinstance(value, str | os.PathLike):
        path = as_path(value, _MAP)
        where = str(path)
        # One more than needed, so that what is left out is said.
        maps = read_map(path, frames.start + frames.stride * (count - 1) + 2)
    elif isinstance(value, Video):
        where = str(value.path)
        maps = as_map(value.frames, where)
    elif isinstance(value, Image.Image):
        maps = picture_to_map(value, where)[None]
    elif _are_pictures(value):
        maps = stack_maps([picture_to_map(image, where) for image in value], where)
    else:
        maps = as_map(_as_array("structure_map", value, _MAP), where)
    maps = choose_frames(maps, count, frames.start, frames.stride, where)
    if maps.shape[1:] not in ((height, width), frames.source_size):  # else the frames' note says it
        said = describe_size(maps.shape[1:], (height, width), frames.fit)
        warnings.warn(f"{where}: {said}", stacklevel=3)
    return fit_map(maps, (height, width), frames.fit)


def _are_pictures(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, Image.Image) for item in value)
    )


def _as_array(name: str, value: Any, accepted: str) -> np.ndarray:
    """Returns a value as an array, or refuses it in one line that says what is accepted."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors of a GPU
        raise UserError(f"{name}: {one_line(error)}; {accepted}") from error
    if array.dtype == object or array.ndim == 0:
        raise UserError(f"{name} is {show(value)} ({type(value).__name__}); {accepted}")
    return array
