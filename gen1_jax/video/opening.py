"""Opens inputs (folder, animated image, still, container) as pictures with presentation times.

Pictures are decoded in order and on demand. A picture is converted to RGB only when its pixels are
asked for.
"""

import contextlib
import functools
import itertools
import stat
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gen1_jax.errors import UserError, one_line
from gen1_jax.video.decoding import open_stream
from gen1_jax.video.images import is_animated, open_image, pillow_errors
from gen1_jax.video.pixels import image_to_rgb, reduced
from gen1_jax.video.sources import (
    ACCEPTED,
    DEFAULT_FPS,
    IMAGE_SUFFIXES,
    Picture,
    Source,
    Unreadable,
    natural_key,
)


def picture_names(folder: Path) -> list[str]:
    """Returns the names of a folder's images in natural order; other and hidden files are skipped.

    Raises:
      UserError: the folder cannot be read, or holds no images.
    """
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {one_line(error)}") from error
    names = [p.name for p in files if not p.name.startswith(".")]
    if not names:
        raise UserError(
            f"{folder}: a folder without images; a folder needs {', '.join(IMAGE_SUFFIXES)} files"
        )
    return sorted(names, key=natural_key)


def open_folder(path: Path, size: tuple[int, int] | None) -> Source:
    """Opens a folder of images.

    All images must have one size, unless the caller scales them to `size`.

    Raises:
      UserError: the folder cannot be read or holds no images; while a picture is read, its image is
        damaged or has another size.
    """
    names = picture_names(path)
    shape = None

    def load(name: str) -> np.ndarray:
        nonlocal shape
        with pillow_errors(path / name), open_image(path / name) as image:
            array = image_to_rgb(ImageOps.exif_transpose(image))
        shape = shape or array.shape
        if size is None and array.shape != shape:
            raise UserError(
                f"{path / name}: is {array.shape[0]}x{array.shape[1]}, the folder's first image "
                f"{shape[0]}x{shape[1]}; accepted are images of one size, or give a size for all"
            )
        return array

    step = 1 / DEFAULT_FPS
    pictures = (
        _picture_of_image(i * step, step, functools.partial(load, name))
        for i, name in enumerate(names)
    )
    return Source(DEFAULT_FPS, pictures, count=len(names), count_is_exact=True)


def open_file(
    path: Path,
    start: int,
    stack: contextlib.ExitStack,
    *,
    strict: bool = False,
    threads: int = 0,
) -> Source:
    """Opens a file by its content, whatever its name.

    Args:
      path: the file.
      start: index of the first wanted frame; the decoder may seek to it.
      stack: the stack that closes the file.
      strict: whether a damaged stream gives only pictures that are certainly whole, which leaves
        out everything from the damage to the next key frame. Otherwise it gives every picture that
        decodes, smeared ones included.
      threads: number of the decoder's threads; 0 means one a core.

    Raises:
      Unreadable: the file is not a video.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise Unreadable(
            "cannot be opened", f"{path}: cannot be read: {one_line(error)}"
        ) from error
    if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for
        raise Unreadable("cannot be opened", f"{path}: is no file; {ACCEPTED}")
    if state.st_size == 0:
        raise Unreadable("empty file", f"{path}: is empty (0 bytes); {ACCEPTED}")
    try:
        with pillow_errors(path, but=Image.UnidentifiedImageError):
            image = stack.enter_context(open_image(path))
    except Image.UnidentifiedImageError:
        return open_stream(path, start, stack, strict, threads)
    if is_animated(image):
        return _open_animation(path, image)
    with pillow_errors(path):
        array = image_to_rgb(ImageOps.exif_transpose(image))
    still = _picture_of_image(Fraction(0), 1 / DEFAULT_FPS, lambda: array)
    return Source(DEFAULT_FPS, iter([still]), count=1, count_is_exact=True)


def _open_animation(path: Path, image: Image.Image) -> Source:
    """Opens a GIF, WebP or APNG; a first pass over the frames' durations gives the rate."""
    durations: list[Fraction] = []
    source = Source(DEFAULT_FPS, iter(()))
    try:
        for index in itertools.count():
            image.seek(index)
            image.load()
            milliseconds = image.info.get("duration", 0)
            # Every browser shows a frame of 10 ms or less for 100 ms.
            durations.append(
                Fraction(milliseconds if milliseconds > 10 else 100).limit_denominator(1000) / 1000
            )
    except EOFError:
        source.lost = max(0, _stated_frames(image) - len(durations))
    except MemoryError:
        raise
    except Exception:  # Pillow's decoders raise whatever a damaged file leads them to
        source.lost = max(1, _stated_frames(image) - len(durations))
    if not durations:
        raise Unreadable("damaged", f"{path}: has 0 frames that can be read; {ACCEPTED}")
    # Encoders merge two equal frames into one of twice the time, which counts as two here. The mean
    # over all frames recovers 1/24 s, which GIF can only store as 40, 40, 50 ms.
    shortest = min(durations)
    counts = [max(1, round(duration / shortest)) for duration in durations]
    source.rate = sum(counts) / sum(durations)
    source.count, source.count_is_exact = sum(counts), True

    def load(index: int) -> np.ndarray:
        with pillow_errors(path):
            image.seek(index)
            return image_to_rgb(image)

    times = itertools.accumulate(durations, initial=Fraction(0))
    source.pictures = (
        _picture_of_image(time, duration, functools.partial(load, index))
        for index, (time, duration) in enumerate(zip(times, durations, strict=False))
    )
    return source


def _stated_frames(image: Image.Image) -> int:
    """Returns how many frames an animation says that it has; 0 if it cannot be found out."""
    try:
        return getattr(image, "n_frames", 0)
    except Exception:  # a GIF is read to its end
        return 0


def _picture_of_image(time: Fraction, duration: Fraction, load: Callable) -> Picture:
    """Returns a picture whose pixels `load()` reads."""
    load = functools.cache(load)

    def thumbnail(side: int) -> np.ndarray:
        image = Image.fromarray(load())
        image.thumbnail((side, side), Image.Resampling.BOX)
        return np.asarray(image)

    return Picture(time, duration, lambda cover=None: reduced(load(), cover), thumbnail)
