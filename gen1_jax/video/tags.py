"""Texts that a file holds of itself, by name: in the place that its format has for them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import av
from PIL import ExifTags, Image, PngImagePlugin

from gen1_jax.errors import UserError, one_line
from gen1_jax.video.opening import picture_names
from gen1_jax.video.paths import as_path


def tags_to_text(tags: Mapping[str, str]) -> str:
    """Returns tags as one text, for formats that have a place for one."""
    return json.dumps(dict(tags))


def png_tags(tags: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    """Returns tags for Pillow's PNG writer."""
    info = PngImagePlugin.PngInfo()
    for name, text in tags.items():
        info.add_itxt(name, text)
    return info


def exif_tags(tags: Mapping[str, str]) -> Image.Exif:
    """Returns tags for Pillow's WebP writer, in the field that describes the image."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = tags_to_text(tags)
    return exif


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """Returns the tags that `write_video` wrote into an mp4, gif, webp or folder of PNGs.

    Raises:
      UserError: the file cannot be read.
    """
    path = as_path(path, "a path of a video")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        if path.is_dir():
            with Image.open(path / picture_names(path)[0], formats=("PNG",)) as image:
                image.load()
                return dict(image.text)
        if path.suffix.lower() in (".gif", ".webp", ".png"):
            return _of_image(path)
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            return dict(container.metadata)
    except (OSError, SyntaxError, ValueError, av.FFmpegError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error


def _of_image(path: Path) -> dict[str, str]:
    with Image.open(path, formats=("GIF", "WEBP", "PNG")) as image:
        if image.format == "PNG":
            image.load()
            return dict(image.text)
        text = image.info.get("comment", b"")
        if image.format == "WEBP":
            text = image.getexif().get(ExifTags.Base.ImageDescription, "")
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"comment": text}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
