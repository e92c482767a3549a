"""Loads model folders whose config.json was mutated at random; prints what came of it as JSON.

    python tests/models/mutated_configs.py FOLDER NUMBER SEED

It is a process of its own, because the operating system limits its memory: a setting that makes it
allocate more than the small models need ends in a MemoryError, which counts as a fault.
"""

import copy
import json
import random
import resource
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.weights.folder import (
    checked_tensors,
    module_from_config,
    param_template,
    read_config,
    write_model,
)
from gen1_jax.weights.naming import MismatchError, torch_shapes

UNET = {
    "_class_name": "VideoUNet",
    "in_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "block_out_channels": [8],
    "layers_per_block": 1,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "max_frames": 6,
}
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
}
CONFIGS = {
    "unet": UNET,
    "image_unet": {**UNET, "_class_name": "UNet2DConditionModel", "only_cross_attention": False},
    "vae": {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [4, 8],
        "norm_num_groups": 4,
        "sample_size": 16,
        "scaling_factor": 0.2,
    },
    "prior": {
        "_class_name": "PriorTransformer",
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_layers": 1,
        "embedding_dim": 6,
        "num_embeddings": 5,
        "time_embed_dim": None,
    },
    "clip": {
        "model_type": "clip",
        "projection_dim": 6,
        "logit_scale_init_value": 2.6,
        "text_config": {**TOWER, "vocab_size": 20, "max_position_embeddings": 7},
        "vision_config": {**TOWER, "image_size": 8, "patch_size": 4},
    },
    "dpt": {
        "model_type": "dpt",
        **TOWER,
        "num_hidden_layers": 2,
        "image_size": 8,
        "patch_size": 4,
        "backbone_out_indices": [0, 1],
        "reassemble_factors": [2, 1],
        "neck_hidden_sizes": [4, 8],
        "fusion_hidden_size": 4,
        "head_in_index": -1,
    },
}
VALUES = (
    *(None, True, False, 0, 1, 2, 3, -1, 7, 8, 64, 1.5, -0.25, 1e-30, 1e300),
    *(10**5, 10**9, 2**31, 2**63, 10**30, -(10**9), float("nan"), float("inf"), -float("inf")),
    *("", "16", "gelu", "silu", "\n", "\u2028x", "UpBlock2D", "x" * 5000, "null"),
    *([], {}, [[]], [8], [8, 8], [8] * 3, [1] * 5000, ["gelu"], [None], [1e9], {"a": {"b": []}}),
    [[[[[[[[[[[[1]]]]]]]]]]]],
)
KEYS = ("act_fn", "dropout", "shift_factor", "hidden_act", "num_channels", "qkv_bias", "a\nb")
MEMORY = 2**28  # bytes that the process may take beyond what it has after loading every model


def places(value: Any) -> list[tuple[Any, Any]]:
    """Returns every (container, key or index) inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, child in inner:
        found.append((value, key))
        if isinstance(child, dict | list):
            found += places(child)
    return found


def mutate(config: dict[str, Any], rng: random.Random) -> None:
    """Changes one place of a config."""
    container, key = rng.choice(places(config) or [(config, "new")])
    value = container[key] if isinstance(container, list) else container.get(key)
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1:
        container[key] = [copy.deepcopy(value)]
    elif kind == 2:
        container[key] = str(value)
    elif kind == 3 and isinstance(value, int | float):
        container[key] = value * rng.choice((-1, 2, 10**6, 10**12, 0.5))
    elif kind == 4:
        config[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES))


def load(folder: Path) -> None:
    checked_tensors(folder, module_from_config(read_config(folder), where=str(folder)))


def main(folder: Path, number: int, seed: int) -> None:
    for name, config in CONFIGS.items():
        module = module_from_config(config)
        shapes = torch_shapes(param_template(module))
        (folder / name).mkdir(parents=True)
        zeros = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
        write_model(folder / name, module.to_config(), shapes, zeros)
        load(folder / name)
    status = Path("/proc/self/status").read_text()
    size = 1024 * int(status.split("VmSize:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    rng, outcomes, faults = random.Random(seed), Counter(), []
    for i in range(number):
        name = rng.choice(list(CONFIGS))
        config = copy.deepcopy(CONFIGS[name])
        for _ in range(rng.choice((1, 1, 2, 4))):
            mutate(config, rng)
        text = json.dumps(config)
        (folder / name / "config.json").write_text(text)
        try:
            load(folder / name)
            outcomes["loaded"] += 1
        except MismatchError:
            outcomes["mismatched"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            if len(str(error).splitlines()) != 1 or len(str(error)) > 2000:
                faults.append((i, name, text[:500], f"not one short line: {error}"[:500]))
        except Exception:  # whatever it is, a user would see a traceback
            faults.append((i, name, text[:500], traceback.format_exc()[-1000:]))
    print(json.dumps({"outcomes": outcomes, "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
