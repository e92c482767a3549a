"""Structure maps: read from files as `[n h w]` float32, fitted to a clip, and written.

A map is inverse depth, or any picture that stands in for it: bright is near. Only its order and
proportions matter, because the editor scales each clip's map to [−1, 1].
"""

import os
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import replacing
from gen1_jax.video.fitting import CROP, fit_image
from gen1_jax.video.io import read_video
from gen1_jax.video.opening import is_animated, picture_names, pillow_errors
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.sources import IMAGE_FORMATS
from gen1_jax.video.streams import Stream
from gen1_jax.video.writing import VIDEO_SUFFIXES, check_output, write_pictures, write_video

ACCEPTED_MAPS = "a video, a picture, a folder of pictures or an .npy file of [n h w] is accepted"
OUTPUT_SUFFIXES = (".npy", *VIDEO_SUFFIXES)

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as Pillow's mode L
_GREY = 24  # of 255; lossy formats colour a grey picture by less


# ---- reading


def read_map(path: Path, most: int | None = None) -> np.ndarray:
    """Reads a structure map with the precision of its file: 8 bits, 16 bits or floats.

    Args:
      path: a video, an animated or single picture, a folder of pictures in natural order, or an
        `.npy` file of `[n h w]` or `[h w]`.
      most: number of frames to read at most; None reads all.

    Returns:
      `[n h w]` float32.

    Raises:
      UserError: the path holds no map.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {ACCEPTED_MAPS}")
    if path.suffix.lower() in (".npy", ".npz"):
        return _read_array(path, most)
    if path.is_dir():
        files = [path / name for name in picture_names(path)[:most]]
        return stack_maps([_read_picture(file) for file in files], str(path))
    if _is_still(path):
        return _read_picture(path)[None]
    return as_map(read_video(path, num_frames=most, shorter=True).frames, str(path))


def as_map(value: np.ndarray, where: str) -> np.ndarray:
    """Returns an array as a map `[n h w]` float32; of colours the brightness is taken.

    Args:
      value: numbers `[n h w]`, `[h w]` or `[n h w 3]` uint8.
      where: what the array is, for messages.

    Raises:
      UserError: the array has another shape, or holds other things than finite numbers.
    """
    if value.ndim == 4 and value.shape[-1] == 3:
        if (np.ptp(value, axis=-1) > _GREY).any():
            warnings.warn(f"{where}: has colours; their brightness is taken", stacklevel=2)
        value = value.astype(np.float32) @ _LUMA
    value = value[None] if value.ndim == 2 else value
    numeric = np.issubdtype(value.dtype, np.number) or value.dtype == bool
    if value.ndim != 3 or not value.size or not numeric or np.iscomplexobj(value):
        raise UserError(
            f"{where}: {value.dtype} {list(value.shape)} is no structure map; numbers [n h w] are "
            "accepted, or [h w] for all frames"
        )
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise UserError(f"{where}: holds NaN or infinite values; finite numbers are accepted")
    return value


def as_maps(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the maps of several clips, `[b n h w]` float32.

    Raises:
      UserError: the maps have another shape than the clips, or hold other things than numbers.
    """
    value = np.asarray(value)
    if value.shape != shape:
        raise UserError(
            f"structure map of {list(value.shape)}; {list(shape)} is accepted, as the frames have"
        )
    return np.stack([as_map(each, "structure map") for each in value])


