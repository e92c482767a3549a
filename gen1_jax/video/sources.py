"""Inputs opened: folder, animated image, still or container -> pictures with their presentation
times.

The lower half of `video_io`, which documents what is accepted and how each oddity is treated.
Pictures are decoded in order and on demand; turning one into RGB waits until it is known to be
wanted.
"""

import contextlib
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from gen1_jax.errors import UserError, one_line
from gen1_jax.video.pixels import (
    display_matrix,
    frame_to_rgb,
    frame_to_thumbnail,
    image_to_rgb,
    reduced,
)

DEFAULT_FPS = Fraction(24)  # of folders and stills, which state none
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ACCEPTED = "accepted are video files, GIF, WebP, APNG, images and folders of images"

IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # Pillow also "opens" MPEG
_TEXT_ART_FORMATS = ("tty", "bin", "xbin", "adf", "idf")  # ffmpeg draws any .txt as a video
_SEEK_FROM = 256  # frames; below, decoding is cheaper than it is risky to seek


class Unreadable(UserError):
    """An input that cannot be read as a video; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # so that it survives the way back from a worker process
        return Unreadable, (self.reason, str(self))


REASONS = (
    "cannot be opened",  # by the operating system
    "empty file",
    "not a video",
    "no video stream",
    "unfinished file",  # an mp4 without its index
    "unsupported codec",
    "damaged",
)


@dataclass
class Picture:
    """One decoded picture: when it is shown, for how long (seconds), and its pixels on demand.

    `rgb(cover)` is upright `[h w 3]` uint8 RGB; with `cover = (h, w)` it may come scaled down, its
    aspect kept, to where it still covers that size. `thumbnail(side)` is a cheap likeness to
    compare pictures of one source by, its longer side at most `side`: neither turned nor
    colour-managed. `follows_gap` says that pictures before it were lost, where that is not to be
    passed over (`open_file(strict=True)`).
    """

    time: Fraction
    duration: Fraction
    rgb: Callable[..., np.ndarray]
    thumbnail: Callable[[int], np.ndarray]
    follows_gap: bool = False


@dataclass
class Source:
    """An opened input: `lost` grows while `pictures` is consumed."""

    rate: Fraction
    pictures: Iterator[Picture]
    lost: int = 0


def on_grid(source: Source) -> Iterator[tuple[Picture, int, int]]:
    """Puts pictures on the grid of `source.rate`: each with the slots `[begin, end)` it fills.

    A picture fills the slots from its own to the next one's; of several in one slot the last one
    is shown (the others come with begin = end). Before a gap it fills one slot.
    """
    held, slot = None, 0
    for picture in source.pictures:
        exact = picture.time * source.rate
        if held is None:
            slot = max(0, round(exact))
        else:
            # Hysteresis: jitter of the time stamps (milliseconds in Matroska) must not drop or
            # repeat pictures.
            following = slot + 1
            at = following if abs(exact - following) < Fraction(3, 4) else max(slot, round(exact))
            yield held, slot, min(at, following) if picture.follows_gap else at
            slot = at
        held = picture
    if held is not None:
        yield held, slot, slot + max(1, round(held.duration * source.rate))


def natural_key(name: str) -> list[str | int]:
    """Returns the sort key of natural order, in which `2.png` comes before `10.png`."""
    parts = re.split(r"([0-9]+)", name)  # text and digits alternate
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def open_folder(path: Path, size: tuple[int, int] | None) -> Source:
    """A folder of images, in natural order; hidden files and other files are passed over."""

    try:
        files = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
    names = [p.name for p in files if not p.name.startswith(".")]
    if not names:
        raise UserError(
            f"{path}: a folder without images; a folder needs {', '.join(IMAGE_SUFFIXES)} files"
        )
    names.sort(key=natural_key)
    shape = None

    def load(name: str) -> np.ndarray:
        nonlocal shape
        with _pillow_errors(path / name), Image.open(path / name, formats=IMAGE_FORMATS) as image:
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
    return Source(DEFAULT_FPS, pictures)


def open_file(
    path: Path,
    start: int,
    stack: contextlib.ExitStack,
    *,
    strict: bool = False,
    threads: int = 0,
) -> Source:
    """A file, by its content whatever its name.

    Args:
        path: the file.
        start: a frame to seek to, if that saves time.
        stack: closes the file.
        strict: of a damaged stream, only pictures that certainly are whole: after damage, nothing
            up to the next key frame. Otherwise all that can be decoded, smeared or not.
        threads: of the decoder; 0 is one a core.

    Raises:
        Unreadable: not a video.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Unreadable(
            "cannot be opened", f"{path}: cannot be read: {one_line(error)}"
        ) from error
    if size == 0:
        raise Unreadable("empty file", f"{path}: is empty (0 bytes); {ACCEPTED}")
    try:
        image = stack.enter_context(Image.open(path, formats=IMAGE_FORMATS))
    except Image.UnidentifiedImageError:
        return _open_stream(path, start, stack, strict, threads)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = "cannot be opened" if isinstance(error, PermissionError) else "damaged"
        raise Unreadable(reason, f"{path}: cannot be read: {one_line(error)}") from error
    if getattr(image, "is_animated", False) and image.format != "TIFF":
        return _open_animation(path, image)
    with _pillow_errors(path):
        array = image_to_rgb(ImageOps.exif_transpose(image))
    still = _picture_of_image(Fraction(0), 1 / DEFAULT_FPS, lambda: array)
    return Source(DEFAULT_FPS, iter([still]))


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
        raise Unreadable("damaged", f"{path}: has 0 frames that can be read; {ACCEPTED}")
    # Encoders merge equal frames into one of twice the time; count them as two. A mean over all
    # keeps 1/24 s, which GIF can only store as 40, 40, 50 ms.
    shortest = min(durations)
    counts = [max(1, round(duration / shortest)) for duration in durations]
    source.rate = sum(counts) / sum(durations)

    def load(index: int) -> np.ndarray:
        with _pillow_errors(path):
            image.seek(index)
            return image_to_rgb(image)

    times = itertools.accumulate(durations, initial=Fraction(0))
    source.pictures = (
        _picture_of_image(time, duration, functools.partial(load, index))
        for index, (time, duration) in enumerate(zip(times, durations, strict=False))
    )
    return source


