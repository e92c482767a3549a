"""The content of an input as a number: it is the same under every name and in every folder.

Splits follow from it, so two ingests of the same films hold out the same ones, wherever the films
lie; and a data set that grows knows by it what it was given before.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from gen1_jax.video.sources import natural_key

_BYTES = 16
_AT_ONCE = 2**20


def identify(data: bytes) -> str:
    """Returns the hash, 32 hexadecimal digits, of an input's bytes."""
    return hashlib.blake2b(data, digest_size=_BYTES).hexdigest()


def identify_path(path: Path) -> str:
    """Returns the hash of a file, or of the files in a folder of pictures, in natural order.

    What is neither (a pipe, say) has none: "".

    Raises:
      OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    if path.is_dir():
        for name in sorted(os.listdir(path), key=natural_key):
            if (path / name).is_file():
                digest.update(identify_path(path / name).encode())
        return digest.hexdigest()
    if not stat.S_ISREG(path.stat().st_mode):
        return ""
    with path.open("rb") as file:
        while data := file.read(_AT_ONCE):
            digest.update(data)
    return digest.hexdigest()
