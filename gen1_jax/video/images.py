"""Opens still images and animations by Pillow, and brings their pixels to sRGB."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageCms

from gen1_jax.errors import UserError, one_line
from gen1_jax.video.sources import IMAGE_FORMATS, Unreadable

_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
# First brands of HEIF files; those of AVIF, which Pillow reads itself, are others.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def open_image(file: Path | io.BytesIO, more_formats: tuple[str, ...] = ()) -> Image.Image:
    """Opens an image by its content, whatever its name; the caller closes it.

    Args:
      file: the file, or its content.
      more_formats: names of Pillow's formats that are accepted beside the usual ones.

    Raises:
      Unreadable: the image is HEIC, and the library for it is not installed.
      PIL.UnidentifiedImageError: the file is no image of an accepted format.
      OSError, ValueError, …: the image is damaged.
    """
    formats = (*IMAGE_FORMATS, *more_formats)
    if _is_heif(file):
        name = f"{file}: " if isinstance(file, Path) else ""
        if not _knows_heif():
            raise Unreadable(
                "unsupported codec",
                f"{name}a HEIC image, which needs pillow-heif (pip install -e '.[heif]'), "
                "or save it as JPEG",
            )
        formats = ("HEIF",)
    return Image.open(file, formats=formats)


def is_animated(image: Image.Image) -> bool:
    """Returns whether an image is shown as a film.

    The pages of a TIFF are not, nor the previews and second views in a phone's JPEG (MPO).
    """
    return getattr(image, "is_animated", False) and image.format in _ANIMATED


def to_srgb(image: Image.Image) -> Image.Image:
    """Returns an image in sRGB: the image itself unless its profile says otherwise.

    Grey, RGB and CMYK images are converted, with a palette or transparency, too. Transparency is
    kept.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        space = source.profile.xcolor_space.strip()
        plain, alpha = image, None
        if image.has_transparency_data:
            plain = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
            alpha = plain.getchannel("A")
        wanted = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        if wanted == "L" and image.mode not in ("1", "L", "LA"):
            return image  # the profile belongs to another image
        if (wanted == "CMYK") != (image.mode == "CMYK"):
            return image
        managed = ImageCms.profileToProfile(
            plain.convert(wanted), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError):  # a broken profile counts as none
        return image
    if alpha is not None:
        managed.putalpha(alpha)
    return managed


@contextlib.contextmanager
def pillow_errors(path: Path, but: type[Exception] = UserError) -> Iterator[None]:
    """Turns every error inside the block, `but` one kind, into `Unreadable` of the file."""
    try:
        yield
    except (UserError, but):
        raise
    except MemoryError as error:
        raise Unreadable("too much memory", f"{path}: does not fit in memory") from error
    except Image.DecompressionBombError as error:
        raise Unreadable("too many pixels", f"{path}: {one_line(error)}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        reason = "cannot be opened" if isinstance(error, PermissionError) else "damaged"
        what = one_line(error) if isinstance(error, OSError | SyntaxError) else repr(error)
        raise Unreadable(reason, f"{path}: cannot be read as an image: {what}") from error


def _is_heif(file: Path | io.BytesIO) -> bool:
    """Returns whether a file begins as HEIC images do."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            head = opened.read(64)
    else:
        head = file.getvalue()[:64]
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in brands


@functools.cache
def _knows_heif() -> bool:
    """Teaches Pillow to read HEIC, if the library for it is installed; returns whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True
