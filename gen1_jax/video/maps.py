"""Structure maps: read from files, and written.

A map is inverse depth, or any picture that stands in for it: bright is near. Only its order and
proportions matter, because the editor scales each clip's map to [−1, 1]. Colours stay as they are.
"""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import replacing
from gen1_jax.video.footage import open_footage
from gen1_jax.video.images import is_animated, open_image, pillow_errors
from gen1_jax.video.opening import picture_names
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.streams import Stream
from gen1_jax.video.writing import VIDEO_SUFFIXES, check_output, write_pictures, write_video

ACCEPTED_MAPS = "a video, a picture, a folder of pictures or an .npy file of [n h w] is accepted"
OUTPUT_SUFFIXES = (".npy", *VIDEO_SUFFIXES)

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as Pillow's mode L
_GREY = 24  # of 255; lossy formats colour a grey picture by less


# ---- reading


def open_map(path: Path) -> Stream:
    """Opens a structure map with the precision of its file: 8 bits, 16 bits or floats.

    Args:
      path: a video, an animated or single picture, a folder of pictures in natural order, or an
        `.npy` file of `[n h w]`, `[h w]` or, in colours, `[n h w 3]`.

    Returns:
      Its frames, read when they are asked for: `[h w]` numbers, or `[h w 3]` in colours.

    Raises:
      UserError: the path holds no map.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {ACCEPTED_MAPS}")
    if path.suffix.lower() in (".npy", ".npz"):
        return Stream.of(as_array(load_array(path, ACCEPTED_MAPS), str(path)))
    if path.is_dir():
        files = [path / name for name in picture_names(path)]
        return Stream(len(files), lambda: map(_read_picture, files))
    if _is_still(path):
        return Stream.of(_read_picture(path)[None])
    return open_footage(path).frames


def as_array(value: np.ndarray, where: str) -> np.ndarray:
    """Returns an array of a map with an axis of frames: `[n h w]`, or in colours `[n h w 3]`.

    Args:
      value: numbers `[n h w]` or `[h w]`, or colours `[n h w 3]`: uint8, or floats in [−1, 1].
      where: what the array is, for messages.

    Raises:
      UserError: the array has another shape, or holds other things than numbers.
    """
    value = value[None] if value.ndim == 2 else value
    numeric = np.issubdtype(value.dtype, np.number) or value.dtype == bool
    in_colours = value.ndim == 4 and value.shape[-1] == 3 and value.dtype.kind in "uf"
    in_colours &= value.dtype == np.uint8 or value.dtype.kind == "f"
    fits = value.ndim == 3 or in_colours
    if not fits or not value.size or not numeric or np.iscomplexobj(value):
        raise UserError(
            f"{where}: {value.dtype} {list(value.shape)} is no structure map; numbers [n h w] are "
            "accepted, or [h w] for all frames, or colours [n h w 3]"
        )
    return value


def as_grey(frame: np.ndarray, where: str) -> np.ndarray:
    """Returns a map's frame as `[h w]` float32; of colours the brightness is taken.

    Raises:
      UserError: it holds NaN or infinite values.
    """
    if frame.ndim == 3:
        frame = as_colours(frame, where) @ _LUMA
    return _finite(frame.astype(np.float32), where)


def as_colours(frame: np.ndarray, where: str) -> np.ndarray:
    """Returns a map's frame `[h w 3]` as float32 in 0 … 255.

    Raises:
      UserError: it holds numbers out of range.
    """
    if frame.dtype == np.uint8:
        return frame.astype(np.float32)
    if not (np.abs(frame) <= 1).all():  # also true of NaN
        raise UserError(f"{where}: colours in floats are accepted in [-1, 1], others as uint8")
    return (frame.astype(np.float32) + 1) * 127.5


def has_colours(frame: np.ndarray, where: str) -> bool:
    """Returns whether a map's frame is more than grey."""
    return frame.ndim == 3 and bool((np.ptp(as_colours(frame, where), axis=-1) > _GREY).any())


