"""Configs by name or path, with overrides from the command line."""

import ast
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from gen1_jax.errors import UserError
from gen1_jax.files import read_json

SAVED_CONFIG = "config.json"  # in the work folder: what the run was started with, paths resolved
DTYPES = ("float32", "bfloat16", "float16")  # accepted for computing and for exported weights
HELP = "a config by name or path, and its part: tiny:video, configs/tiny.py:video"


def load_config(spec: str, overrides: list[str] = (), default_part: str = "all") -> ConfigDict:
    """`NAME_OR_PATH[:PART]` → the part's ConfigDict, with `key.path=value` overrides, and locked.

    Raises:
      UserError: no such config or part, an unknown key, or a value of the wrong type.
    """
    name, _, part = spec.partition(":")
    module = _load_module(name)
    try:
        config = module.get_config(part or default_part)
    except ValueError as error:
        raise UserError(f"config {name}: {error}") from None
    config.lock()
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: key.path=value is accepted")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            config.update_from_flattened_dict({path: value})
        except (KeyError, AttributeError, TypeError, ValueError):
            known = ", ".join(sorted(_paths(config.to_dict())))
            raise UserError(
                f"--set {override}: no such key, or another type; keys: {known}"
            ) from None
        if path not in _paths(config.to_dict()):
            known = ", ".join(sorted(_paths(config.to_dict())))
            raise UserError(f"--set {override}: unknown key; keys: {known}")
    return config


def load_saved_config(workdir: Path) -> ConfigDict:
    """The config that a part was trained with, from its folder.

    Raises:
      UserError: the folder is not a trained part's.
    """
    config = read_json(workdir / SAVED_CONFIG)
    if config is None:
        raise UserError(
            f"no readable {SAVED_CONFIG} in {workdir}; accepted: the folder of a trained part"
        )
    return ConfigDict(config)


def resolve_paths(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with paths resolved that begin with ../: they start in the part's own folder."""

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
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(
                f"no config file {name}; accepted: a path to a .py file, or a name in configs/"
            )
        spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # it is the user's own code
            raise UserError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
    else:
        if not name.isidentifier() or importlib.util.find_spec(f"gen1_jax.configs.{name}") is None:
            from gen1_jax import configs

            known = sorted(p.stem for p in Path(configs.__path__[0]).glob("[a-z]*.py"))
            raise UserError(
                f"no config {name!r}; accepted: {', '.join(known)}, or a path to a .py file"
            )
        module = importlib.import_module(f"gen1_jax.configs.{name}")
    if not hasattr(module, "get_config"):
        raise UserError(f"{name} is no config: it has no get_config()")
    return module


def _paths(tree: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in tree.items():
        found |= (
            _paths(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else {prefix + key}
        )
    return found
