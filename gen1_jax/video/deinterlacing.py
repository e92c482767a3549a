"""Makes whole pictures of interlaced ones, whose odd and even lines show two moments."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av


class Deinterlacer:
    """Passes frames on, and sends them through ffmpeg's `bwdif` from the first interlaced one on.

    A frame comes out when the next one is put in, because the filter looks at both neighbours.
    Frames that do not say that they are interlaced are not changed.

    Args:
      threads: number of the filter's threads; 0 means one a core.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._graph: av.filter.Graph | None = None
        self._form: tuple = ()
        self._notes: deque = deque()  # of the frames inside the filter

    def put(self, frame: av.VideoFrame, note: object) -> Iterator[tuple[av.VideoFrame, object]]:
        """Adds a frame; yields those that are finished, each with the note given beside it."""
        form = (frame.width, frame.height, frame.format.name, frame.time_base)
        if self._graph is not None and form != self._form:
            yield from self.flush()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame, note
                return
            self._start(frame, form)
        self._notes.append(note)
        self._graph.push(frame)
        yield from self._finished()

    def flush(self) -> Iterator[tuple[av.VideoFrame, object]]:
        """Yields what is left; the next frame has no neighbour before it."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._finished()
            self._graph = None
            self._notes.clear()

    def _start(self, frame: av.VideoFrame, form: tuple) -> None:
        graph = av.filter.Graph()
        graph.threads = self._threads
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
            f":time_base={frame.time_base}:colorspace={int(frame.colorspace)}"
            f":range={int(frame.color_range)}",
        )
        # One picture for a frame, not one for each of its two fields: the rate stays.
        bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        self._graph, self._form = graph, form

    def _finished(self) -> Iterator[tuple[av.VideoFrame, object]]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield frame, self._notes.popleft()
