"""A run folder of tests/micro.py's models, and its configs."""

from pathlib import Path

import micro
import numpy as np
from ml_collections import ConfigDict
from tiny_unet import drawn_params

from gen1_jax.config import resolve_paths
from gen1_jax.configs import tiny
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights.folder import module_from_config, save_model
from gen1_jax.workflow import run_part

# Changes of a config that is trained on one device. Tests that share them share compiled programs.
SMALL = {"data.batch_size": 2, "data.image_batch_size": 4}


def make_run(root: Path) -> None:
    """A run folder as `gen1 all` leaves it, but its models are drawn instead of trained."""
    for part in ("world", "tokenizer"):
        run_part(micro.get_config(part), root / part, progress=False)
    tokenizer = load_tokenizer(root / "tokenizer")
    for part in micro.PARTS:
        config = micro.get_config(part)
        if config.kind != "train":
            continue
        if part == "clip":
            text = config.model.text_config
            text.bos_token_id, text.eos_token_id = tokenizer.start_id, tokenizer.end_id
        module = module_from_config(config.model.to_dict())
        params = drawn_params(module)
        if part == "prior":  # content as it is
            params["clip_mean"], params["clip_std"] = np.zeros((1, 16)), np.ones((1, 16))
        save_model(root / part / "model", module, params)
    for part in ("encoded", "pipeline"):
        run_part(micro.get_config(part), root / part, progress=False)


def load(root: Path, part: str, **changes) -> ConfigDict:
    """A part's config with its paths resolved, as `run_part` hands it on."""
    config = resolve_paths(micro.get_config(part), root / part)
    config.update_from_flattened_dict(changes)
    return config


def load_evaluation(root: Path, **changes) -> ConfigDict:
    """configs/tiny.py's evaluation, of the micro pipeline at two settings."""
    settings = {
        "builder": "test",
        "structure_level": (0, 7),
        "temporal_scale": (1.0,),
        "num_steps": 1,
        "batch_size": 2,
    }
    config = tiny.get_config("evaluation")
    config.update_from_flattened_dict(settings | changes)
    return resolve_paths(config, root / "evaluation")
