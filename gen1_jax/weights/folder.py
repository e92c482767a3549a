"""Model folders: `config.json` and safetensors, in the public layouts of diffusers or transformers.

This is the one format of a finished model: what is saved here loads in PyTorch by
`from_pretrained`, and public checkpoints load here.
"""

import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gen1_jax.errors import UserError
from gen1_jax.weights.naming import (
    MismatchError,
    list_names,
    params_to_state_dict,
    state_dict_to_params,
)

_CONFIG = "config.json"
_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
_TRANSFORMERS_WEIGHTS = "model.safetensors"

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

_READABLE = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


class MergeReport(NamedTuple):
    """What `merge_params` did; tuples of "/"-paths."""

    new: tuple[str, ...]
    dropped: tuple[str, ...]
    widened: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a log."""
        return "; ".join(
            f"{len(names)} {title}" + (f" ({list_names(names)})" if names else "")
            for title, names in self._asdict().items()
        )


def init_params(
    module: nn.Module, key: jax.Array, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Random parameters of a module that has `dummy_inputs()`, compiled as one program.

    Args:
        module: the module.
        key: randomness.
        known: parameters to be merged over these. What has its name there is not drawn: the tree
            holds its shape alone.
    """
    known_paths = set(traverse_util.flatten_dict(known or {}))

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
    template = traverse_util.flatten_dict(param_template(module))
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
    state_dict = {
        name: np.asarray(array, np.float32) for name, array in params_to_state_dict(params).items()
    }
    what = f"parameters are not those of {type(module).__name__}"
    state_dict_to_params(state_dict, param_template(module), what)
    weights = _DIFFUSERS_WEIGHTS if "_class_name" in config else _TRANSFORMERS_WEIGHTS
    with replacing_folder(folder) as new:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (new / _CONFIG).write_text(text, encoding="utf-8")
        # transformers refuses a file that does not say which framework it is for.
        save_file(state_dict, new / weights, metadata={"format": "pt"})
        _apply_umask(new / weights, 0o666)


@contextmanager
def replacing_folder(folder: Path, marker: str = _CONFIG) -> Iterator[Path]:
    """Yields a temporary sibling of `folder`, which takes its place if no error ends the block.

    Raises:
        UserError: `folder` is a file, or holds something but not `marker` (so it is not ours to
            replace); or the operating system refused.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write {folder}: it is a file; give a folder")
    if folder.is_dir() and not (folder / marker).exists() and any(folder.iterdir()):
        raise UserError(
            f"will not replace {folder}: it holds files but no {marker}; give a new or empty folder"
        )
    new = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
        _apply_umask(new, 0o777)
        yield new
        _swap(new, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {folder}: {error}") from error
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)


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
    state_dict = read_state_dict(folder)
    what = f"weights in {folder} do not fit its {_CONFIG} ({type(module).__name__})"
    return module, state_dict_to_params(state_dict, param_template(module), what)


def module_from_config(
    config: Mapping[str, Any], dtype: Any = None, where: str = "config"
) -> nn.Module:
    """Builds the module that a config.json describes.

    Raises:
        UserError: a kind of model, or a setting, that we do not have.
    """
    kind = config.get("_class_name") or config.get("model_type")
    if kind not in _CLASSES:
        raise UserError(f"{where} holds a model of kind {kind!r}; accepted: {', '.join(_CLASSES)}")
    path, name = _CLASSES[kind]
    return getattr(importlib.import_module(path), name).from_config(config, dtype=dtype)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model folder's config.json."""
    if not folder.is_dir():
        raise UserError(f"no model folder {folder}; give a folder with {_CONFIG} and safetensors")
    config = _read_json(folder / _CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / _CONFIG} is no model config; it must hold a JSON object")
    return config


