"""Loads configs by name or path, and changes them by `--set`."""

import ast
import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from gen1_jax.errors import UserError
from gen1_jax.files import read_json

# The config of a trained part, in its work folder, with resolved paths.
SAVED_CONFIG = "config.json"
DTYPES = ("float32", "bfloat16", "float16")  # accepted for computing and for exported weights
HELP = "a config by name or path, and its part: tiny:video, configs/tiny.py:video"


def load_config(spec: str, overrides: Sequence[str] = (), default_part: str = "all") -> ConfigDict:
    """Returns a part's config, locked.

    Args:
      spec: `NAME_OR_PATH[:PART]`; a name is that of a file in configs/.
      overrides: `key.path=value`, as `--set` takes them.
      default_part: the part where `spec` names none.

    Raises:
      UserError: there is no such config, part or key, or a value has the wrong type.
    """
    name, _, part = spec.partition(":")
    module = _load_module(name)
    try:
        config = module.get_config(part or default_part)
    except ValueError as error:
        raise UserError(f"config {name}: {error}") from None
    config.lock()
    for override in overrides:
        _override(config, override)
    return config


def load_other_part(spec: str, part: str) -> ConfigDict:
    """Returns another part of the config that `spec` names a part of."""
    return load_config(f"{spec.partition(':')[0]}:{part}")


def load_model_configs(spec: str, folders: Mapping[str, str]) -> dict[str, dict]:
    """Returns what a config says of its own models, without reading a weight.

    Args:
      spec: as for `load_config`.
      folders: name → model folder `../PART/model`.

    Returns:
      Name → config.json of the part's model.
    """
    return {
        name: load_other_part(spec, Path(folder).parent.name).model.to_dict()
        for name, folder in folders.items()
    }


def load_saved_config(workdir: Path) -> ConfigDict:
    """Returns the config that a part was trained with, from the part's folder.

    Raises:
      UserError: the folder is not that of a trained part.
    """
    saved = read_json(workdir / SAVED_CONFIG)
    if saved is None or "model" not in saved:  # a model folder has a config.json of its own
        raise UserError(
            f"no readable {SAVED_CONFIG} in {workdir}; accepted: the folder of a trained part"
        )
    return ConfigDict(saved)


def resolve_paths(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns the config with every path that begins with `../` resolved from the part's folder."""

    def resolve(value):
        if isinstance(value, str) and value.startswith("../"):
            return os.path.normpath(workdir / value)
        if isinstance(value, dict):
            return {key: resolve(entry) for key, entry in value.items()}
        if isinstance(value, tuple):
            return tuple(map(resolve, value))
        return value

    return ConfigDict(resolve(config.to_dict()))


def _load_module(name: str) -> ModuleType:
    if name.endswith(".py"):
        module = _load_file(Path(name))
    elif name.isidentifier() and importlib.util.find_spec(f"gen1_jax.configs.{name}"):
        module = importlib.import_module(f"gen1_jax.configs.{name}")
    else:
        raise UserError(
            f"no config {name!r}; accepted: {', '.join(known_configs())}, or a path to a .py file"
        )
    if not hasattr(module, "get_config"):
        raise UserError(f"{name} is no config: it has no get_config()")
    return module


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(
            f"no config file {path}; accepted: a path to a .py file, or a name in configs/"
        )
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's own code, which may raise anything
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def known_configs() -> list[str]:
    """Returns the names of the shipped configs."""
    from gen1_jax import configs

    names = {path.stem for path in Path(configs.__path__[0]).glob("[a-z]*.py")}
    return sorted(names - {"base"})  # which only the others import


def _override(config: ConfigDict, override: str) -> None:
    """Sets one `key.path=value` in a locked config."""
    path, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: key.path=value is accepted")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    known = ", ".join(sorted(_key_paths(config.to_dict())))
    try:
        config.update_from_flattened_dict({path: value})
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UserError(f"--set {override}: no such key, or another type; keys: {known}") from None
    if path not in _key_paths(config.to_dict()):
        raise UserError(f"--set {override}: unknown key; keys: {known}")


def _key_paths(tree: dict, prefix: str = "") -> set[str]:
    """Returns the paths of a config's values, as `optimizer.b1`."""
    found = set()
    for key, value in tree.items():
        is_branch = isinstance(value, dict) and value
        found |= _key_paths(value, f"{prefix}{key}.") if is_branch else {prefix + key}
    return found
