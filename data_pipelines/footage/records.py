"""The records of real footage: how a clip or an image is encoded and decoded.

A clip is a short H.264 film (mp4, 4:2:0, BT.709) of the chosen frames, stored with their times in
the source. An image is a JPEG, or the bytes of its file if nothing had to be changed. Random access
to either reads one record.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from gen1_jax.errors import Damaged, UserError
from gen1_jax.text import name_of
from gen1_jax.video.containers import open_bytes
from gen1_jax.video.io import write_h264

_FPS = Fraction(8)  # rate at which players show the film; the true times are in `times`
# Without CABAC and deblocking, films are a tenth larger and are decoded in half the time.
_X264 = {"preset": "veryfast", "tune": "fastdecode"}
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")


def clip_features() -> Any:
    """Returns the TFDS features of a stored clip."""
    return _features(("video", "times", "caption", "source"), scalars=("start",))


def image_features() -> Any:
    """Returns the TFDS features of a stored image."""
    return _features(("image", "caption", "source"))


def _features(names: tuple[str, ...], scalars: tuple[str, ...] = ()) -> Any:
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(shape=(), dtype=np.object_) for name in names}
        | {name: tfds.features.Scalar(dtype=np.int64) for name in scalars}
    )


def encode_clip(
    frames: np.ndarray,
    times: np.ndarray,
    caption: str,
    source: str,
    start: int,
    *,
    crf: int = 18,
) -> dict[str, Any]:
    """Returns the record of a clip.

    Args:
      frames: [n H W 3] uint8; H and W even.
      times: [n] times in the source, in seconds.
      caption: caption, which may be empty.
      source: path of the input.
      start: number of the first frame in the source.
      crf: x264's constant quality; at 18, losses are hardly visible.

    Raises:
      UserError: the frames have another form, odd sides, or not as many times.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"a clip is [n H W 3] uint8, not {frames.shape} {frames.dtype}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise UserError(f"a clip of {height}x{width} cannot be stored; even sides are accepted")
    if np.shape(times) != (len(frames),):
        raise UserError(f"a clip of {len(frames)} frames has times of shape {np.shape(times)}")
    return {
        "video": _encode_video(frames, crf),
        "times": np.asarray(times, "<f8").tobytes(),
        "caption": caption.encode(),
        "source": name_of(source).encode(),
        "start": np.int64(start),
    }


def decode_clip(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the clip of a record.

    Returns:
      frames [n H W 3] uint8, times [n] float64, caption str, source str, start int.

    Raises:
      Damaged: the record is damaged; the error names the clip.
    """
    times = np.frombuffer(record["times"], "<f8")
    source, start = record["source"].decode(), int(record["start"])
    try:
        frames = _decode_video(record["video"], len(times))
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise Damaged(
            f"the stored clip of {source} from frame {start} is damaged: {error}"
        ) from error
    return {
        "frames": frames,
        "times": times,
        "caption": record["caption"].decode(),
        "source": source,
        "start": start,
    }


def encode_image(
    frame: np.ndarray, caption: str, source: str, *, quality: int = 92
) -> dict[str, Any]:
    """Returns the record of an image [H W 3] uint8, as a JPEG of the given quality."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return {
        "image": buffer.getvalue(),
        "caption": caption.encode(),
        "source": name_of(source).encode(),
    }


def decode_image(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the image of a record, as a clip of one frame.

    Returns:
      frames [1 H W 3] uint8, caption str, source str.

    Raises:
      Damaged: the record is damaged; the error names the image.
    """
    source = record["source"].decode()
    try:
        with Image.open(io.BytesIO(record["image"]), formats=_IMAGE_FORMATS) as image:
            frame = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Damaged(f"the stored image of {source} is damaged: {error}") from error
    return {"frames": frame[None], "caption": record["caption"].decode(), "source": source}


def _encode_video(frames: np.ndarray, crf: int) -> bytes:
    buffer = io.BytesIO()
    # One thread, because clips are encoded side by side.
    write_h264(buffer, frames, _FPS, options={**_X264, "crf": str(crf)}, threads=1)
    return buffer.getvalue()


def _decode_video(data: bytes, num_frames: int) -> np.ndarray:
    """Returns the frames [n H W 3] uint8; raises ValueError if the film is not whole."""
    scaler, frames, count = VideoReformatter(), np.empty(0), 0
    with open_bytes(io.BytesIO(data), "mp4") as container:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("this build of ffmpeg has no decoder for its codec")
        stream.codec_context.thread_count = 1  # clips are decoded side by side
        for frame in container.decode(stream):
            if frame.is_corrupt or count == num_frames:
                raise ValueError(f"frame {count} of {num_frames} is not whole")
            if count == 0:
                frames = np.empty((num_frames, frame.height, frame.width, 3), np.uint8)
            # Copies straight from ffmpeg's padded rows; `to_ndarray` would copy once more.
            plane = scaler.reformat(frame, format="rgb24", threads=1).planes[0]
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            frames[count] = rows[:, : frame.width * 3].reshape(frames.shape[1:])
            count += 1
    if count != num_frames:
        raise ValueError(f"{count} of {num_frames} frames are there")
    return frames
