"""Separate streams of random numbers, derived from one seed by what they are used for."""

import hashlib


def stream_seed(seed: int, *use: str) -> int:
    """Returns the seed of a stream, 32 bits: streams of different uses have nothing in common.

    Args:
      seed: the config's one seed.
      *use: names of the use, such as the part of a run and "training".
    """
    digest = hashlib.sha256("/".join((str(seed), *use)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
