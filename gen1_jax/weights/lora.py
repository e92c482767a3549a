"""LoRA files: read, written, and merged into the kernels of a UNet.

The layout is peft's, as diffusers saves it: `pytorch_lora_weights.safetensors` with
`unet.MODULE.lora_A.weight` [r in] and `unet.MODULE.lora_B.weight` [out r]. The kernel that counts
is W + s · (alpha / r) · B A. Files of peft itself, with `adapter_config.json` beside them, are read
too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from gen1_jax.errors import UserError
from gen1_jax.files import read_json, replacing
from gen1_jax.weights.naming import to_torch, torch_key
from gen1_jax.weights.tensor_files import read_file, save_tensors

FILE = "pytorch_lora_weights.safetensors"
A, B = "lora_A", "lora_B"  # names of the two factors, in peft and in our parameters
PREFIX = "unet."  # of diffusers' keys
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIXES = ("base_model.model.", PREFIX)
_METADATA = "lora_adapter_metadata"  # diffusers' key in the file's header
_KEY = re.compile(r"(?P<module>.+)\.(?P<factor>lora_A|lora_B)(\.\w+)?\.weight|(?P<of>.+)\.alpha")
_ACCEPTED = f"accepted: a file in peft's layout, as diffusers' save_lora_weights writes {FILE}"


class Change(NamedTuple):
    """The change of one kernel: `scale` · (down [in r] · up [r out])."""

    down: np.ndarray
    up: np.ndarray
    scale: float


Lora = dict[str, Change]
"""PyTorch name of a module → the change of its kernel."""


def split_lora(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides parameters into those of the network and the LoRA factors beside its kernels."""
    flat = traverse_util.flatten_dict(params)
    factors = {path: x for path, x in flat.items() if path[-2] in (A, B)}
    rest = {path: x for path, x in flat.items() if path not in factors}
    return traverse_util.unflatten_dict(rest), traverse_util.unflatten_dict(factors)


# ---- files


def write_lora(file: Path, factors: Mapping[str, Any]) -> None:
    """Writes LoRA factors, as `split_lora` returns them, completely or not at all.

    No alpha is written: a reader then takes alpha = r, so that the product counts as it is.

    Raises:
      WritingFailed: the file cannot be written.
    """
    tensors = {
        PREFIX + torch_key(path): to_torch(path, array)
        for path, array in traverse_util.flatten_dict(factors).items()
    }
    with replacing(file) as part:
        save_tensors(tensors, part)


def read_lora(path: Path) -> Lora:
    """Reads a LoRA of a UNet.

    Args:
      path: the file, or the folder that diffusers or peft wrote it to.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in (FILE, _PEFT_FILE) if (path / name).is_file()]
        if not found:
            raise UserError(f"--lora {path}: the folder has no {FILE}; {_ACCEPTED}")
        file = found[0]
    elif not path.is_file():
        raise UserError(f"--lora {path}: no such file or folder")
    tensors, metadata = read_file(file)
    factors, alphas = {}, {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise UserError(f"--lora {file} holds {name}; {_ACCEPTED}")
        if match["of"]:
            alphas[_without_prefix(match["of"])] = float(tensor)
            continue
        if tensor.ndim != 2:
            raise UserError(
                f"--lora {file}: {name} is {list(tensor.shape)}; accepted: factors of matrices"
            )
        factors.setdefault(_without_prefix(match["module"]), {})[match["factor"]] = tensor
    settings = _read_settings(file, metadata)
    lora = {}
    for module, pair in factors.items():
        if set(pair) != {A, B} or pair[A].shape[0] != pair[B].shape[1]:
            shapes = ", ".join(f"{key} {list(x.shape)}" for key, x in sorted(pair.items()))
            raise UserError(
                f"--lora {file}: {module} has {shapes}; accepted: {A} [r in] and {B} [out r]"
            )
        rank = pair[A].shape[0]
        alpha = alphas.get(module, settings["alpha_pattern"].get(module, settings["lora_alpha"]))
        root = rank**0.5 if settings["use_rslora"] else rank
        scale = 1.0 if alpha is None else float(alpha) / root
        lora[module] = Change(pair[A].T, pair[B].T, scale)
    if not lora:
        raise UserError(f"--lora {file} holds no LoRA; {_ACCEPTED}")
    return lora


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _read_settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings of the adapter that say the scale, where the file or peft gives them."""
    settings: dict[str, Any] = {"lora_alpha": None, "alpha_pattern": {}, "use_rslora": False}
    given = {}
    if _METADATA in metadata:
        try:
            given = {_without_prefix(k): v for k, v in json.loads(metadata[_METADATA]).items()}
        except (ValueError, AttributeError) as error:
            raise UserError(f"--lora {file}: its metadata are damaged: {error}") from error
    elif file.name == _PEFT_FILE:
        given = read_json(file.with_name(_PEFT_CONFIG)) or {}
    return settings | {key: given[key] for key in settings if given.get(key) is not None}


# ---- merging


def merge_loras(
    params: Mapping[str, Any], loras: Sequence[tuple[str | Path, float]]
) -> dict[str, Any]:
    """Returns the parameters of a UNet with LoRA files merged into its kernels.

    Args:
      params: the UNet's parameters, host arrays.
      loras: (file or folder, weight) of each; several add up.

    Raises:
      UserError: a file cannot be read, or belongs to another model; names the first misfit.
    """
    flat = traverse_util.flatten_dict(params)
    paths = {torch_key(path): path for path in flat if path[-1] == "kernel"}
    for place, weight in loras:
        for module, change in read_lora(Path(place)).items():
            path = paths.get(f"{module}.weight")
            shape = (len(change.down), change.up.shape[1])
            if path is None or np.shape(flat[path]) != shape:
                there = "which this UNet lacks"
                if path is not None:
                    rows, columns = list(shape), list(np.shape(flat[path]))
                    there = f"whose kernel it takes to be {rows} [in out]; this UNet's is {columns}"
                raise UserError(
                    f"--lora {place} belongs to another model: it changes {module}, {there}"
                )
            factor = np.float32(weight * change.scale)
            flat[path] = np.asarray(flat[path]) + factor * (change.down @ change.up)
    return traverse_util.unflatten_dict(flat)
