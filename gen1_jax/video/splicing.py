"""Replaces a section of a written video and leaves all other frames as they are, bit for bit.

An mp4 of `write_video` is a row of groups of at most 12 frames, each of which is decoded alone. The
groups outside the section are copied without decoding. Frames of the other formats are written
again without loss.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import replacing
from gen1_jax.video.animations import write_gif, write_webp
from gen1_jax.video.containers import open_bytes, open_container
from gen1_jax.video.io import Video, read_video
from gen1_jax.video.paths import as_path
from gen1_jax.video.streams import Stream
from gen1_jax.video.tags import add_xmp, read_tags
from gen1_jax.video.writing import (
    MP4_OPTIONS,
    check_output,
    even_sides,
    open_mp4,
    write_h264,
    write_pictures,
)


def widen_section(path: str | os.PathLike, first: int, stop: int) -> tuple[int, int]:
    """Returns the least section that holds frames `first` to `stop` and that can be replaced.

    Args:
      path: a video that `write_video` made.
      first: index of the section's first frame.
      stop: index after its last frame.

    Raises:
      UserError: the path is no such video, or the section does not lie in it.
    """
    path = as_path(path, "a path of a video")
    if path.suffix.lower() == ".mp4":
        times, starts = _groups(path)
        count = len(times)
    else:
        count = len(read_video(path))
        starts = range(count)
    if not 0 <= first < stop <= count:
        raise UserError(f"{path}: frames {first} to {stop - 1} of {count}; 0 to {count - 1} exist")
    widened = max(start for start in starts if start <= first)
    return widened, min((start for start in starts if start >= stop), default=count)


def splice_video(
    old: str | os.PathLike,
    new: str | os.PathLike,
    section: tuple[int, int],
    frames: np.ndarray | Stream,
    *,
    overwrite: bool = False,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes a video in which a section has new frames, completely or not at all.

    Args:
      old: a video that `write_video` made. Its sound is copied.
      new: the video to write, in the same format; it may be `old`.
      section: first frame and the one after the last, as `widen_section` returns them.
      frames: the section's frames `[n h w 3]` uint8, of the same size as those of `old`.
      overwrite: whether to replace an existing output.
      tags: texts by name, in place of those that `old` has.

    Raises:
      UserError: the files have different formats, the section or the frames do not fit, an mp4 was
        not made by this encoder, or the disk is full.
    """
    old, new = as_path(old, "a path of a video"), check_output(new, overwrite)
    first, stop = section
    if old.suffix.lower() != new.suffix.lower():
        raise UserError(f"{new}: a part of {old} is replaced in the same format only")
    if widen_section(old, first, stop) != (first, stop):
        raise UserError(f"{old}: frames {first} to {stop - 1} cannot be replaced alone")
    frames = frames if isinstance(frames, Stream) else Stream.of(frames)
    if len(frames) != stop - first:
        raise UserError(f"{old}: {len(frames)} new frames for {stop - first}")
    tags = read_tags(old) if tags is None else tags
    if old.suffix.lower() == ".mp4":
        with replacing(new, failures=(OSError, av.FFmpegError)) as part:
            _splice_mp4(old, part, section, frames, tags)
            add_xmp(part, tags)
        return
    video = read_video(old)
    joined = np.concatenate([video.frames[:first], _array(old, frames, video), video.frames[stop:]])
    if old.is_dir():
        write_pictures(new, joined, overwrite=overwrite, tags=tags)
        return
    with replacing(new) as part:
        if old.suffix.lower() == ".webp":
            write_webp(part, joined, video.fps, tags, lossless=True)
        else:
            exact = np.ones(len(joined), bool)
            exact[first:stop] = False
            write_gif(part, joined, video.fps, tags, exact)


def _array(path: Path, frames: Stream, video: Video) -> np.ndarray:
    array = frames.array()
    if array.shape[1:] != video.frames.shape[1:]:
        raise UserError(_other_size(path, array.shape[1:3], video.frames.shape[1:3]))
    return array


def _other_size(path: Path, given: tuple[int, int], own: tuple[int, int]) -> str:
    return f"{path}: new frames are {given[0]}x{given[1]}, its own {own[0]}x{own[1]}"


# ---- mp4


def _groups(path: Path) -> tuple[list[int], list[int]]:
    """Returns the time of each frame, and the index of the first one of each group."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
    packets.sort()
    return [pts for pts, _ in packets], [i for i, (_, is_key) in enumerate(packets) if is_key]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        with open_container(path) as container:
            if not container.streams.video:
                raise UserError(f"{path}: has no pictures")
            yield container
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error


def _splice_mp4(
    old: Path,
    new: Path,
    section: tuple[int, int],
    frames: Stream,
    tags: Mapping[str, str],
) -> None:
    times, _ = _groups(old)
    begin, end = times[section[0]], (*times, None)[section[1]]

    def is_replaced(packet: av.Packet) -> bool:
        return begin <= packet.pts and (not end or packet.pts < end)

    with _opened(old) as source:
        packets = [p for p in source.demux(source.streams.video[0]) if p.pts is not None]
        order = [p.dts for p in packets if is_replaced(p)]
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_opened(old))
        video = source.streams.video[0]
        file = stack.enter_context(tempfile.TemporaryFile())
        write_h264(file, map(even_sides, frames), video.average_rate, options=MP4_OPTIONS)
        file.seek(0)
        made = stack.enter_context(open_bytes(file, "mp4"))
        own = made.streams.video[0]
        size, given = (video.height, video.width), (own.height, own.width)
        if size != given:
            raise UserError(_other_size(old, given, size))
        if own.codec_context.extradata != video.codec_context.extradata:
            raise UserError(
                f"{old}: is H.264 of other settings than this program's; a part of it cannot be "
                "replaced"
            )
        output = stack.enter_context(open_mp4(f"file:{new}", faststart=True, tags=tags))
        streams = [*source.streams.video, *source.streams.audio]
        places = {stream.index: output.add_stream_from_template(stream) for stream in streams}
        is_there = False
        for packet in source.demux(streams):
            if packet.pts is None:
                continue
            is_new = packet.stream is video and is_replaced(packet)
            if is_new and not is_there:
                for each in _shifted(made, begin, order, video):
                    each.stream = places[video.index]
                    output.mux(each)
            is_there |= is_new
            if not is_new:
                packet.stream = places[packet.stream.index]
                output.mux(packet)


def _shifted(
    made: InputContainer, begin: int, order: Sequence[int], video: VideoStream
) -> Iterator[av.Packet]:
    """Yields the new pictures at the times of those that they replace.

    They are decoded at those pictures' times, too: a short group has fewer frames out of order, and
    would be decoded later, which leaves a gap before it.
    """
    packets = (packet for packet in made.demux(made.streams.video[0]) if packet.pts is not None)
    for packet, dts in zip(packets, order, strict=True):
        scale = packet.time_base / video.time_base
        packet.pts, packet.dts = begin + round(packet.pts * scale), dts
        packet.duration, packet.time_base = round(packet.duration * scale), video.time_base
        yield packet
