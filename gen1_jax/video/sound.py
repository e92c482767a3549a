"""The sound of a video, carried over to another."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

# What an mp4 may hold and every player knows; other codecs are written anew as AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "alac")


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
        source = stack.enter_context(av.open(f"file:{sound.path}", metadata_errors="replace"))
        self._container, self._sound = container, sound
        self._input, (video, *_) = source.streams.audio[0], source.streams.video
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
            self._output = container.add_stream("aac", rate=rate if rate in _RATES else 48000)
            self._output.layout = "mono" if self._input.codec_context.channels == 1 else "stereo"
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
            if time < 0:
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

        for frame in source.decode(self._input):
            if frame.pts is None:
                continue
            time = frame.pts * frame.time_base - self._origin
            if self._sound.duration is not None and time >= self._sound.duration:
                break
            if time < 0:
                continue
            position = round(time * rate) if position is None else position
            frame.pts = None
            yield from encode(resampler.resample(frame))
        if position is not None:
            yield from encode([*resampler.resample(None), None])


_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