def _open_stream(
    path: Path, start: int, stack: contextlib.ExitStack, strict: bool, threads: int
) -> Source:
    """The first true video stream of a container (cover pictures of music files are not)."""
    try:
        # "file:" lets names with a colon or a percent sign be names
        container = stack.enter_context(av.open(f"file:{path}", metadata_errors="replace"))
    except (av.FFmpegError, OSError, ValueError) as error:
        with path.open("rb") as file:
            is_mp4 = file.read(8)[4:] in (b"ftyp", b"mdat", b"wide", b"free")
        if is_mp4 and isinstance(error, av.InvalidDataError):
            raise Unreadable(
                "unfinished file",
                f"{path}: an mp4 without its index (no moov atom): cut off, or never finished",
            ) from error
        if isinstance(error, av.InvalidDataError | av.EOFError):
            raise Unreadable("not a video", f"{path}: not a video; {ACCEPTED}") from error
        reason = "cannot be opened" if isinstance(error, PermissionError) else "not a video"
        raise Unreadable(
            reason, f"{path}: cannot be read: {one_line(error)}; {ACCEPTED}"
        ) from error
    if container.format.name in _TEXT_ART_FORMATS:
        raise Unreadable("not a video", f"{path}: not a video; {ACCEPTED}")
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        what = "only sound" if container.streams.audio else "no video stream"
        raise Unreadable("no video stream", f"{path}: has {what}; {ACCEPTED}")
    stream = streams[0]
    if stream.codec_context is None:
        raise Unreadable(
            "unsupported codec",
            f"{path}: its video codec is not supported by this build of ffmpeg; {ACCEPTED}",
        )
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = threads
    if strict:  # errors that a decoder would else conceal
        stream.codec_context.options = {"err_detect": "explode"}
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
    source = Source(rate, iter(()))
    source.pictures = _decode(container, stream, source, start, path, strict)
    return source


def _decode(
    container, stream, source: Source, start: int, path: Path, strict: bool
) -> Iterator[Picture]:
    """Decodes by packets; a bad one is counted and passed over, and a neighbour fills its time.

    Strictly, all is passed over from a bad packet to the next key frame.
    """
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
    # One a size, for all frames: its tables take seconds to make for HDR.
    scalers = defaultdict(VideoReformatter)
    shift, previous, turn = Fraction(0), None, None
    demuxer = container.demux(stream)
    gap = waiting = False  # strictly: pictures were lost, and a key frame is waited for
    clean = False  # a picture has come since the start, or since the key frame that was waited for
    while True:
        try:
            packet = next(demuxer, None)
        except (av.FFmpegError, OSError):
            break
        if packet is None:
            break
        packets += packet.size > 0
        if waiting and packet.size and not packet.is_keyframe:
            bad += 1
            continue
        try:
            # cut in the middle, a packet's picture would be smeared
            frames = None if packet.is_corrupt else packet.decode()
        except av.FFmpegError:
            frames = None
        waiting = False
        for frame in (None,) if frames is None else frames:
            if frame is None or frame.is_corrupt:
                bad += 1
                if strict:
                    gap = True
                    # Those that lead an open group of pictures lack what they refer to; the key
                    # frame that they lead is whole.
                    waiting = frame is None or clean
                if waiting:
                    break
                continue
            time = frame.pts * frame.time_base if frame.pts is not None else None
            if time is None:
                time = (previous + step) if previous is not None else Fraction(origin or 0)
            if previous is not None and time + shift < previous:
                # the clock was set back: go on from here
                shift = previous + step - time
            previous = time = time + shift
            if origin is None:  # what was lost before it took its time
                at_start = not gap or stream.start_time is None
                origin = time if at_start else stream.start_time * stream.time_base
            # Once: a frame whose side data were looked at is freed only by the collector of cycles.
            turn = display_matrix(frame) if turn is None else turn
            duration = Fraction(frame.duration or 0) * frame.time_base
            yield Picture(
                time - origin,
                duration or step,
                functools.partial(frame_to_rgb, frame, stream, scalers, turn, path),
                functools.partial(frame_to_thumbnail, frame, scalers),
                gap,
            )
            gap, clean = False, True
        if waiting:
            stream.codec_context.flush_buffers()
            clean = False
        source.lost = bad
    source.lost = bad + (0 if seeks else max(0, expected - packets))


def _picture_of_image(time: Fraction, duration: Fraction, load: Callable) -> Picture:
    """A picture that `load()` reads."""
    load = functools.cache(load)

    def thumbnail(side: int) -> np.ndarray:
        image = Image.fromarray(load())
        image.thumbnail((side, side), Image.Resampling.BOX)
        return np.asarray(image)

    return Picture(time, duration, lambda cover=None: reduced(load(), cover), thumbnail)


@contextlib.contextmanager
def _pillow_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Unreadable(
            "damaged", f"{path}: cannot be read as an image: {one_line(error)}"
        ) from error
