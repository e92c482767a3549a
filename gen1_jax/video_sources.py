"""Inputs opened: folder, animated image, still or container -> pictures with their presentation
times.

The lower half of `video_io`, which documents what is accepted and how each oddity is treated.
Pictures are decoded in order and on demand; turning one into RGB waits until it is known to be
wanted.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import (
    ColorPrimaries,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from PIL import Image, ImageOps

from gen1_jax.errors import UserError

DEFAULT_FPS = Fraction(24)  # of folders and stills, which state none
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ACCEPTED = "accepted are video files, GIF, WebP, APNG, images and folders of images"

_IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # Pillow also "opens" MPEG
_TEXT_ART_FORMATS = ("tty", "bin", "xbin", "adf", "idf")  # ffmpeg draws any .txt as a video
_SEEK_FROM = 256  # frames; below, decoding is cheaper than it is risky to seek
SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass
class Picture:
    """One decoded picture: when it is shown, for how long (seconds), and its RGB array on
    demand."""

    time: Fraction
    duration: Fraction
    rgb: Callable[[], np.ndarray]


@dataclass
class Source:
    """An opened input: `lost` grows while `pictures` is consumed."""

    rate: Fraction
    pictures: Iterator[Picture]
    lost: int = 0


def open_folder(path: Path, size: tuple[int, int] | None) -> Source:
    """A folder of images, in natural order; hidden files and other files are passed over."""

    def natural(name: str) -> list:
        parts = re.split(r"([0-9]+)", name)  # text and digits in turn
        return [int(part) if index % 2 else part for index, part in enumerate(parts)]

    try:
        files = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
    names = [p.name for p in files if not p.name.startswith(".")]
    if not names:
        raise UserError(
            f"{path}: a folder without images; a folder needs {', '.join(IMAGE_SUFFIXES)} files"
        )
    names.sort(key=natural)
    shape = None

    def load(name: str) -> np.ndarray:
        nonlocal shape
        with _pillow_errors(path / name), Image.open(path / name, formats=_IMAGE_FORMATS) as image:
            array = _image_to_rgb(ImageOps.exif_transpose(image))
        shape = shape or array.shape
        if size is None and array.shape != shape:
            raise UserError(
                f"{path / name}: is {array.shape[0]}x{array.shape[1]}, the folder's first image "
                f"{shape[0]}x{shape[1]}; accepted are images of one size, or give a size for all"
            )
        return array

    step = 1 / DEFAULT_FPS
    pictures = (
        Picture(i * step, step, lambda name=name: load(name)) for i, name in enumerate(names)
    )
    return Source(DEFAULT_FPS, pictures)


def open_file(path: Path, start: int, stack: contextlib.ExitStack) -> Source:
    """A file, by its content whatever its name; `stack` closes it, `start` is where to seek."""
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty (0 bytes); {ACCEPTED}")
    try:
        image = stack.enter_context(Image.open(path, formats=_IMAGE_FORMATS))
    except Image.UnidentifiedImageError:
        return _open_stream(path, start, stack)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
    if getattr(image, "is_animated", False) and image.format != "TIFF":
        return _open_animation(path, image)
    with _pillow_errors(path):
        array = _image_to_rgb(ImageOps.exif_transpose(image))
    return Source(DEFAULT_FPS, iter([Picture(Fraction(0), 1 / DEFAULT_FPS, lambda: array)]))


def _open_animation(path: Path, image: Image.Image) -> Source:
    """GIF, WebP or APNG: a first pass over the frames' durations gives the rate."""
    durations: list[Fraction] = []
    source = Source(DEFAULT_FPS, iter(()))
    try:
        for index in itertools.count():
            image.seek(index)
            image.load()
            milliseconds = image.info.get("duration", 0)
            # 10 ms and less is shown for 100 ms, as every browser does
            durations.append(
                Fraction(milliseconds if milliseconds > 10 else 100).limit_denominator(1000) / 1000
            )
    except EOFError:
        source.lost = max(0, getattr(image, "n_frames", len(durations)) - len(durations))
    except (OSError, ValueError, SyntaxError):
        source.lost = max(1, getattr(image, "n_frames", 0) - len(durations))
    if not durations:
        raise UserError(f"{path}: has 0 frames that can be read; {ACCEPTED}")
    # Encoders merge equal frames into one of twice the time; count them as two. A mean over all
    # keeps 1/24 s, which GIF can only store as 40, 40, 50 ms.
    shortest = min(durations)
    counts = [max(1, round(duration / shortest)) for duration in durations]
    source.rate = sum(counts) / sum(durations)

    def load(index: int) -> np.ndarray:
        with _pillow_errors(path):
            image.seek(index)
            return _image_to_rgb(image)

    times = itertools.accumulate(durations, initial=Fraction(0))
    source.pictures = (
        Picture(time, duration, lambda index=index: load(index))
        for index, (time, duration) in enumerate(zip(times, durations, strict=False))
    )
    return source


