"""configs/tiny.py at the smallest sizes that work, with a few steps a part: for the tests.

    gen1 all --config tests/micro.py --workdir …

runs all of it. tests/micro_run.py makes the same run folder without most of the training.
"""

from ml_collections import ConfigDict

from gen1_jax.configs import tiny

# The evaluation has tests of its own.
PARTS = tuple(part for part in tiny.PARTS if part != "evaluation")
# Divides over the suite's eight virtual devices.
BATCH = 8

_TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
_MODELS = {
    "autoencoder": {"block_out_channels": (8, 8), "norm_num_groups": 4},
    "clip": {
        "projection_dim": 16,
        "text_config": _TOWER,
        "vision_config": {**_TOWER, "image_size": 16, "patch_size": 8},
    },
    "depth": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 16,
        "neck_hidden_sizes": (8, 8, 8, 8),
        "fusion_hidden_size": 8,
    },
    "prior": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "embedding_dim": 16,
        "embedding_proj_dim": 16,
    },
    "unet": {
        "down_block_types": ("DownBlock2D",),  # the middle block has attention
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (8,),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
}


def get_config(part: str = "all") -> ConfigDict:
    """Returns one part's config or, for `all`, the list of parts."""
    if part == "all":
        return ConfigDict({"kind": "all", "parts": PARTS})
    config = tiny.get_config(part)
    for where in (config, config.get("data", {})):
        if "builder" in where:
            where.builder = "test"
    if config.kind == "train":
        config.model.update(_MODELS["unet" if config.objective == "diffusion" else part])
        config.num_steps = config.sample_every = config.checkpoint_every = 2
        config.log_every = 1
        config.beside_share = 1.0  # the first steps are as short as a preview
        config.eval_every = 0  # another program to compile for each kind of batch
        config.optimizer.warmup_steps = 1
        config.split_from = 512  # so that the largest of its small parameters are sharded
        config.data.batch_size = config.data.image_batch_size = BATCH
        if part in ("autoencoder", "prior"):
            config.loss.calibration_examples = 32
        if config.data.form == "raw":
            config.data.buckets = ((16, 16),)
    if part == "encoded":
        config.batch_size = BATCH
        # As before the settings were there: the golden losses are of such data.
        config.depth.resizing, config.depth.range = "shorter_side", (0.0, 1.0)
    if part == "pipeline":
        config.settings.prior.num_steps = 2
    return config
