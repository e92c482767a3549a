"""Settings of a prior that its config.json may lack, told from what lies around it.

Our own config.json says in which length the prior reads text embeddings, and how far its sampler
clamps. Public files and older files of ours say neither.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.files import read_json
from gen1_jax.models.prior import CLAMP, OWN, SCALE, read_own
from gen1_jax.weights.public import CONFIG, SAMPLER_FILES
from gen1_jax.weights.tensor_files import TensorFiles

# Our training adds this to the deviation, so that no standardised number is infinite.
_ADDED_DEVIATION = 1e-4
_SAMPLER = "UnCLIPScheduler"
# Settings of the sampler that ours always has, with diffusers' defaults where a file lacks them.
_FIXED = {
    "num_train_timesteps": (1000, 1000),
    "prediction_type": ("sample", "epsilon"),
    "variance_type": ("fixed_small_log", "fixed_small_log"),
    "beta_schedule": ("squaredcos_cap_v2", "squaredcos_cap_v2"),
}
_NO_CLAMP = 1e9  # of a sampler that does not clamp


def tell_scale(folder: Path) -> str:
    """Tells whether a prior was trained here, on content, or elsewhere, on CLIP's raw embeddings.

    Content has length √d. So the squares of its mean and its deviation add up to d, which those of
    no public prior do. A mean of 0 and a deviation of 1, which nobody set, say nothing.

    Args:
      folder: a model folder of a prior, whose config.json does not say.

    Returns:
      "content" or "raw".
    """
    try:
        tensors = TensorFiles(folder)
        mean, std = (np.float64(tensors[name]) for name in ("clip_mean", "clip_std"))
    except (UserError, KeyError):  # who reads the weights says what is wrong
        return "raw"
    length = np.mean(mean**2 + (std - _ADDED_DEVIATION) ** 2)
    is_set = mean.any() or (std != 1).any()
    # The weights may have been rounded to bfloat16.
    return "content" if is_set and abs(length - 1) < 5e-3 else "raw"


def read_clamp(prior: Path) -> float | None:
    """Returns the bound that a prior's sampler clamps to; None if nothing says it.

    Its config.json says it if it was made here, and otherwise the sampler beside it.

    Args:
      prior: a model folder of a prior.

    Raises:
      UserError: the sampler is not of the kind that ours is.
    """
    if (own := read_own(read_json(prior / CONFIG) or {}).get(CLAMP)) is not None:
        return own
    for name in SAMPLER_FILES:
        path = prior.parent / name
        config = read_json(path)
        if config is None or config.get("_class_name") != _SAMPLER:
            continue
        for key, (accepted, default) in _FIXED.items():
            if (got := config.get(key, default)) != accepted:
                raise UserError(f"{path} has {key}={got!r}; accepted: {accepted!r}")
        if not config.get("clip_sample", True):
            return _NO_CLAMP
        return float(config.get("clip_sample_range", 1.0))
    return None


def fill_config(
    model: Mapping[str, Any], given: Mapping[str, Any], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the config.json of a prior that is trained, with the settings that were left open.

    Args:
      model: the config.json so far.
      given: the settings that the user gave.
      earlier: the config.json of the prior that the training starts from or goes on with; None for
        a new one, which reads content.
    """
    earlier = {SCALE: "content"} if earlier is None else read_own(earlier)
    return {**model, OWN: {**read_own(model), **earlier, **read_own(given)}}


def complete(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the config.json of a model folder, which says the scale if the model is a prior."""
    if config.get("_class_name") != "PriorTransformer" or SCALE in read_own(config):
        return config
    return {**config, SCALE: tell_scale(folder)}
