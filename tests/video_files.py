"""Makes clips for the tests of video, encoded in ways that `write_video` never does."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.video.io import read_video


def clip(n: int = 8, h: int = 48, w: int = 64) -> np.ndarray:
    """Returns `[n h w 3]` uint8 without symmetry: a bright square moves right over a gradient."""
    y, x = np.mgrid[:h, :w]
    frames = np.stack([np.stack([x * 255 // w, y * 255 // h, 0 * x + 90], -1)] * n).astype(np.uint8)
    for i in range(n):
        frames[i, 4:16, 4 + 3 * i : 16 + 3 * i] = (250, 240, 20)
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 10,
    source: str = "rgb24",
    ticks: list[int] | None = None,
    setup=lambda stream: None,
    options: dict | None = None,
) -> Path:
    """Encodes with PyAV what `write_video` never writes; `ticks` are times in 1/600 s."""
    base = Fraction(1, fps) if ticks is None else Fraction(1, 600)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        stream.codec_context.time_base = stream.time_base = base
        setup(stream)
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format=source)
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = (index if ticks is None else ticks[index]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def fails(path: Path, *parts: str, reason: str | None = None, **options: object) -> None:
    """Checks that reading ends in a one-line UserError that names the path and holds `parts`.

    Args:
      path: the file or folder.
      parts: names and numbers that the line must hold.
      reason: one of `gen1_jax.video.sources.REASONS`, if the error must have one.
      options: options of `read_video`.
    """
    with pytest.raises(UserError) as caught:
        read_video(path, **options)
    assert reason is None or caught.value.reason == reason
    line = str(caught.value)
    assert "\n" not in line and str(path) in line, line
    for part in parts:
        assert part in line, line
