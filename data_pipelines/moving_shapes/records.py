"""The records of rendered clips: frames as lossless video, depth quantised, the mask packed.

The codec is QuickTime RLE in MOV. It is lossless, ordinary players play it, and of ffmpeg's
lossless codecs it decodes small frames fastest (8 frames of 64x64 in 0.4 ms; FFV1 takes 3.6 ms).
"""

from __future__ import annotations

import io
import json

import av
import numpy as np

from gen1_jax.data_pipelines.moving_shapes.renderer import Clip
from gen1_jax.errors import Damaged
from gen1_jax.video.containers import open_bytes

_DEPTH_STEPS = 65535
_FPS = 8


def encode_video(frames: np.ndarray) -> bytes:
    """Encodes frames [n h w 3] uint8 losslessly."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as container:
        stream = container.add_stream("qtrle", rate=_FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode_video(data: bytes) -> np.ndarray:
    """Decodes stored video bytes to frames [n h w 3] uint8.

    Raises:
      Damaged: the bytes are no video.
    """
    try:
        with open_bytes(io.BytesIO(data), "mov") as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("this build of ffmpeg has no decoder for its codec")
            stream.codec_context.thread_count = 1  # frames are small, and Grain reads in threads
            return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise Damaged(f"a stored clip of {len(data)} bytes is not a readable video") from error


def encode_example(clip: Clip, seed: int) -> dict:
    """Returns the record of a clip that `builder.MovingShapes` stores.

    Arrays are stored as bytes, because a tf.Example holds integers as a list of varints, which
    takes ten times as long to read.
    """
    return {
        "video": encode_video(clip.frames),
        "depth": np.rint(clip.depth * _DEPTH_STEPS).astype("<u2").tobytes(),
        "mask": np.packbits(clip.mask).tobytes(),
        "caption": clip.caption.encode(),
        "truth": json.dumps(clip.truth).encode(),
        "seed": np.int64(seed),
    }


def decode_example(example: dict) -> dict:
    """Returns the clip of a record, with all that `encode_example` stored.

    Returns:
      frames [n h w 3] uint8, depth [n h w] float32, mask [n h w] bool, caption str, truth dict and
      seed int. Depth is rounded to 1/65535; all else is exact.
    """
    clip = decode_clip(example)
    clip["truth"] = json.loads(example["truth"])
    clip["seed"] = int(example["seed"])
    return clip


def decode_clip(example: dict) -> dict:
    """Returns what training needs of a record: its frames, depth, mask and caption."""
    frames = decode_video(example["video"])
    depth = np.frombuffer(example["depth"], "<u2").reshape(frames.shape[:3])
    mask = np.unpackbits(np.frombuffer(example["mask"], np.uint8), count=depth.size)
    return {
        "frames": frames,
        "depth": depth.astype(np.float32) * np.float32(1 / _DEPTH_STEPS),
        "mask": mask.astype(bool).reshape(depth.shape),
        "caption": example["caption"].decode(),
    }
