"""Structure maps that callers give, fitted to the frames of a video.

Accepted are paths, Pillow images, lists of them, `Video`, and arrays of any library that NumPy can
read. A map is gone through once, and waits on the disk: memory does not grow with its length.
"""

import os
import warnings
from typing import Any

import numpy as np
from PIL import Image

from gen1_jax.errors import UserError
from gen1_jax.video.fitting import fit_image
from gen1_jax.video.footage import Footage
from gen1_jax.video.inputs import are_pictures, to_array
from gen1_jax.video.io import Video
from gen1_jax.video.maps import (
    as_array,
    as_colours,
    as_grey,
    check_size,
    has_colours,
    open_map,
    picture_values,
    stack_maps,
)
from gen1_jax.video.paths import as_path
from gen1_jax.video.selection import describe_size
from gen1_jax.video.streams import Spool, Stream

_MAP = "a path, a list of pictures, or an array [n H W], [H W] or [n H W 3] is accepted"


def to_map(value: Any, footage: Footage, colours: bool = False, grey_too: bool = False) -> Stream:
    """Returns the maps of a video's frames: `[H W]` float32, or in colours `[H W 3]` in 0 … 255.

    Args:
      value: see the module.
      footage: the video. A map that is as long as its input is taken from where the frames are.
      colours: whether the maps are wanted in colours. Else the brightness of colours is taken.
      grey_too: whether a grey map serves where colours are wanted, in shades of grey.

    Raises:
      UserError: the value is nothing of the kind, has another number of frames, or is grey where
        colours are wanted.
    """
    stream, where = _open(value)
    stream, places = _choose(stream, footage, where)
    spool, shape, is_coloured = None, None, False
    for frame in stream:
        shape = shape or frame.shape
        check_size(frame, shape, where)
        is_coloured = is_coloured or has_colours(frame, where)
        own = as_colours(frame, where) if colours and frame.ndim == 3 else as_grey(frame, where)
        own = _fit(own, footage)
        spool = spool or Spool(own.shape)
        spool.append(own[None])
    if is_coloured and not colours:
        warnings.warn(f"{where}: has colours; their brightness is taken", stacklevel=4)
    if colours and not is_coloured and not grey_too:
        raise UserError(f"{where}: is grey; this model was trained on structure in colours")
    if shape[:2] not in (footage.size, footage.source_size):  # else the frames' note says it
        said = describe_size(shape[:2], footage.size, footage.fit)
        warnings.warn(f"{where}: {said}", stacklevel=4)
    return spool.stream().pick(places)


def choose_frames(have: int, count: int, start: int, stride: int, where: str) -> np.ndarray:
    """Returns which frame of a map lies on each frame of a clip, `[count]`.

    A map of one frame stands for all frames. A map of `count` frames has one for each. A longer map
    goes with the whole input: the same frames are taken of it.

    Args:
      have: number of the map's frames.
      count: number of the clip's frames.
      start: index of the clip's first frame in the input.
      stride: input frames from one frame of the clip to the next.
      where: what the map is, for messages.

    Raises:
      UserError: the map has another number of frames.
    """
    needed = start + stride * (count - 1) + 1
    if have == 1:
        return np.zeros(count, int)
    if have == count:
        return np.arange(count)
    if have >= needed:
        if start == 0 and stride == 1:
            warnings.warn(
                f"{where}: its first {count} frames are taken, as many as are edited", stacklevel=5
            )
        return np.arange(start, needed, stride)
    whole = f", or {needed} and more for the whole input" if needed > count else ""
    raise UserError(
        f"{where}: has {have} frames; accepted are {count}, one for each frame that is edited, or "
        f"1 for all{whole}"
    )


def _choose(stream: Stream, footage: Footage, where: str) -> tuple[Stream, np.ndarray]:
    """Returns the frames that are needed of a map, and which of them lies on each frame."""
    wanted = choose_frames(stream.count, len(footage), footage.start, footage.stride, where)
    needed, places = np.unique(wanted, return_inverse=True)
    return stream.pick(needed), places


def _fit(frame: np.ndarray, footage: Footage) -> np.ndarray:
    """Scales a map's frame and crops its middle, or pads it, to the size of the frames."""
    # Bilinear weights are never negative, so edges of depth get no halo.
    planes = frame[..., None] if frame.ndim == 2 else frame
    fitted = [
        fit_image(np.ascontiguousarray(plane), footage.size, Image.Resampling.BILINEAR, footage.fit)
        for plane in np.moveaxis(planes, -1, 0)
    ]
    return fitted[0] if frame.ndim == 2 else np.stack(fitted, axis=-1)


def _open(value: Any) -> tuple[Stream, str]:
    """Returns the frames of a map as they are, and its name."""
    where = "structure map"
    if isinstance(value, str | os.PathLike):
        path = as_path(value, _MAP)
        return open_map(path), str(path)
    if isinstance(value, Video):
        return Stream.of(value.frames), str(value.path)
    if isinstance(value, Stream):
        return value, where
    if isinstance(value, Image.Image):
        value = [value]
    if are_pictures(value):
        return Stream.of(stack_maps([picture_values(each, where) for each in value], where)), where
    return Stream.of(as_array(to_array("structure", value, _MAP), where)), where
