"""The tiny run with a fraction of its steps, on a smaller world: the quick start.

    make demo
    gen1 all --config demo --workdir runs/demo

Hardware: two CPU cores; the run took 14 minutes there, a third of it compilation.
Result: 32 held-out clips are recoloured by prompt with a colour accuracy of 0.94 to 1.00 (chance:
0.125) and a structure correlation of about 0.76; docs/results.md has all measures.

Parts and models are those of `configs/tiny.py`; this file changes only what it names.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import tiny

PARTS = tiny.PARTS
BUILDER = "demo"  # size of the moving-shapes data set: 1024 training clips

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

# Parts that make pictures at their end. The UNet's stages make none: compiling a sampler would
# take half a minute for each, and the evaluation pictures the last stage.
PICTURED = ("autoencoder", "depth")
# Clips, or images, in a batch of the UNet's stages; both have the same number of frames.
CLIPS, IMAGES = 6, 48


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    config = tiny.get_config(part)
    if "builder" in config:
        config.builder = BUILDER
    if "data" in config and "builder" in config.data:
        config.data.builder = BUILDER
    if part in STEPS:
        config.num_steps = STEPS[part]
        config.checkpoint_every = STEPS[part]
        config.sample_every = STEPS[part] if part in PICTURED else 0
        config.eval_every, config.eval_batches = STEPS[part], 2
        config.ema_decay = 0.98
    if part == "autoencoder":
        # At tiny's rate of 3e-3 one of the four latent channels is learnt late, and with it the
        # difference between some colours.
        config.optimizer.learning_rate, config.optimizer.warmup_steps = 1.5e-3, 100
    if part in ("image", "video", "structure", "blur"):
        config.data.batch_size, config.data.image_batch_size = CLIPS, IMAGES
    if part == "evaluation":
        config.num_clips = 32
        config.num_steps = 16
        config.structure_level = (0,)
        config.temporal_scale = (1.0,)
    return config
