"""LoRA (Hu et al. 2106.09685): a network whose attention kernels learn a change of low rank.

    W' = W + A B,   A [in r],   B [r out],   B = 0 at the start

Only A and B are trained. They stand beside the kernel in the tree of parameters, by peft's names,
and are merged into the kernels before the network is applied, so that the network itself knows
nothing of them.

The kernels are the projections q, k, v and out of the spatial transformers' attention; of
cross-attention they are v and out, because q and k have no influence over a single token. Layers
that see other frames are left out: pictures, of which a subject is learnt, do not pass through
them, and without them the file fits any UNet of Stable Diffusion's form.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from gen1_jax.weights.folder import save_model
from gen1_jax.weights.lora import FILE, A, B, split_lora, write_lora

TRAINED = ("/lora_[AB]/",)  # patterns of the parameters that are trained
FOLDER = "lora"  # of the LoRA file, beside the model's folder
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out_0")
_IDLE = ("to_q", "to_k")  # of cross-attention: content is one token, whose weight is always 1


@dataclasses.dataclass(frozen=True)
class LoraModule:
    """A network with LoRA factors beside its attention kernels; else like the network.

    Attributes:
      network: the module.
      rank: r.
    """

    network: nn.Module
    rank: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "network":
            raise AttributeError(name)
        return getattr(self.network, name)

    def init(self, key: jax.Array, *inputs: Any) -> dict[str, Any]:
        """Returns parameters: the network's, and factors whose product is zero."""
        params = self.network.init(key, *inputs)["params"]
        flat = traverse_util.flatten_dict(params)
        paths = sorted(path for path in flat if is_adapted(path))
        for path, own in zip(paths, jax.random.split(key, len(paths)), strict=True):
            rows, columns = flat[path].shape
            bound = rows**-0.5  # peft's: Kaiming's uniform distribution with a = √5
            down = jax.random.uniform(own, (rows, self.rank), minval=-bound, maxval=bound)
            flat[(*path[:-1], A, "kernel")] = down
            flat[(*path[:-1], B, "kernel")] = jnp.zeros((self.rank, columns))
        return {"params": traverse_util.unflatten_dict(flat)}

    def apply(self, variables: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
        """Applies the network with the factors merged into its kernels."""
        params = merge_factors(variables["params"])
        return self.network.apply({**variables, "params": params}, *arguments, **keywords)


def is_adapted(path: tuple[str, ...]) -> bool:
    """Whether a parameter is a kernel that gets LoRA factors."""
    spatial = any(part.startswith("attentions_") for part in path)
    if not spatial or path[-1] != "kernel" or path[-2] not in _PROJECTIONS:
        return False
    return path[-3] != "attn2" or path[-2] not in _IDLE


def merge_factors(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the network's parameters, in which each kernel W is W + A B."""
    network, factors = map(traverse_util.flatten_dict, split_lora(params))
    for path in [path[:-2] for path in factors if path[-2] == A]:
        down, up = (factors[(*path, name, "kernel")] for name in (A, B))
        kernel = network[(*path, "kernel")]
        change = jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
        network[(*path, "kernel")] = kernel + change.astype(kernel.dtype)
    return traverse_util.unflatten_dict(network)


def save_merged(folder: Path, module: LoraModule, params: Mapping[str, Any]) -> None:
    """Writes the model folder with the factors merged, and the LoRA file in a folder beside it."""
    write_lora(folder.parent / FOLDER / FILE, split_lora(params)[1])
    save_model(folder, module.network, jax.device_get(merge_factors(params)))
