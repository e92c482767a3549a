"""`make demo`: the tiny run with a fraction of its steps; a quarter of an hour on two CPU cores.

    gen1 all --config demo --workdir runs/demo

Parts, models and data are those of `configs/tiny.py`, on a smaller world.
"""

from ml_collections import ConfigDict

from configs import tiny

PARTS = tiny.PARTS

# Steps of each trained part.
STEPS = {
    "autoencoder": 600,
    "clip": 300,
    "depth": 220,
    "prior": 220,
    "image": 170,
    "video": 70,
    "structure": 250,
    "blur": 130,
}

# Parts that picture their fixed batch at the end; compiling a sampler for a UNet stage would take
# half a minute, and the evaluation pictures the last.
PICTURED = ("autoencoder", "depth")
# Of the UNet's stages. For few steps the rate is high, soon there, and falls with the last ones.
CLIPS, IMAGES = 6, 48  # the same number of frames
RATE, WARMUP, FINAL = 2e-3, 20, 0.5


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
    if part in ("image", "video", "structure", "blur"):
        config.data.batch_size, config.data.image_batch_size = CLIPS, IMAGES
        config.optimizer.learning_rate, config.optimizer.warmup_steps = RATE, WARMUP
        config.optimizer.final_fraction = 0.05 if part == "blur" else FINAL
    if part == "evaluation":
        config.num_clips = 32
        config.num_steps = 16
        config.structure_level = (0,)
        config.temporal_scale = (1.0,)
    return config