def _open_stream(path: Path, start: int, stack: contextlib.ExitStack) -> Source:
    """The first true video stream of a container (cover pictures of music files are not)."""
    try:
        # "file:" lets names with a colon or a percent sign be names
        container = stack.enter_context(av.open(f"file:{path}", metadata_errors="replace"))
    except (av.FFmpegError, OSError, ValueError) as error:
        with path.open("rb") as file:
            is_mp4 = file.read(8)[4:] in (b"ftyp", b"mdat", b"wide", b"free")
        if is_mp4 and isinstance(error, av.InvalidDataError):
            raise UserError(
                f"{path}: an mp4 without its index (no moov atom): cut off, or never finished"
            ) from error
        if isinstance(error, av.InvalidDataError | av.EOFError):
            raise UserError(f"{path}: not a video; {ACCEPTED}") from error
        raise UserError(f"{path}: cannot be read: {one_line(error)}; {ACCEPTED}") from error
    if container.format.name in _TEXT_ART_FORMATS:
        raise UserError(f"{path}: not a video; {ACCEPTED}")
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        what = "only sound" if container.streams.audio else "no video stream"
        raise UserError(f"{path}: has {what}; {ACCEPTED}")
    stream = streams[0]
    if stream.codec_context is None:
        raise UserError(
            f"{path}: its video codec is not supported by this build of ffmpeg; {ACCEPTED}"
        )
    stream.thread_type = "AUTO"
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
    source = Source(rate, iter(()))
    source.pictures = _decode(container, stream, source, start, path)
    return source


def _decode(container, stream, source: Source, start: int, path: Path) -> Iterator[Picture]:
    """Decodes by packets; a bad one is counted and passed over, and a neighbour fills its time."""
    step = 1 / source.rate
    # Only mp4's index lists every packet beforehand (less those its edit list cuts away).
    has_index = "mp4" in container.format.name.split(",")
    expected = len(stream.index_entries) if has_index else 0
    origin = None if stream.start_time is None else stream.start_time * stream.time_base
    seeks = start >= _SEEK_FROM and origin is not None
    if seeks:
        try:  # a keyframe at least one second ahead of the first frame asked
            time = origin + max(start * step - 1, 0)
            container.seek(int(time / stream.time_base), stream=stream, backward=True)
        except av.FFmpegError:
            seeks = False
    if not seeks:
        origin = None
    packets = bad = 0
    scaler = VideoReformatter()  # one for all frames: its tables take seconds to make for HDR
    shift, previous = Fraction(0), None
    demuxer = container.demux(stream)
    while True:
        try:
            packet = next(demuxer, None)
        except (av.FFmpegError, OSError):
            break
        if packet is None:
            break
        packets += packet.size > 0
        if packet.is_corrupt:  # cut in the middle: its picture would be smeared
            bad += 1
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError:
            bad += 1
            continue
        for frame in frames:
            if frame.is_corrupt:
                bad += 1
                continue
            time = frame.pts * frame.time_base if frame.pts is not None else None
            if time is None:
                time = (previous + step) if previous is not None else Fraction(origin or 0)
            if previous is not None and time + shift < previous:
                # the clock was set back: go on from here
                shift = previous + step - time
            previous = time = time + shift
            origin = time if origin is None else origin
            duration = Fraction(frame.duration or 0) * frame.time_base
            yield Picture(
                time - origin,
                duration or step,
                lambda frame=frame: _frame_to_rgb(frame, stream, scaler, path),
            )
        source.lost = bad
    source.lost = bad + (0 if seeks else max(0, expected - packets))


# --- pictures to RGB ------------------------------------------------------------------------------


def _frame_to_rgb(frame: av.VideoFrame, stream, scaler: VideoReformatter, path: Path) -> np.ndarray:
    """Any pixel format -> upright `[h w 3]` uint8 with square pixels."""
    conversion = {}
    if frame.colorspace == 2 and frame.height >= 720:
        # untagged: players take BT.709 for HD, BT.601 below
        conversion["src_colorspace"] = Colorspace.ITU709
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        conversion.update(dst_color_trc=ColorTrc.BT709, dst_color_primaries=ColorPrimaries.BT709)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect <= 0 or not Fraction(1, 8) < aspect < 8:
        aspect = Fraction(1)
    width = max(1, round(frame.width * aspect))
    alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
    to = "rgba" if alpha else "rgb24"
    try:
        frame_rgb = scaler.reformat(
            frame, width=width, format=to, interpolation=SCALER, **conversion
        )
    except (av.FFmpegError, ValueError) as error:
        raise UserError(
            f"{path}: its pixels ({frame.format.name}) cannot be brought to RGB: {one_line(error)}"
        ) from error
    array = frame_rgb.to_ndarray()
    return _apply_display_matrix(_over_black(array) if alpha else array, frame)


def _apply_display_matrix(array: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turns and mirrors by the container's matrix (16.16): x' = a x + c y, y' = b x + d y."""
    sides = [s for s in frame.side_data if s.type.name == "DISPLAYMATRIX"]
    if not sides:
        return array
    a, b, _, c, d = np.frombuffer(bytes(sides[0]), np.int32)[:5]
    if abs(int(a)) < abs(int(b)):
        array, flip_x, flip_y = array.swapaxes(0, 1), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return np.ascontiguousarray(array[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _image_to_rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode -> `[h w 3]` uint8."""
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip it at 255
        grey = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        return _over_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _over_black(rgba: np.ndarray) -> np.ndarray:
    """`[h w 4]` -> `[h w 3]`, straight alpha over black."""
    product = rgba[..., :3].astype(np.uint16) * rgba[..., 3:]
    return ((product + 127) // 255).astype(np.uint8)


@contextlib.contextmanager
def _pillow_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    return (
        " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
    )