def read_state_dict(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a model folder as float32 host arrays, keys as in PyTorch.

    Raises:
        UserError: no weights, an unreadable file, or tensors that are not floating point.
    """
    state_dict = {}
    for file in _weight_files(folder):
        try:
            tensors = load_file(file)
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing, but the index beside it lists it") from error
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{file} is no whole safetensors file: {error}") from error
        for name, array in tensors.items():
            if array.dtype in _READABLE:
                array = array.astype(np.float32, copy=False)
            elif array.dtype.kind not in "biu":  # integers are constants such as position_ids
                raise UserError(
                    f"{file}: {name} is {array.dtype}; accepted: float32, float16, bfloat16"
                )
            state_dict[name] = array
    return state_dict


def merge_params(
    template: Mapping[str, Any],
    loaded: Mapping[str, Any],
    new: Sequence[str] = (),
    dropped: Sequence[str] = (),
    widened: Sequence[str] = (),
) -> tuple[dict[str, Any], MergeReport]:
    """Puts loaded parameters into a freshly initialised tree, and accounts for every name.

    Patterns are regular expressions, searched for in "/"-paths
    (`down_blocks_0/resnets_1/conv1/kernel`).

    Args:
        template: the wanted parameters, initialised (new ones keep these values).
        loaded: parameters of the model to start from.
        new: what the wanted model may have and the loaded one lack. A parameter of another shape
            that matches both `new` and `dropped` starts afresh.
        dropped: what the loaded model may have and the wanted one lack.
        widened: kernels that may have more input channels than the loaded ones: the loaded values
            come first, zeros after, so that added inputs have no influence yet.

    Returns:
        The parameters (structure and dtypes of `template`) and the report.

    Raises:
        MismatchError: a name or a shape that no pattern allows; lists them all.
    """
    wanted = traverse_util.flatten_dict(template, sep="/")
    source = traverse_util.flatten_dict(loaded, sep="/")
    is_new, is_dropped, is_widened = map(_matcher, (new, dropped, widened))

    merged, added, grown, missing, wrong_shapes = {}, [], [], [], []
    removed = [path for path in source if path not in wanted]
    unexpected = [path for path in removed if not is_dropped(path)]
    for path, target in wanted.items():
        if path not in source:
            (added if is_new(path) else missing).append(path)
            merged[path] = target
            continue
        array, shape = np.asarray(source[path]), tuple(target.shape)
        if array.shape != shape and is_widened(path) and _only_wider(path, array.shape, shape):
            grown.append(path)
            extra = [(0, want - got) for got, want in zip(array.shape, shape, strict=True)]
            array = np.pad(array, extra)
        elif array.shape != shape and is_new(path) and is_dropped(path):
            added.append(path)
            removed.append(path)
            array = target
        elif array.shape != shape:
            wrong_shapes.append((path, array.shape, shape))
        merged[path] = array.astype(target.dtype)
    if missing or unexpected or wrong_shapes:
        advice = "; only what a pattern names may be new, dropped or widened"
        raise MismatchError("parameters do not merge", missing, unexpected, wrong_shapes, advice)
    params = traverse_util.unflatten_dict(merged, sep="/")
    return params, MergeReport(tuple(added), tuple(removed), tuple(grown))


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    if isinstance(patterns, str):
        raise TypeError(f"patterns must be a sequence of strings, not the string {patterns!r}")
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda path: any(pattern.search(path) for pattern in compiled)


def _only_wider(path: str, got: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Whether two kernels differ in nothing but more input channels (the last axis but one)."""
    if not path.endswith("kernel") or len(got) != len(want) or len(got) < 2:
        return False
    return (*got[:-2], got[-1]) == (*want[:-2], want[-1]) and got[-2] < want[-2]


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or those that its index lists."""
    for name in (_DIFFUSERS_WEIGHTS, _TRANSFORMERS_WEIGHTS):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            shards = _read_json(index)
            shards = shards.get("weight_map") if isinstance(shards, dict) else None
            if not shards:
                raise UserError(f"{index} lists no files; it must hold a weight_map")
            return [folder / shard for shard in sorted(set(shards.values()))]
    raise UserError(
        f"no weights in {folder}; accepted: {_DIFFUSERS_WEIGHTS} or {_TRANSFORMERS_WEIGHTS}, "
        "or the index of several"
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no {file.name} in {file.parent}; it is no model folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error


def _swap(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`; what was there goes only once the new stands in its place."""
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    folder.rename(old)  # onto an empty folder: allowed, and atomic
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _apply_umask(path: Path, mode: int) -> None:
    """Gives a file that was made private the permissions of any other new file."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)
