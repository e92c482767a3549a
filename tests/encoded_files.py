"""Folders of encoded clips, as `gen1 precompute` writes them, without an encoder."""

import numpy as np

from gen1_jax.data_pipelines.encoded.records import make_layout
from gen1_jax.data_pipelines.encoded.writer import EncodedWriter

LEVELS = (0, 3, 7)
COUNT = 10


def record(index, n=4, size=6):
    rng = np.random.default_rng(index)
    return {
        "latents": rng.normal(size=(n, size, size, 4)),
        "latents_logvar": rng.normal(size=(n, size, size, 4)) - 20,
        "structure": np.broadcast_to(
            np.array(LEVELS)[:, None, None, None, None] + 0.0, (3, n, size, size, 4)
        ),
        "levels": np.array(LEVELS),
        "content": rng.normal(size=(n, 5)) + np.arange(n)[:, None] * 100,
        "tokens": np.full(7, index),
    }


def make_writer(folder, count=COUNT, precision="float16", **settings):
    layout = make_layout({k: v.shape for k, v in record(0).items()}, precision)
    return EncodedWriter(folder, layout, count=count, settings=settings, records_per_shard=4)


def write(writer, shards=None, start=0):
    for shard in writer.missing() if shards is None else shards:
        writer.write(shard, (record(start + index) for index in writer.records(shard)))


def write_folder(folder, start=0, **options):
    """Writes a folder of the records from number `start` on."""
    writer = make_writer(folder, **options)
    writer.start()
    write(writer, start=start)
    writer.finish()
    return folder
