"""Programs for pieces of a video, each compiled once for a shape, whatever the video's length."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gen1_jax.conditioning import Conditioner, EncoderParams
from gen1_jax.distributed import FRAMES, batch_parts, batch_sharding, clip_sharding, replicated
from gen1_jax.runtime import naming_what_to_lower
from gen1_jax.video.streams import Stream


class Pieces:
    """The encoders, for pieces of as many clips as there are devices."""

    def __init__(self, conditioner: Conditioner, mesh: Mesh):
        self._mesh = mesh
        self._whole, self._clips = replicated(mesh), clip_sharding(mesh)
        self._batch = batch_sharding(mesh)
        jitted = partial(jax.jit, out_shardings=self._clips)
        whole, clips, batch = self._whole, self._clips, self._batch
        self._map = jitted(conditioner.map_of_piece, in_shardings=(whole, clips), static_argnums=2)
        self._structure = jitted(
            conditioner.encode_structure, in_shardings=(whole, clips, batch, batch)
        )
        self._seen = jitted(conditioner.degrade, in_shardings=(clips, batch, batch))
        self._encode = jitted(conditioner.encode_frames, in_shardings=(whole, clips))
        self._decode = jitted(conditioner.decode, in_shardings=(whole, clips))

    def maps(
        self, params: EncoderParams, frames: Stream, length: int, extractor: str
    ) -> Iterator[np.ndarray]:
        """Frames [H W 3] uint8 → the maps [m H W] of depth or edges, not yet clipped."""
        return self._run(
            "estimating depth of",
            lambda piece: self._map(params, piece, extractor),
            frames,
            length,
        )

    def structure(
        self, params: EncoderParams, maps: Stream, level: int, bounds: np.ndarray, length: int
    ) -> Iterator[np.ndarray]:
        """Maps [H W] → structure latents [m h w c] at the level t_s, within bounds [2]."""
        options = self._each(level, np.int32), self._each(bounds, np.float32)
        return self._run(
            "encoding structure of",
            lambda piece: self._structure(params, piece, *options),
            maps,
            length,
        )

    def seen(
        self, maps: Stream, level: int, bounds: np.ndarray, length: int
    ) -> Iterator[np.ndarray]:
        """Maps [H W] → maps [m H W] in [−1, 1] as the model sees them."""
        options = self._each(level, np.int32), self._each(bounds, np.float32)
        return self._run("blurring", lambda piece: self._seen(piece, *options), maps, length)

    def encode(self, params: EncoderParams, frames: Stream, length: int) -> Iterator[np.ndarray]:
        """Frames [H W 3] uint8 → latents [m h w c]."""
        return self._run("encoding", partial(self._encode, params), frames, length)

    def decode(self, params: EncoderParams, latents: Stream, length: int) -> Iterator[np.ndarray]:
        """Latents [h w c] → frames [m H W 3] uint8."""
        return self._run("decoding", partial(self._decode, params), latents, length)

    def _each(self, value: Any, dtype: Any) -> np.ndarray:
        """Returns a value for each clip of a piece."""
        return np.stack([np.asarray(value, dtype)] * batch_parts(self._mesh))

    def _run(
        self, task: str, program: Callable[[jax.Array], jax.Array], stream: Stream, length: int
    ) -> Iterator[np.ndarray]:
        """Yields what a program makes of a stream, piece by piece.

        Args:
          task: what the program does, for the message where memory runs out.
          program: clips [b n ...] → [b n ...], for b clips, one a device.
          stream: the frames.
          length: n, or less where a video is shorter.
        """
        parts, each = batch_parts(self._mesh), self._mesh.shape[FRAMES]
        length = min(length, -(-stream.count // parts))
        length += -length % each
        for piece in stream.pieces(parts * length):
            more = parts * length - len(piece)  # copies of the last frame fill up the devices
            whole = np.concatenate([piece, piece[-1:].repeat(more, axis=0)])
            clips = whole.reshape(parts, length, *piece.shape[1:])
            asked = f"{task} {len(piece)} frames", "the size (--size) or the window (--window)"
            with naming_what_to_lower(*asked), jax.set_mesh(self._mesh):
                made = np.asarray(program(jax.device_put(clips, self._clips)))
            yield made.reshape(parts * length, *made.shape[2:])[: len(piece)]
