"""`make demo`: the tiny run with a fraction of its steps; about ten minutes on two CPU cores.

    gen1 all --config demo --workdir runs/demo

Parts, models and data are those of `configs/tiny.py`, on a smaller world.
"""

from ml_collections import ConfigDict

from configs import tiny

PARTS = tiny.PARTS

# Steps of each trained part.
STEPS = {
    "autoencoder": 800,
    "clip": 400,
    "depth": 250,
    "prior": 300,
    "image": 150,
    "video": 100,
    "structure": 300,
    "blur": 150,
}

# Parts that picture their fixed batch at the end; compiling a sampler for each UNet stage would
# take a minute.
PICTURED = ("autoencoder", "depth", "blur")


def get_config(part: str = "all") -> ConfigDict:
    """One part's config; see `configs/tiny.py`."""
    config = tiny.get_config(part)
    if "builder" in config:
        config.builder = "demo"
    if "data" in config and "builder" in config.data:
        config.data.builder = "demo"
    if part in STEPS:
        config.num_steps = STEPS[part]
        config.checkpoint_every = STEPS[part]
        config.sample_every = STEPS[part] if part in PICTURED else 0
        config.ema_decay = 0.98
    if part == "evaluation":
        config.num_clips = 32
        config.structure_level = (0,)
        config.temporal_scale = (1.0,)
    return config
