"""The structure of a whole video: its maps, which wait on the disk, and their common range."""

from typing import NamedTuple

import numpy as np

from gen1_jax.conditioning import EncoderParams
from gen1_jax.editing.events import Stages
from gen1_jax.editing.pieces import Pieces
from gen1_jax.video.streams import Spool, Stream

_MOST_VALUES = 2**24  # of which quantiles are taken: 64 MiB


class Structure(NamedTuple):
    """Maps of a video.

    Attributes:
      maps: [H W] float32 of each frame.
      bounds: the values that become −1 and 1, [2].
    """

    maps: Stream
    bounds: np.ndarray


def estimate_structure(
    pieces: Pieces,
    params: EncoderParams,
    frames: Stream,
    quantiles: tuple[float, float],
    length: int,
    stages: Stages,
) -> Structure:
    """Returns the structure of frames [H W 3] uint8, between two quantiles of all its values."""
    spool = None
    with stages("depth", frames.count) as advance:
        for maps in pieces.maps(params, frames, length):
            spool = spool or Spool(maps.shape[1:])
            spool.append(maps)
            advance(len(maps))
    return Structure(spool.stream(), find_bounds(spool.stream(), quantiles))


def find_bounds(maps: Stream, quantiles: tuple[float, float] = (0, 1)) -> np.ndarray:
    """Returns two quantiles [2] of the values of all maps; if they are equal, the extremes.

    They are exact for up to 2^24 values; of a longer video a regular part of the pixels is taken.
    """
    low, high, values, step = np.inf, -np.inf, [], 1
    for index, each in enumerate(maps):
        low, high = min(low, each.min()), max(high, each.max())
        if quantiles != (0, 1):
            step = -(-maps.count * each.size // _MOST_VALUES)
            values.append(each.ravel()[index % step :: step])
    if values:
        least, most = np.quantile(np.concatenate(values), quantiles)
        if least < most:
            low, high = least, most
    return np.array([low, high], np.float32)


def encode_structure(
    pieces: Pieces,
    params: EncoderParams,
    structure: Structure,
    level: int,
    length: int,
    stages: Stages,
) -> np.ndarray:
    """Returns the structure latents [n h w 4] of a video at the level t_s."""
    found = []
    with stages("encoding", structure.maps.count) as advance:
        for latents in pieces.structure(params, structure.maps, level, structure.bounds, length):
            found.append(latents)
            advance(len(latents))
    return np.concatenate(found)