def stack_maps(maps: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Stacks maps `[h w]` of one size to `[n h w]`.

    Raises:
      UserError: the sizes differ.
    """
    sizes = sorted({each.shape for each in maps})
    if len(sizes) > 1:
        raise UserError(
            f"{where}: holds pictures of {sizes[0][0]}x{sizes[0][1]} and of "
            f"{sizes[1][0]}x{sizes[1][1]}; pictures of one size are accepted"
        )
    return np.stack(maps)


def picture_to_map(image: Image.Image, where: str) -> np.ndarray:
    """Returns a picture's values `[h w]` float32: 8 bits, 16 bits or floats, as they are."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return as_map(np.asarray(image), where)[0]
    return as_map(image_to_rgb(image)[None], where)[0]


def _is_still(path: Path) -> bool:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return not is_animated(image)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False  # if it is no video either, `read_video` says what is wrong


def _read_picture(path: Path) -> np.ndarray:
    with pillow_errors(path), Image.open(path, formats=IMAGE_FORMATS) as image:
        return picture_to_map(image, str(path))


def _read_array(path: Path, most: int | None) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = one_line(error) if isinstance(error, OSError) else "no NumPy array of numbers"
        raise UserError(f"{path}: cannot be read: {why}; {ACCEPTED_MAPS}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: holds arrays by name; {ACCEPTED_MAPS}")
    return as_map(np.asarray(array[:most] if array.ndim > 2 else array), str(path))


# ---- fitting to a clip


def choose_frames(maps: np.ndarray, count: int, start: int, stride: int, where: str) -> np.ndarray:
    """Returns a map for each of `count` frames, which were taken by `start` and `stride`.

    A map of one frame stands for all frames. A map of `count` frames has one for each. A longer map
    goes with the whole input: the same frames are taken of it.

    Args:
      maps: `[m h w]`.
      count: number of the clip's frames.
      start: index of the clip's first frame in the input.
      stride: input frames from one frame of the clip to the next.
      where: what the map is, for messages.

    Returns:
      `[count h w]`.

    Raises:
      UserError: the map has another number of frames.
    """
    needed = start + stride * (count - 1) + 1
    if len(maps) == 1:
        return maps.repeat(count, axis=0)
    if len(maps) == count:
        return maps
    if len(maps) >= needed:
        if start == 0 and stride == 1:
            warnings.warn(
                f"{where}: its first {count} frames are taken, as many as are edited", stacklevel=2
            )
        return maps[start:needed:stride]
    whole = f", or {needed} and more for the whole input" if needed > count else ""
    raise UserError(
        f"{where}: has {len(maps)} frames; accepted are {count}, one for each frame that is "
        f"edited, or 1 for all{whole}"
    )


def fit_map(maps: np.ndarray, size: tuple[int, int], fit: str = CROP) -> np.ndarray:
    """Scales maps `[n H W]` and crops their centre, or pads them, to `size = (h, w)`."""
    # Bilinear weights are never negative, so edges of depth get no halo.
    return np.stack([fit_image(each, size, Image.Resampling.BILINEAR, fit) for each in maps])


# ---- writing


def check_map_output(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Refuses, before any work is done, an output that `write_map` would refuse."""
    return check_output(path, overwrite, OUTPUT_SUFFIXES)


def write_map(
    path: str | os.PathLike,
    maps: np.ndarray | Stream,
    fps: Fraction | float,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a structure map in grey, bright is near, so that `read_map` gives it back.

    Args:
      path: ends in `.npy` (float32, exact), or in `.mp4`, `.gif` or `.webp` (8 bits). Without a
        suffix it becomes a folder of 16-bit PNGs.
      maps: `[n h w]` in [−1, 1].
      fps: frames per second, for the formats that state it.
      overwrite: whether to replace an existing output.

    Raises:
      UserError: the path is refused, or the disk is full.
    """
    path = check_map_output(path, overwrite)
    maps = maps if isinstance(maps, Stream) else Stream.of(np.asarray(maps, np.float32))

    def unit(each: np.ndarray) -> np.ndarray:
        return np.clip((each + 1) / 2, 0, 1)

    if path.suffix.lower() == ".npy":
        with replacing(path) as part, part.open("wb") as file:
            shape = (maps.count, *next(iter(maps)).shape)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            for each in maps:
                file.write(np.ascontiguousarray(each, "<f4").tobytes())
    elif path.suffix:
        grey = maps.map(lambda each: (unit(each) * 255).round().astype(np.uint8))
        colours = grey.map(lambda each: each[..., None].repeat(3, axis=-1))
        write_video(path, colours, fps, overwrite=overwrite)
    else:
        pictures = maps.map(lambda each: (unit(each) * 65535).round().astype(np.uint16))
        write_pictures(path, pictures, overwrite=overwrite)
