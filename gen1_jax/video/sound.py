"""The sound of a video, carried over to another."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from gen1_jax.errors import UserError
from gen1_jax.video.containers import open_container

# What an mp4 may hold and every browser and phone plays; other codecs are written anew as AAC.
_COPIED = ("aac", "mp3")
_BITS = 96_000  # a second, for each channel


class Sound(NamedTuple):
    """A section of the sound of a file.

    Attributes:
      path: the file.
      start: where the section begins, in seconds from the first picture.
      duration: how long it is, in seconds.
    """

    path: Path
    start: Fraction = Fraction(0)
    duration: Fraction | None = None


class Track:
    """The sound of an mp4 that is being written, in step with its pictures."""

    def __init__(self, container: Any, sound: Sound, stack: contextlib.ExitStack):
        """Args: container: the output. sound: what is heard. stack: closes the input."""
        source = stack.enter_context(open_container(sound.path))
        self._container, self._sound = container, sound
        self._input, (video, *_) = source.streams.audio[0], source.streams.video
        if self._input.codec_context is None:
            raise UserError(f"{sound.path}: its sound is of an unknown codec (--no-audio)")
        origin = video.start_time * video.time_base if video.start_time is not None else 0
        self._origin = origin + sound.start
        if sound.start > 0:  # a key frame at least a second before
            at = int(max(0, self._origin - 1) / self._input.time_base)
            source.seek(at, stream=self._input, backward=True)
        self._is_copied = self._input.codec_context.name in _COPIED
        if self._is_copied:
            self._output = container.add_stream_from_template(self._input)
        else:
            rate = self._input.codec_context.sample_rate
            channels = min(2, self._input.codec_context.channels)
            self._output = container.add_stream(
                "aac", rate=rate if rate in _RATES else 48000, bit_rate=_BITS * channels
            )
            self._output.layout = "mono" if channels == 1 else "stereo"
        self._packets = self._copied(source) if self._is_copied else self._encoded(source)
        self._next = next(self._packets, None)

    def write_until(self, time: Fraction) -> None:
        """Writes what is heard before a time, in seconds of the output."""
        while self._next is not None and self._next[0] < time:
            self._container.mux(self._next[1])
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Writes what is left; the section's end is that of the pictures."""
        while self._next is not None:
            self._container.mux(self._next[1])
            self._next = next(self._packets, None)

    def _copied(self, source: Any) -> Iterator[tuple[Fraction, av.Packet]]:
        last = None
        for packet in source.demux(self._input):
            if packet.pts is None or packet.dts is None:
                continue
            time = packet.pts * packet.time_base - self._origin
            if self._sound.duration is not None and time >= self._sound.duration:
                return
            # What begins before the section is decoded, unheard: a packet needs the one before.
            if time <= -2 * (packet.duration or 0) * packet.time_base:
                continue
            shift = round(self._origin / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts if last is None else max(packet.dts - shift, last + 1)
            last, packet.stream = packet.dts, self._output
            yield time, packet

    def _encoded(self, source: Any) -> Iterator[tuple[Fraction, av.Packet]]:
        context = self._output.codec_context
        rate = context.sample_rate
        resampler = av.AudioResampler("fltp", context.layout, rate, frame_size=1024)
        position = None  # of the next sample, in the output

        def encode(parts: list[av.AudioFrame | None]) -> Iterator[tuple[Fraction, av.Packet]]:
            nonlocal position
            for part in parts:
                if part is not None:
                    part.pts, part.time_base = position, Fraction(1, rate)
                    position += part.samples
                for packet in self._output.encode(part):
                    yield packet.pts * packet.time_base, packet

        first, fed = None, 0  # time of the first sample, and how many have followed
        for frame in _decoded(source, self._input):
            time = frame.pts * frame.time_base - self._origin
            if self._sound.duration is not None and time >= self._sound.duration:
                break
            if time < 0:
                continue
            if position is None:
                first, position = time, round(time * rate)
            missing = round((time - first) * frame.sample_rate) - fed
            if missing > _GAP * frame.sample_rate:  # silence, so that what follows stays in step
                yield from encode(resampler.resample(_silence(frame, missing)))
                fed += missing
            elif missing < -_GAP * frame.sample_rate:  # heard twice
                continue
            fed += frame.samples
            frame.pts = None
            yield from encode(resampler.resample(frame))
        if position is not None:
            yield from encode([*resampler.resample(None), None])


_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_GAP = 0.04  # seconds by which time stamps may be off


def _decoded(source: Any, stream: Any) -> Iterator[av.AudioFrame]:
    """Yields what can be decoded; the time of damaged packets is filled with silence."""
    for packet in source.demux(stream):
        with contextlib.suppress(av.FFmpegError):
            yield from (frame for frame in packet.decode() if frame.pts is not None)


def _silence(like: av.AudioFrame, samples: int) -> av.AudioFrame:
    frame = av.AudioFrame(like.format.name, like.layout.name, samples)
    frame.sample_rate = like.sample_rate
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    return frame
