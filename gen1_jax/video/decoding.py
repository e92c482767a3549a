"""Decodes the first video stream of a container: pictures with presentation times."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from gen1_jax.video.containers import MAX_PIXELS, open_container
from gen1_jax.video.deinterlacing import Deinterlacer
from gen1_jax.video.pixels import display_matrix, frame_to_rgb, frame_to_thumbnail
from gen1_jax.video.sources import ACCEPTED, DEFAULT_FPS, Picture, Source, Unreadable
from gen1_jax.video.timing import HEAD, agree, leap_after, rate_of

_SEEK_FROM = 256  # first frame from which seeking, which may go wrong, saves enough decoding
# ffmpeg's own decoders of these leave out the transparency, which WebM keeps beside the pictures.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def open_stream(
    path: Path, start: int, stack: contextlib.ExitStack, strict: bool, threads: int
) -> Source:
    """Opens a container; cover pictures of music files are skipped. See `opening.open_file`."""
    container = stack.enter_context(open_container(path))
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
    if stream.width * stream.height > MAX_PIXELS:
        raise Unreadable(
            "too many pixels",
            f"{path}: {stream.height}x{stream.width}; up to {MAX_PIXELS:,} pixels are accepted",
        )
    decoder = _decoder(stream, path)
    decoder.thread_type = "AUTO"
    decoder.thread_count = threads
    options = {"max_pixels": str(MAX_PIXELS)}
    if strict:  # the decoder then reports errors that it would conceal
        options["err_detect"] = "explode"
    decoder.options = options
    packets, rate, slots = _time(container, stream, path)
    source = Source(rate, iter(()), has_sound=bool(container.streams.audio))
    source.count, source.count_is_exact = slots or _count_slots(container, stream, rate)
    source.pictures = _Decoding(container, stream, decoder, source, path, strict, threads).pictures(
        packets, start
    )
    return source


def _decoder(stream: Any, path: Path) -> Any:
    """Returns the decoder of a stream."""
    context = stream.codec_context
    transparent = {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") == "1"
    if not transparent or context.name not in _WITH_ALPHA:
        return context
    try:
        own = av.CodecContext.create(_WITH_ALPHA[context.name], "r")
    except av.codec.codec.UnknownCodecError as error:
        raise Unreadable(
            "unsupported codec",
            f"{path}: transparent {context.name.upper()}, which this build of ffmpeg reads without "
            f"its transparency; {ACCEPTED}",
        ) from error
    if context.extradata:
        own.extradata = context.extradata
    return own


# ---- rate


def _time(
    container: Any, stream: Any, path: Path
) -> tuple[Iterator[av.Packet], Fraction, tuple[int, bool] | None]:
    """Returns a stream's packets, its rate, and, if its clock leaps, its number of pictures.

    The rate is the one that the file states, unless its time stamps say another: a browser's
    recording claims 1000 pictures a second, and a clock that leaps makes the mean rate tiny.
    """
    claimed = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
    packets = _packets(container, stream)
    if has_index(container):
        # The mean of an index is right if the clock never leaps; then it is near the usual step's.
        if stream.base_rate and agree(claimed, stream.base_rate):
            return packets, claimed, None
        times = [entry.timestamp * stream.time_base for entry in stream.index_entries]
        measured = rate_of(times)
        if agree(claimed, measured):
            return packets, claimed, None
        return packets, measured, (len(times), False)
    head = list(itertools.islice(packets, HEAD))
    packets = itertools.chain(head, packets)
    times = sorted(p.pts * p.time_base for p in head if p.pts is not None)
    if agree(claimed, rate_of(times[: HEAD * 3 // 4])):  # the last may wait for others among them
        return packets, claimed, None
    with open_container(path) as whole:
        same = whole.streams[stream.index]
        measured = rate_of(
            [p.pts * p.time_base for p in _packets(whole, same) if p.pts is not None]
        )
    return packets, claimed if agree(claimed, measured) else measured, None


def _packets(container: Any, stream: Any) -> Iterator[av.Packet]:
    """Yields a stream's packets up to its end, or to where the file cannot be read any further."""
    with contextlib.suppress(av.FFmpegError, OSError):
        yield from container.demux(stream)


def has_index(container: Any) -> bool:
    """Returns whether a container lists its packets beforehand, which only mp4 does.

    Packets that its edit list cuts away are not listed.
    """
    return "mp4" in container.format.name.split(",")


def _count_slots(container: Any, stream: Any, rate: Fraction) -> tuple[int | None, bool]:
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


