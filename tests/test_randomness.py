"""One seed gives every part, and every use in it, random numbers of its own."""

from itertools import combinations

import numpy as np
from micro_run import load

from gen1_jax import workflow
from gen1_jax.randomness import stream_seed

PARTS = ("image", "video", "structure", "blur")
USES = ("data", "training", "creation")


def test_streams_are_of_32_bits_and_have_nothing_in_common():
    seeds = [stream_seed(seed, part, use) for seed in (0, 1) for part in PARTS for use in USES]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds)
    assert stream_seed(0, "video", "data") == 640804145  # the same in every process and version
    # Seeds that users give, and the seeds of streams, are not each other's.
    assert not set(seeds) & set(range(100))


def test_stages_read_other_clips_first(micro_run, monkeypatch, tmp_path):
    """Stages that differ in nothing but their names read the same data in other orders."""
    streams = {}

    def keep(config, workdir, make_batches, *_, **__):
        streams[config.name] = make_batches()

    monkeypatch.setattr(workflow, "train_on", keep)
    for part in PARTS:
        config = load(micro_run, part, **{"data.image_fraction": 1.0, "data.image_batch_size": 8})
        workflow.run_part(config, tmp_path / part, progress=False)
    first = {part: np.asarray(next(stream).content) for part, stream in streams.items()}
    for one, other in combinations(PARTS, 2):
        assert not np.array_equal(first[one], first[other])
