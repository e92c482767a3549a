"""A decoding process whose decoder misbehaves as the name of the file says, for the tests."""

import ctypes
import sys

from gen1_jax.data_pipelines.footage import child, making


def make_clips(path, settings, caption, outcome, watch):
    if "crash" in path.name:
        ctypes.string_at(0)
    while "hang" in path.name:
        pass
    while "endless" in path.name:
        watch()
    if "memory" in path.name:
        bytearray(2**32)
    yield from whole(path, settings, caption, outcome, watch)
    if "late" in path.name:
        ctypes.string_at(0)


if __name__ == "__main__":
    whole, making.make_clips = making.make_clips, make_clips
    child.main(sys.argv[1:])