def as_maps(value: np.ndarray, shape: tuple[int, ...], colours: bool = False) -> np.ndarray:
    """Returns the maps of several clips, `[b n h w]` float32, or in colours `[b n h w 3]`.

    Raises:
      UserError: the maps have another shape than the clips, or hold other things than numbers.
    """
    value = np.asarray(value)
    wanted = (*shape, 3) if colours else shape
    if value.shape != wanted:
        raise UserError(
            f"structure map of {list(value.shape)}; {list(wanted)} is accepted, as the frames have"
        )
    change = as_colours if colours else as_grey
    return np.stack(
        [
            np.stack([change(each, "structure map") for each in as_array(clip, "structure map")])
            for clip in value
        ]
    )


def stack_maps(maps: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Stacks maps of one size.

    Raises:
      UserError: the sizes differ.
    """
    for each in maps:
        check_size(each, maps[0].shape, where)
    return np.stack(maps)


def check_size(frame: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    """Raises UserError unless a map's frame has the shape of the first one."""
    if frame.shape[:2] != shape[:2]:
        sizes = sorted((frame.shape[:2], shape[:2]))
        raise UserError(
            f"{where}: holds pictures of {sizes[0][0]}x{sizes[0][1]} and of "
            f"{sizes[1][0]}x{sizes[1][1]}; pictures of one size are accepted"
        )


def picture_values(image: Image.Image, where: str) -> np.ndarray:
    """Returns a picture's values: `[h w]` of 16 bits or floats, or `[h w 3]` uint8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return as_array(np.asarray(image), where)[0]
    return image_to_rgb(image, managed=False)


def _finite(frame: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(frame).all():
        raise UserError(f"{where}: holds NaN or infinite values; finite numbers are accepted")
    return frame


def _is_still(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return not is_animated(image)
    except Exception:  # Pillow's decoders raise whatever a damaged file leads them to
        return False  # if it is no video either, `open_footage` says what is wrong


def _read_picture(path: Path) -> np.ndarray:
    with pillow_errors(path), open_image(path) as image:
        return picture_values(image, str(path))


def load_array(path: Path, accepted: str) -> np.ndarray:
    """Opens an array of an .npy file, which is read as far as it is used.

    Args:
      path: the file.
      accepted: what is accepted in its place, for messages.

    Raises:
      UserError: it holds no array of numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = one_line(error) if isinstance(error, OSError) else "no NumPy array of numbers"
        raise UserError(f"{path}: cannot be read: {why}; {accepted}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: holds arrays by name; {accepted}")
    return array


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
    """Writes a structure map in grey, bright is near, or in colours; `open_map` gives it back.

    Args:
      path: ends in `.npy` (float32, exact), or in `.mp4`, `.gif` or `.webp` (8 bits). Without a
        suffix it becomes a folder of PNGs, of 16 bits where it is grey.
      maps: `[n h w]` or `[n h w 3]` in [−1, 1].
      fps: frames per second, for the formats that state it.
      overwrite: whether to replace an existing output.

    Raises:
      UserError: the path is refused, or the disk is full.
    """
    path = check_map_output(path, overwrite)
    maps = maps if isinstance(maps, Stream) else Stream.of(np.asarray(maps, np.float32))
    if path.suffix.lower() == ".npy":
        with replacing(path) as part, part.open("wb") as file:
            shape = (maps.count, *next(iter(maps)).shape)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            for each in maps:
                file.write(np.ascontiguousarray(each, "<f4").tobytes())
    elif path.suffix:
        write_video(path, maps.map(show_map), fps, overwrite=overwrite)
    else:
        pictures = maps.map(_to_picture)
        write_pictures(path, pictures, overwrite=overwrite)


def show_map(frame: np.ndarray) -> np.ndarray:
    """Returns a map's frame in [−1, 1] as a picture `[h w 3]` uint8."""
    shown = (_unit(frame) * 255).round().astype(np.uint8)
    return shown if shown.ndim == 3 else shown[..., None].repeat(3, axis=-1)


def _to_picture(frame: np.ndarray) -> np.ndarray:
    if frame.ndim == 3:
        return show_map(frame)
    return (_unit(frame) * 65535).round().astype(np.uint16)


def _unit(frame: np.ndarray) -> np.ndarray:
    return np.clip((frame + 1) / 2, 0, 1)
