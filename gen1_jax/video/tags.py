"""Texts that a file holds of itself, by name: in the place that its format has for them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import av
from PIL import ExifTags, Image, PngImagePlugin

from gen1_jax.errors import UserError, one_line
from gen1_jax.video.containers import open_container
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
    if packet := xmp_packet(tags):
        info.add_itxt(_PNG_XMP, packet.decode())
    return info


def exif_tags(tags: Mapping[str, str]) -> Image.Exif:
    """Returns tags for Pillow's WebP writer, in the field that describes the image."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = tags_to_text(tags)
    return exif


def xmp_packet(tags: Mapping[str, str]) -> bytes:
    """Returns XMP of tags that have a place there, for other programs to read; b"" if none has."""
    fields = {name: tags[tag] for name, tag in _XMP_FIELDS.items() if tag in tags}
    if not fields:
        return b""
    attributes = " ".join(f"{name}={quoteattr(text)}" for name, text in fields.items())
    spaces = " ".join(f'xmlns:{name}="{place}"' for name, place in _XMP_SPACES.items())
    description = escape(tags.get("comment", ""))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {spaces} {attributes}><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt></dc:description>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


_BRANDS = ("major_brand", "minor_version", "compatible_brands", "encoder")  # of an mp4 itself
_PNG_XMP = "XML:com.adobe.xmp"
_XMP_FIELDS = {
    "xmp:CreatorTool": "software",
    "Iptc4xmpExt:DigitalSourceType": "digital_source_type",
}
_XMP_SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


def add_xmp(path: Path, tags: Mapping[str, str]) -> None:
    """Adds XMP to the end of an mp4, in the box that its specification names."""
    if packet := xmp_packet(tags):
        box = b"uuid" + bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + packet
        with path.open("ab") as file:
            file.write((len(box) + 4).to_bytes(4, "big") + box)


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
                return _of_png(image)
        if path.suffix.lower() in (".gif", ".webp", ".png"):
            return _of_image(path)
        with open_container(path) as container:
            found = dict(container.metadata)
            return {name: text for name, text in found.items() if name not in _BRANDS}
    except (OSError, SyntaxError, ValueError, av.FFmpegError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error


def _of_png(image: Image.Image) -> dict[str, str]:
    image.load()
    return {name: str(text) for name, text in image.text.items() if name != _PNG_XMP}


def _of_image(path: Path) -> dict[str, str]:
    with Image.open(path, formats=("GIF", "WEBP", "PNG")) as image:
        if image.format == "PNG":
            return _of_png(image)
        text = image.info.get("comment", b"")
        if image.format == "WEBP":
            text = image.getexif().get(ExifTags.Base.ImageDescription, "")
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"comment": text}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