# ---- pictures


class _Decoding:
    """Decodes packet by packet; counts and skips bad ones, whose time a neighbour fills.

    If `strict`, it skips everything from a bad packet to the next key frame.
    """

    def __init__(
        self,
        container: Any,
        stream: Any,
        decoder: Any,
        source: Source,
        path: Path,
        strict: bool,
        threads: int,
    ):
        self._container, self._stream, self._decoder = container, stream, decoder
        self._source, self._path, self._strict = source, path, strict
        self._step = 1 / source.rate
        self._deinterlacer = Deinterlacer(threads)
        # One scaler for each size serves all frames, because making one takes time.
        self._scalers: defaultdict = defaultdict(VideoReformatter)
        self._turn: tuple[bool, bool, bool] | None = None
        self._origin: Fraction | None = None  # time of the first picture, in the stream
        self._previous: Fraction | None = None  # time of the last one, after `_shift`
        self._shift = Fraction(0)

    def pictures(self, packets: Iterator[av.Packet], start: int) -> Iterator[Picture]:
        """Yields the pictures from a key frame before the picture `start` on."""
        stream, source, strict = self._stream, self._source, self._strict
        expected = len(stream.index_entries) if has_index(self._container) else 0
        sought = self._seek(start)
        if sought is not None:
            packets, expected = sought, 0
        count = bad = 0
        gap = waiting = False  # strict: pictures were lost; decoding waits for a key frame
        clean = False  # whether a picture has come since the start, or since the awaited key frame
        for packet in packets:
            count += packet.size > 0
            if waiting and packet.size and not packet.is_keyframe:
                bad += 1
                continue
            try:
                # The picture of a packet that is cut off would be smeared.
                frames = None if packet.is_corrupt else self._decoder.decode(packet)
            except MemoryError:  # PyAV's is an FFmpegError too
                raise
            except av.FFmpegError:
                frames = None
            waiting = False
            for frame in (None,) if frames is None else frames:
                if frame is None or frame.is_corrupt:
                    bad += 1
                    if strict:
                        gap = True
                        # Leading pictures of an open group refer to lost ones; its key frame is
                        # whole.
                        waiting = frame is None or clean
                    if waiting:
                        break
                    continue
                if gap:
                    yield from self._finished(self._deinterlacer.flush())
                yield from self._finished(self._deinterlacer.put(frame, gap))
                gap, clean = False, True
            if waiting:
                self._decoder.flush_buffers()
                clean = False
            source.lost = bad
        yield from self._finished(self._deinterlacer.flush())
        source.lost = bad + max(0, expected - count)

    def _seek(self, start: int) -> Iterator[av.Packet] | None:
        """Goes to a key frame at least one second before the picture `start`, if that is far."""
        stream = self._stream
        if start < _SEEK_FROM or stream.start_time is None:
            return None
        origin = stream.start_time * stream.time_base
        time = origin + max(start * self._step - 1, 0)
        try:
            self._container.seek(int(time / stream.time_base), stream=stream, backward=True)
        except av.FFmpegError:
            return None
        self._origin = origin
        return _packets(self._container, stream)

    def _finished(self, frames: Iterator[tuple[av.VideoFrame, Any]]) -> Iterator[Picture]:
        for frame, gap in frames:
            yield self._picture(frame, gap)

    def _picture(self, frame: av.VideoFrame, gap: bool) -> Picture:
        stream, step = self._stream, self._step
        time = frame.pts * frame.time_base if frame.pts is not None else None
        if time is None:
            time = Fraction(self._origin or 0) if self._previous is None else self._previous + step
        elif self._previous is not None:
            ahead = time + self._shift - self._previous
            if not 0 <= ahead <= leap_after(float(step)):
                # The clock was set anew: continue from the previous picture.
                self._shift += step - ahead
        self._previous = time = time + self._shift
        if self._origin is None:  # pictures lost before this one keep their time
            at_start = not gap or stream.start_time is None
            self._origin = time if at_start else stream.start_time * stream.time_base
        # Read once only: a frame whose side data were read waits for the garbage collector.
        self._turn = display_matrix(frame) if self._turn is None else self._turn
        duration = Fraction(frame.duration or 0) * frame.time_base
        return Picture(
            time - self._origin,
            min(duration, Fraction(leap_after(float(step)))) or step,
            functools.partial(frame_to_rgb, frame, stream, self._scalers, self._turn, self._path),
            functools.partial(frame_to_thumbnail, frame, self._scalers),
            gap,
        )
