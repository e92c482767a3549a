"""Reads an image and scales it until it just covers its bucket."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from gen1_jax.data_pipelines.footage.keys import BUCKETS
from gen1_jax.data_pipelines.footage.outcomes import check_min_kept
from gen1_jax.data_pipelines.footage.records import encode_image
from gen1_jax.errors import UserError, one_line
from gen1_jax.video.fitting import best_size, kept_area
from gen1_jax.video.images import open_image, to_srgb
from gen1_jax.video.pixels import image_to_rgb
from gen1_jax.video.sources import Unreadable

MORE_FORMATS = ("PPM", "JPEG2000")  # beside the usual ones; none runs another program
WHITE = 255  # background of transparent images


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """Settings of stored images.

    Attributes:
      buckets: sizes (height, width) that image batches have.
      max_upscale: largest factor by which an image may be enlarged to cover its bucket.
      min_kept: least share of an image's area that cropping to its bucket may keep, 0 to 1.
      quality: quality of the JPEG.
    """

    buckets: tuple[tuple[int, int], ...] = BUCKETS
    max_upscale: float = 1.0
    min_kept: float = 0.5
    quality: int = 92


def store_image(
    data: bytes, caption: str, source: str, settings: ImageSettings
) -> tuple[dict, tuple[int, int], np.ndarray]:
    """Makes the record of an encoded image.

    The image is turned upright by its EXIF flag and converted to sRGB by its profile. An animation
    gives its first frame, and a transparent image is put on white. A JPEG that needs none of this,
    and no scaling, is stored as it came.

    Args:
      data: the encoded image.
      caption: its caption.
      source: its path.
      settings: settings of stored images.

    Returns:
      The record, the bucket (height, width) and the pixels [h w 3].

    Raises:
      Unreadable: the data are no image, or one that is damaged, too small, too long or too large to
        open.
    """
    if not data:
        raise Unreadable("empty file", f"{source}: is empty (0 bytes)")
    with _image_errors(source), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large images and odd EXIF
        with open_image(io.BytesIO(data), MORE_FORMATS) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            size = (image.width, image.height) if turned else (image.height, image.width)
            bucket = best_size(size, settings.buckets)
            if (kept := kept_area(size, bucket)) < settings.min_kept:
                raise Unreadable(
                    "too little kept",
                    f"{source}: {kept:.0%} of {size[0]}x{size[1]} fits {bucket[0]}x{bucket[1]}",
                )
            scale = max(want / have for want, have in zip(bucket, size, strict=True))
            if scale > settings.max_upscale:
                raise Unreadable(
                    "too small", f"{source}: {size[0]}x{size[1]} for {bucket[0]}x{bucket[1]}"
                )
            covering = tuple(
                max(want, math.floor(have * scale + 0.5))
                for want, have in zip(bucket, size, strict=True)
            )
            plain = image.format == "JPEG" and image.mode == "RGB" and size == covering
            plain = plain and image.getexif().get(0x0112, 1) == 1
            # Decodes a JPEG at a half, quarter or eighth, if that is still twice what is needed.
            image.draft(None, (2 * max(covering), 2 * max(covering)))
            upright = ImageOps.exif_transpose(image)
            managed = to_srgb(upright)
            plain = plain and managed is upright
            pixels = image_to_rgb(managed, WHITE, managed=False)
    if pixels.shape[:2] != covering:
        resized = Image.fromarray(pixels).resize(covering[::-1], Image.Resampling.LANCZOS)
        pixels = np.asarray(resized)
    record = encode_image(pixels, caption, source, quality=settings.quality)
    if plain:
        record["image"] = data
    return record, bucket, pixels


@contextlib.contextmanager
def _image_errors(source: str) -> Iterator[None]:
    """Turns every error of the block into `Unreadable`."""
    try:
        yield
    except Unreadable:
        raise
    except Image.UnidentifiedImageError as error:
        raise Unreadable("not an image", f"{source}: not an image") from error
    except MemoryError as error:
        raise Unreadable("too much memory", f"{source}: does not fit in memory") from error
    except Image.DecompressionBombError as error:
        raise Unreadable("too many pixels", f"{source}: {one_line(error)}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        what = f"{type(error).__name__}: {one_line(error)}"
        raise Unreadable("damaged", f"{source}: {what}") from error


def check_settings(settings: ImageSettings) -> None:
    """Raises UserError for settings that are not accepted."""
    if not settings.buckets or min(side for size in settings.buckets for side in size) < 8:
        raise UserError("--buckets: sizes of 8x8 and more are accepted, e.g. 320x320 256x448")
    if settings.max_upscale <= 0:
        raise UserError(f"--max-upscale {settings.max_upscale}: a number above 0 is accepted")
    check_min_kept(settings.min_kept)
    if not 1 <= settings.quality <= 100:
        raise UserError(f"--quality {settings.quality}: 1 to 100 are accepted")
