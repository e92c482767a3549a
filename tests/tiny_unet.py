"""The smallest video UNets that have every kind of layer, for the tests."""

from functools import partial

import jax
import jaxlib
import numpy as np
from flax import traverse_util

from gen1_jax.models.unet import VideoUNet
from gen1_jax.weights.folder import param_template

TINY = dict(
    in_channels=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    cross_attention_dim=6,
    attention_head_dim=2,
    norm_num_groups=4,
    max_frames=6,
)
# A single resolution takes half the time to compile.
ONE_LEVEL = dict(
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    block_out_channels=(8,),
)
# Code that runs once or twice need not be fast; on CPU this halves the time to compile it. Without
# fusion emitters, which later releases cannot do without, it takes another quarter less.
_OPTIONS = {"xla_backend_optimization_level": 0}
if tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11):
    _OPTIONS["xla_cpu_use_fusion_emitters"] = False
# The same for a process that a test starts, by its variable XLA_FLAGS.
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in _OPTIONS.items())
quick_jit = partial(jax.jit, compiler_options=_OPTIONS if jax.default_backend() == "cpu" else None)


def tiny(**changes) -> VideoUNet:
    return VideoUNet(**TINY | changes)


def drawn_params(module, seed: int = 0) -> dict:
    """Draws parameters with NumPy, none zero and none constant, without compiling `init`."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.3
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(centre, spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, param_template(module))


def flat(params: dict) -> dict[str, np.ndarray]:
    """Returns parameters by their "/"-path."""
    return traverse_util.flatten_dict(params, sep="/")


def split_temporal(params: dict) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns spatial and temporal parameters, each by their "/"-path."""
    spatial, temporal = {}, {}
    for path, value in flat(params).items():
        (temporal if "temporal" in path else spatial)[path] = value
    return spatial, temporal


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
