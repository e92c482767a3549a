"""Model folders: `config.json` and safetensors, in the public layouts of diffusers or transformers.

This is the one format of a finished model. A folder that is saved here loads in PyTorch by
`from_pretrained`, and public checkpoints load here.
"""

import functools
import importlib
import os
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from gen1_jax.errors import UserError
from gen1_jax.files import as_path, read_json, replacing_folder, write_json
from gen1_jax.models.config import check_against_tensors, check_count
from gen1_jax.pipeline import CONFIG_KINDS
from gen1_jax.weights import prior_scale
from gen1_jax.weights.naming import (
    match_keys,
    params_to_state_dict,
    state_dict_to_params,
    torch_shapes,
)
from gen1_jax.weights.templates import trace_template
from gen1_jax.weights.tensor_files import (
    DIFFUSERS_WEIGHTS,
    TRANSFORMERS_WEIGHTS,
    TensorFiles,
    write_tensors,
)

CONFIG = "config.json"
# What diffusers' EMAModel.save_pretrained adds to a model's config.json: the state of the average.
_OF_AVERAGE = frozenset(
    {
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    }
)


# ---- parameters of a module


def init_params(
    module: nn.Module, key: jax.Array, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns random parameters of a module that has `dummy_inputs()`, drawn by one program.

    Args:
      module: the module.
      key: the source of randomness.
      known: parameters that the caller has already. A parameter with the same name and shape is not
        drawn: the returned tree holds only its shape.
    """
    template = traverse_util.flatten_dict(param_template(module))
    known_paths = {
        path
        for path, array in traverse_util.flatten_dict(known or {}).items()
        if path in template and np.shape(array) == template[path].shape
    }

    def init(key: jax.Array) -> dict[tuple, Any]:
        # Inputs may be given as shapes alone, because their values do not influence parameters.
        inputs = (jnp.zeros(x.shape, x.dtype) for x in module.dummy_inputs())
        params = traverse_util.flatten_dict(module.init(key, *inputs)["params"])
        return {path: x for path, x in params.items() if path not in known_paths}

    # The program has hundreds of small random draws. At level 1 XLA's CPU back end compiles them
    # three times as fast (3.5 s instead of 10 s for a tiny autoencoder), runs them no slower, and
    # draws the same numbers.
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if on_cpu else None
    drawn = jax.jit(init, compiler_options=options)(key)
    return traverse_util.unflatten_dict({path: drawn.get(path, x) for path, x in template.items()})


def param_template(module: nn.Module) -> dict[str, Any]:
    """Returns shapes and dtypes of a module's parameters, without computing any.

    Raises:
      UserError: there are more parameters than any network here may have.
    """
    # A tree of the caller's own, without the sharding of a mesh that was set when it was traced.
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _cached_template(module)
    )


@functools.lru_cache(maxsize=32)
def _cached_template(module: nn.Module) -> dict[str, Any]:
    """Traces `init` once for each module, which takes seconds for a large network."""
    template = trace_template(module)
    check_count(type(module), sum(leaf.size for leaf in jax.tree.leaves(template)))
    return template


# ---- writing


def save_model(folder: str | os.PathLike, module: nn.Module, params: Mapping[str, Any]) -> None:
    """Writes a model folder, atomically; an existing model folder is replaced.

    Args:
      folder: the folder to write; its parents are made.
      module: has `to_config()` and `dummy_inputs()`.
      params: the module's parameters, which are written as float32.

    Raises:
      UserError: the folder exists and is no model folder, or it cannot be written.
      MismatchError: `params` are not the module's.
    """
    folder, config = as_path(folder), module.to_config()
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
      folder: the folder.
      config: the content of config.json, which says which of the two public layouts it is.
      shapes: the shape of each tensor, by PyTorch key.
      tensors: the tensors, by PyTorch key; each is read once.
      **options: passed to `write_tensors`: dtype, max_shard_bytes.
    """
    write_json(folder / CONFIG, config, sort_keys=True)
    name = DIFFUSERS_WEIGHTS if "_class_name" in config else TRANSFORMERS_WEIGHTS
    write_tensors(folder, name, shapes, tensors, **options)


# ---- reading


def load_model(folder: str | os.PathLike, dtype: Any = None) -> tuple[nn.Module, dict[str, Any]]:
    """Reads a model folder, ours or a public one. Its config.json says which class it is of.

    Args:
      folder: holds config.json and safetensors, in one file or in several with an index.
      dtype: the type that the module computes in; None keeps the type of its inputs. Parameters
        are float32 in any case.

    Returns:
      The module, and its parameters as arrays on the host.

    Raises:
      UserError: a file is missing or unreadable, or the model is of a kind that we do not have.
      MismatchError: the weights are not those that the config asks for; lists every difference.
    """
    folder = as_path(folder)
    module = module_from_config(read_config(folder), dtype, where=str(folder))
    tensors = checked_tensors(folder, module)
    template = param_template(module)
    return module, state_dict_to_params(tensors, template, shapes=tensors.shapes)


def read_model(
    folder: Path, kind: str, variant: str | None = None
) -> tuple[dict[str, Any], "ModelTensors"]:
    """Returns config and tensors of a model folder in our names; no tensor is read yet.

    Args:
      folder: the model folder.
      kind: the name of the class that the model must be of.
      variant: the variant of the weights; None takes the plain ones, or else the only variant.

    Raises:
      UserError: the model is of another kind.
      UserError, MismatchError: see `load_model`.
    """
    module = module_from_config(read_config(folder), where=str(folder))
    if type(module).__name__ != kind:
        raise UserError(f"{folder} holds {type(module).__name__}; accepted here: {kind}")
    return module.to_config(), checked_tensors(folder, module, variant)


def checked_tensors(folder: Path, module: nn.Module, variant: str | None = None) -> "ModelTensors":
    """Returns the tensors that a module expects, from its folder; no tensor is read yet.

    Raises:
      UserError, MismatchError: see `load_model`.
    """
    what = f"weights in {folder} do not fit its {CONFIG} ({type(module).__name__})"
    return ModelTensors(TensorFiles(folder, variant), module, what)


class ModelTensors(Mapping):
    """Tensors under exactly the PyTorch keys of a module, in the order of its parameters.

    The class of a module may name `UNUSED_PARAMETERS`: patterns of parameters that nothing is
    computed with. Where a checkpoint lacks them, they are zeros.

    Attributes:
      shapes: the shape of every tensor.
      absent: the keys of the unused parameters that the checkpoint lacks.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], module: nn.Module, what: str):
        """Matches tensors with the parameters of a module.

        Args:
          tensors: the tensors at hand; has `shapes` too, as `TensorFiles` does.
          module: the module.
          what: the beginning of the error's line.

        Raises:
          UserError: the module's settings ask for more than the tensors hold.
          MismatchError: the tensors are not those of the module.
        """
        check_against_tensors(module, tensors.shapes, what)
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

    Args:
      config: the content of config.json.
      dtype: the type that the module computes in; None keeps the type of its inputs.
      where: what the error's line names as the place of the config.

    Raises:
      UserError: a kind of model, or a setting, that we do not have.
    """
    kind = config.get("_class_name") or config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_KINDS:
        accepted = ", ".join(CONFIG_KINDS)
        raise UserError(f"{where} holds a model of kind {reprlib.repr(kind)}; accepted: {accepted}")
    if "_class_name" in config and config.keys() >= _OF_AVERAGE:
        config = {key: value for key, value in config.items() if key not in _OF_AVERAGE}
    part = CONFIG_KINDS[kind]  # the module is imported only now, when it is needed
    return getattr(importlib.import_module(part.module), part.kind).from_config(config, dtype=dtype)


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the content of a model folder's config.json.

    Raises:
      UserError: there is no such folder or file, or the file cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"no model folder {folder}; give a folder with {CONFIG} and safetensors")
    config = read_json(folder / CONFIG)
    if config is None:
        raise UserError(f"no {CONFIG} in {folder}; it is no model folder")
    return prior_scale.complete(config, folder)
