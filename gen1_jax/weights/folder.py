"""Model folders: `config.json` and safetensors, in the public layouts of diffusers or transformers.

This is the one format of a finished model: what is saved here loads in PyTorch by
`from_pretrained`, and public checkpoints load here.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from gen1_jax.errors import UserError
from gen1_jax.files import read_json, replacing_folder, write_json
from gen1_jax.weights.naming import (
    match_keys,
    params_to_state_dict,
    state_dict_to_params,
    torch_shapes,
)
from gen1_jax.weights.tensor_files import (
    DIFFUSERS_WEIGHTS,
    TRANSFORMERS_WEIGHTS,
    TensorFiles,
    write_tensors,
)

CONFIG = "config.json"

# `_class_name` (diffusers) or `model_type` (transformers) -> where our class is. Imported when
# asked for.
_CLASSES = {
    "AutoencoderKL": ("gen1_jax.models.autoencoder", "AutoencoderKL"),
    "PriorTransformer": ("gen1_jax.models.prior", "PriorTransformer"),
    "VideoUNet": ("gen1_jax.models.unet", "VideoUNet"),
    "UNet2DConditionModel": ("gen1_jax.models.unet", "VideoUNet"),
    "clip": ("gen1_jax.models.clip", "CLIPModel"),
    "dpt": ("gen1_jax.models.dpt", "DPTForDepthEstimation"),
}


def init_params(
    module: nn.Module, key: jax.Array, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Random parameters of a module that has `dummy_inputs()`, compiled as one program.

    Args:
        module: the module.
        key: randomness.
        known: parameters to be merged over these. What has its name and shape there is not drawn:
            the tree holds its shape alone.
    """
    template = traverse_util.flatten_dict(param_template(module))
    known_paths = {
        path
        for path, array in traverse_util.flatten_dict(known or {}).items()
        if path in template and np.shape(array) == template[path].shape
    }

    def init(key: jax.Array) -> dict[tuple, Any]:
        # Inputs may be given as shapes alone; their values have no influence on parameters.
        inputs = (jnp.zeros(x.shape, x.dtype) for x in module.dummy_inputs())
        params = traverse_util.flatten_dict(module.init(key, *inputs)["params"])
        return {path: x for path, x in params.items() if path not in known_paths}

    # Hundreds of small random draws: XLA's CPU back end compiles them three times as fast at level
    # 1 (10 s -> 3.5 s for a tiny autoencoder), runs them no slower, and draws the same numbers.
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if on_cpu else None
    drawn = jax.jit(init, compiler_options=options)(key)
    return traverse_util.unflatten_dict({path: drawn.get(path, x) for path, x in template.items()})


def param_template(module: nn.Module) -> dict[str, Any]:
    """Shapes and dtypes of a module's parameters, without computing any."""
    return jax.eval_shape(module.init, jax.random.key(0), *module.dummy_inputs())["params"]


def save_model(folder: str | os.PathLike, module: nn.Module, params: Mapping[str, Any]) -> None:
    """Writes a model folder, whole or not at all; an existing model folder is replaced.

    Args:
        folder: where to; parents are made.
        module: has `to_config()` and `dummy_inputs()`.
        params: the module's parameters; written as float32.

    Raises:
        UserError: the folder exists and is no model folder, or writing failed (disk full, no
            permission).
        MismatchError: `params` are not the module's.
    """
    folder, config = Path(folder), module.to_config()
    state_dict = params_to_state_dict(params)
    shapes = {name: array.shape for name, array in state_dict.items()}
    match_keys(
        shapes, param_template(module), f"parameters are not those of {type(module).__name__}"
    )
    with replacing_folder(folder, CONFIG) as new:
        write_model(new, config, shapes, state_dict)


def write_model(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, np.ndarray],
    **options: Any,
) -> None:
    """Writes config.json and weights into an existing folder.

    Args:
        folder: where to.
        config: the content of config.json; says which of the two public layouts it is.
        shapes, tensors: by PyTorch key.
        **options: of `write_tensors`: dtype, max_shard_bytes.
    """
    write_json(folder / CONFIG, config, sort_keys=True)
    name = DIFFUSERS_WEIGHTS if "_class_name" in config else TRANSFORMERS_WEIGHTS
    write_tensors(folder, name, shapes, tensors, **options)


def load_model(folder: str | os.PathLike, dtype: Any = None) -> tuple[nn.Module, dict[str, Any]]:
    """Reads a model folder, ours or a public one; the class is chosen from its config.json.

    Args:
        folder: holds config.json and safetensors (one file, or several with an index).
        dtype: compute type of the module; None keeps its inputs'. Parameters are float32 anyway.

    Returns:
        The module, and its parameters as arrays on the host.

    Raises:
        UserError: something is missing or unreadable, or the model is of a kind we do not know.
        MismatchError: the weights are not those that the config asks for; lists every difference.
    """
    folder = Path(folder)
    module = module_from_config(read_config(folder), dtype, where=str(folder))
    tensors = checked_tensors(folder, module)
    template = param_template(module)
    return module, state_dict_to_params(tensors, template, shapes=tensors.shapes)


def checked_tensors(folder: Path, module: nn.Module) -> "ModelTensors":
    """The tensors that a module expects, from its folder; none is read yet.

    Raises:
        UserError, MismatchError: see `load_model`.
    """
    what = f"weights in {folder} do not fit its {CONFIG} ({type(module).__name__})"
    return ModelTensors(TensorFiles(folder), module, what)


class ModelTensors(Mapping):
    """Tensors under exactly the PyTorch keys of a module, in the order of its parameters.

    A module's class may name `UNUSED_PARAMETERS`, patterns of what it computes nothing with: where
    a checkpoint lacks them they are zeros.

    Attributes:
        shapes: of every tensor.
        absent: keys of the unused ones that are not there.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], module: nn.Module, what: str):
        """`tensors` has `shapes` too; see `TensorFiles`. Raises MismatchError."""
        template = param_template(module)
        unused = getattr(module, "UNUSED_PARAMETERS", ())
        self._tensors, self.shapes = tensors, torch_shapes(template)
        self._names = match_keys(tensors.shapes, template, what, unused)
        self.absent = tuple(key for key in self.shapes if key not in self._names)

    def __getitem__(self, key: str) -> np.ndarray:
        if key in self._names:
            return self._tensors[self._names[key]]
        return np.zeros(self.shapes[key], np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def module_from_config(
    config: Mapping[str, Any], dtype: Any = None, where: str = "config"
) -> nn.Module:
    """Builds the module that a config.json describes.

    Raises:
        UserError: a kind of model, or a setting, that we do not have.
    """
    kind = config.get("_class_name") or config.get("model_type")
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise UserError(f"{where} holds a model of kind {kind!r}; accepted: {', '.join(_CLASSES)}")
    path, name = _CLASSES[kind]
    return getattr(importlib.import_module(path), name).from_config(config, dtype=dtype)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model folder's config.json."""
    if not folder.is_dir():
        raise UserError(f"no model folder {folder}; give a folder with {CONFIG} and safetensors")
    config = read_json(folder / CONFIG)
    if config is None:
        raise UserError(f"no {CONFIG} in {folder}; it is no model folder")
    return config
