"""Opens inputs (folder, animated image, still, container) as pictures with presentation times.

`gen1_jax.video.io` is built on this module and documents which inputs are accepted and how odd ones
are treated. Pictures are decoded in order and on demand; a picture is converted to RGB only when
its pixels are asked for.
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

DEFAULT_FPS = Fraction(24)  # of folders and stills, which state no rate
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ACCEPTED = "accepted are video files, GIF, WebP, APNG, images and folders of images"

# A list, because Pillow would also "open" an MPEG.
IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
_TEXT_ART_FORMATS = ("tty", "bin", "xbin", "adf", "idf")  # ffmpeg draws any .txt as a video
_SEEK_FROM = 256  # first frame from which seeking, which may go wrong, saves enough decoding


class Unreadable(UserError):
    """An input cannot be read as a video; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # worker processes pickle the error to send it back
        return Unreadable, (self.reason, str(self))


REASONS = (
    "cannot be opened", "empty file", "not a video", "no video stream",
    "unfinished file",  # an mp4 without its index
    "unsupported codec", "damaged",
)  # fmt: skip


@dataclass
class Picture:
    """One decoded picture, whose pixels are converted on demand.

    Attributes:
      time: when it is shown, in seconds.
      duration: how long it is shown, in seconds.
      rgb: `rgb(cover=None)` returns upright `[h w 3]` uint8 RGB. With `cover = (h, w)` the picture
        may come scaled down, with its aspect kept, to the least size that covers it.
      thumbnail: `thumbnail(side)` returns a cheap small copy whose longer side is at most `side`,
        to compare pictures of one source. It is neither turned upright nor colour-managed.
      follows_gap: whether pictures just before it were lost; set only by `open_file(strict=True)`.
    """

    time: Fraction
    duration: Fraction
    rgb: Callable[..., np.ndarray]
    thumbnail: Callable[[int], np.ndarray]
    follows_gap: bool = False


@dataclass
class Source:
    """An opened input.

    Attributes:
      rate: pictures per second.
      pictures: the pictures in order of presentation.
      lost: number of damaged pictures so far; it grows while `pictures` is consumed.
    """

    rate: Fraction
    pictures: Iterator[Picture]
    lost: int = 0


def on_grid(source: Source) -> Iterator[tuple[Picture, int, int]]:
    """Yields each picture with the slots `[begin, end)` that it fills on the grid of `source.rate`.

    A picture fills the slots from its own up to the next picture's. If several pictures fall into
    one slot, the last is shown, and the others have begin = end. A picture before a gap fills one.
    """
    held, slot = None, 0
    for picture in source.pictures:
        exact = picture.time * source.rate
        if held is None:
            slot = max(0, round(exact))
        else:
            # Hysteresis keeps jitter of the time stamps (whole milliseconds in Matroska) from
            # dropping or repeating pictures.
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
    """Opens a folder of images in natural order; hidden files and other files are skipped.

    All images must have one size, unless the caller scales them to `size`.

    Raises:
      UserError: the folder cannot be read or holds no images; while a picture is read, its image is
        damaged or has another size.
    """

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
        source.lost = max(0, getattr(image, "n_frames", len(durations)) - len(durations))
    except (OSError, ValueError, SyntaxError):
        source.lost = max(1, getattr(image, "n_frames", 0) - len(durations))
    if not durations:
        raise Unreadable("damaged", f"{path}: has 0 frames that can be read; {ACCEPTED}")
    # Encoders merge two equal frames into one of twice the time, which counts as two here. The mean
    # over all frames recovers 1/24 s, which GIF can only store as 40, 40, 50 ms.
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
    """Opens the first video stream of a container; cover pictures of music files are skipped."""
    try:
        # With "file:" ffmpeg does not interpret a colon or a percent sign in the name.
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
    if strict:  # the decoder then reports errors that it would conceal
        stream.codec_context.options = {"err_detect": "explode"}
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
    source = Source(rate, iter(()))
    source.pictures = _decode(container, stream, source, start, path, strict)
    return source


def _decode(
    container, stream, source: Source, start: int, path: Path, strict: bool
) -> Iterator[Picture]:
    """Decodes packet by packet; counts and skips bad ones, whose time a neighbour fills.

    If `strict`, it skips everything from a bad packet to the next key frame.
    """
    step = 1 / source.rate
    # Only mp4's index lists every packet beforehand, except those that its edit list cuts away.
    has_index = "mp4" in container.format.name.split(",")
    expected = len(stream.index_entries) if has_index else 0
    origin = None if stream.start_time is None else stream.start_time * stream.time_base
    seeks = start >= _SEEK_FROM and origin is not None
    if seeks:
        try:  # to a key frame at least one second before the first wanted frame
            time = origin + max(start * step - 1, 0)
            container.seek(int(time / stream.time_base), stream=stream, backward=True)
        except av.FFmpegError:
            seeks = False
    if not seeks:
        origin = None
    packets = bad = 0
    # One scaler for each size serves all frames, because making one takes seconds for HDR.
    scalers = defaultdict(VideoReformatter)
    shift, previous, turn = Fraction(0), None, None
    demuxer = container.demux(stream)
    gap = waiting = False  # strict: pictures were lost; decoding waits for a key frame
    clean = False  # whether a picture has come since the start, or since the awaited key frame
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
            # The picture of a packet that is cut off would be smeared.
            frames = None if packet.is_corrupt else packet.decode()
        except av.FFmpegError:
            frames = None
        waiting = False
        for frame in (None,) if frames is None else frames:
            if frame is None or frame.is_corrupt:
                bad += 1
                if strict:
                    gap = True
                    # Leading pictures of an open group refer to lost ones; its key frame is whole.
                    waiting = frame is None or clean
                if waiting:
                    break
                continue
            time = frame.pts * frame.time_base if frame.pts is not None else None
            if time is None:
                time = (previous + step) if previous is not None else Fraction(origin or 0)
            if previous is not None and time + shift < previous:
                # The clock was set back: continue from the previous picture.
                shift = previous + step - time
            previous = time = time + shift
            if origin is None:  # pictures lost before this one keep their time
                at_start = not gap or stream.start_time is None
                origin = time if at_start else stream.start_time * stream.time_base
            # Read once only: a frame whose side data were read waits for the garbage collector.
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
    """Returns a picture whose pixels `load()` reads."""
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
