"""`make demo`: the tiny run with a fraction of its steps; a quarter of an hour on two CPU cores.

    gen1 all --config demo --workdir runs/demo

Parts, models and data are those of `configs/tiny.py`, on a smaller world.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import tiny

PARTS = tiny.PARTS

# Steps of each trained part.
STEPS = {
    "autoencoder": 700,
    "clip": 230,
    "depth": 200,
    "prior": 200,
    "image": 130,
    "video": 70,
    "structure": 230,
    "blur": 110,
}

# Parts that picture their fixed batch at the end; compiling a sampler for a UNet stage would take
# half a minute, and the evaluation pictures the last.
PICTURED = ("autoencoder", "depth")
CLIPS, IMAGES = 6, 48  # of the UNet's batches; the same number of frames


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
    if part == "autoencoder":
        # At tiny's 3e-3 one of the four latent channels is learnt late, and with it some colours.
        config.optimizer.learning_rate, config.optimizer.warmup_steps = 1.5e-3, 100
    if part in ("image", "video", "structure", "blur"):
        config.data.batch_size, config.data.image_batch_size = CLIPS, IMAGES
    if part == "evaluation":
        config.num_clips = 32
        config.num_steps = 16
        config.structure_level = (0,)
        config.temporal_scale = (1.0,)
    return config
