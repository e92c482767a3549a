"""The videos of a study's page: H.264 that browsers play, under names that tell nothing."""

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.video.containers import open_container
from gen1_jax.video.io import read_video, write_video

_LETTERS = 12  # of a digest: 48 bits


class Videos:
    """A folder of videos, each named by a digest of its content.

    A video that browsers play keeps its pictures bit by bit, without its sound and its description,
    which may name who made it. Others are encoded anew.

    Args:
      folder: where to put them; it is made.
      most_bytes: of all videos.

    Attributes:
      size: of all videos, in bytes.
    """

    def __init__(self, folder: Path, most_bytes: float):
        folder.mkdir(parents=True)
        self._folder, self._most = folder, most_bytes
        self._names: dict[Path, str] = {}
        self._looks: dict[str, dict[str, Any]] = {}
        self.size = 0

    def add(self, path: Path, fps: Fraction | float = 8) -> str:
        """Returns the name of a video in the folder, where it is put if it is new.

        Args:
          path: a video, or a folder of pictures.
          fps: frames per second, for what has no rate of its own.

        Raises:
          UserError: it cannot be read, or the folder is full.
        """
        if path not in self._names:
            part = self._folder / "part.mp4"
            if not _copy(path, part):
                clip = read_video(path)
                write_video(part, clip.frames, clip.fps or fps, overwrite=True)
            self._names[path] = self._keep(part)
        return self._names[path]

    def add_noise_like(self, name: str, seed: int) -> str:
        """Returns the name of a video of coarse noise, as long and as large as another one."""
        clip = read_video(self._folder / name)
        n, h, w = clip.frames.shape[:3]
        cell = max(2, min(h, w) // 32)
        shape = (n, -(-h // cell), -(-w // cell), 3)
        grain = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        part = self._folder / "part.mp4"
        frames = grain.repeat(cell, 1).repeat(cell, 2)[:, :h, :w]
        write_video(part, frames, clip.fps, overwrite=True)
        return self._keep(part)

    def look(self, name: str) -> dict[str, Any]:
        """Returns what a participant sees of a video at once: its `seconds` and its `shape`."""
        if name not in self._looks:
            with open_container(self._folder / name) as container:
                stream = container.streams.video[0]
                seconds = float((stream.duration or 0) * (stream.time_base or 0))
                shape = f"{stream.width / stream.height:.2f}:1"
            self._looks[name] = {"seconds": round(seconds, 1), "shape": shape}
        return self._looks[name]

    def rate(self, name: str) -> Fraction:
        """Returns the frames per second of a video of the folder."""
        with open_container(self._folder / name) as container:
            return container.streams.video[0].average_rate

    def _keep(self, part: Path) -> str:
        content = part.read_bytes()
        name = f"{digest(content)}.mp4"
        if (self._folder / name).exists():
            part.unlink()
            return name
        part.rename(self._folder / name)
        self.size += len(content)
        if self.size > self._most:
            raise UserError(too_large(self._most))
        return name


def digest(content: bytes) -> str:
    """Returns the letters that name a content."""
    return hashlib.sha256(content).hexdigest()[:_LETTERS]


def too_large(most_bytes: float) -> str:
    """Returns the line of a page that is larger than accepted."""
    return (
        f"the page and its videos are larger than {most_bytes / 1e6:g} MB; --most-mb allows more, "
        "or choose fewer --methods"
    )


def _copy(path: Path, target: Path) -> bool:
    """Copies the pictures of a video that browsers play, undecoded; returns whether it is one."""
    if path.is_dir():
        return False
    try:
        with open_container(path) as source:
            if not source.streams.video or "mp4" not in source.format.name:
                return False
            stream = source.streams.video[0]
            if stream.codec_context.name != "h264" or stream.pix_fmt != "yuv420p":
                return False
            with av.open(f"file:{target}", "w", options={"movflags": "faststart"}) as copy:
                own = copy.add_stream_from_template(stream)
                own.metadata.clear()
                for packet in source.demux(stream):
                    if packet.dts is not None:  # the last one is empty
                        packet.stream = own
                        copy.mux(packet)
    except (OSError, av.FFmpegError):  # reading says it in words
        return False
    return True
