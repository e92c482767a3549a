"""Opens inputs (folder, animated image, still, container) as pictures with presentation times.

Pictures are decoded in order and on demand. A picture is converted to RGB only when its pixels are
asked for.
"""

import contextlib
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
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
from gen1_jax.video.sources import (
    ACCEPTED,
    DEFAULT_FPS,
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    Picture,
    Source,
    Unreadable,
    natural_key,
)

_TEXT_ART_FORMATS = ("tty", "bin", "xbin", "adf", "idf")  # ffmpeg draws any .txt as a video
_SEEK_FROM = 256  # first frame from which seeking, which may go wrong, saves enough decoding


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
        with pillow_errors(path / name), Image.open(path / name, formats=IMAGE_FORMATS) as image:
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
    if is_animated(image):
        return _open_animation(path, image)
    with pillow_errors(path):
        array = image_to_rgb(ImageOps.exif_transpose(image))
    still = _picture_of_image(Fraction(0), 1 / DEFAULT_FPS, lambda: array)
    return Source(DEFAULT_FPS, iter([still]), count=1, count_is_exact=True)


def is_animated(image: Image.Image) -> bool:
    """Returns whether an image is shown as a film; the pages of a TIFF are not."""
    return getattr(image, "is_animated", False) and image.format != "TIFF"


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
    source = Source(rate, iter(()), has_sound=bool(container.streams.audio))
    source.count, source.count_is_exact = _count_slots(container, stream, rate)
    source.pictures = _decode(container, stream, source, start, path, strict)
    return source


def _count_slots(container, stream, rate: Fraction) -> tuple[int | None, bool]:
    """Returns how many slots of `rate` a stream fills, and whether the number is exact.

    Nothing is decoded. The number follows from the stated duration. It is exact where the index,
    which lists every picture, says the same.
    """
    duration = None
    if stream.duration is not None:
        duration = stream.duration * stream.time_base
    elif container.duration is not None:
        duration = Fraction(container.duration, av.time_base)
    by_duration = round(duration * rate) if duration is not None and duration > 0 else None
    count = by_duration or stream.frames or None
    return count, count is not None and count == stream.frames


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
def pillow_errors(path: Path) -> Iterator[None]:
    """Turns Pillow's errors inside the block into `Unreadable`, which names the file."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Unreadable(
            "damaged", f"{path}: cannot be read as an image: {one_line(error)}"
        ) from error
