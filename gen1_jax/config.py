"""Loads configs by name or path, and changes them by `--set`."""

import importlib
import importlib.util
import json
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import join, read_json
from gen1_jax.settings import check, closest, list_kinds, parse, refuse_key, shorten, show, to_dict

# The config of a trained part, in its work folder, with resolved paths.
SAVED_CONFIG = "config.json"
# Beside it: which models and data the part was made from; see gen1_jax/made_from.py.
MADE_FROM = "made_from.json"
ALL = "all"  # kind of a config that lists parts, and the name that stands for all of them
DTYPES = ("float32", "bfloat16", "float16")  # accepted for computing and for exported weights
# Settings that training fills in where a config says -1: the tokenizer's own ids.
_LEARNT = ("model.text_config.bos_token_id", "model.text_config.eos_token_id")
_SHOWN = 8  # changed settings that are listed
HELP = "a config by name or path, and its part: tiny:video, configs/tiny.py:video"


def load_config(spec: str, overrides: Sequence[str] = (), default_part: str = "all") -> ConfigDict:
    """Returns a part's config, checked, with its defaults, and locked.

    Args:
      spec: `NAME_OR_PATH[:PART]`; a name is that of a file in configs/.
      overrides: `key.path=value`, as `--set` takes them.
      default_part: the part where `spec` names none.

    Raises:
      UserError: there is no such config, part or key, or a value has the wrong type.
    """
    name, _, part = spec.partition(":")
    module, part = load_module(name), part or default_part
    try:
        config = module.get_config(part)
    except ValueError as error:
        raise UserError(f"config {name}: {error}") from None
    except Exception as error:  # the file is the user's own code, which may raise anything
        line = _line_of(error, module)
        raise UserError(
            f"config {name}{line}: {type(error).__name__}: {one_line(error)}"
        ) from error
    config = check_config(config, f"config {name}:{part}")
    if overrides:
        config = _override(config, overrides, f"{name}:{part}")
    config.lock()
    return config


def check_config(config: Any, where: str = "config") -> ConfigDict:
    """Returns a config with the defaults of its kind, its objective and its form of data.

    Args:
      config: a `ConfigDict` or a mapping.
      where: what an error's line begins with.

    Raises:
      UserError: a key is unknown or missing, or a value has the wrong type.
    """
    from gen1_jax.configs import losses, schema

    if not isinstance(config, ConfigDict | Mapping):
        raise UserError(f"{where} is a {type(config).__name__}; a ConfigDict is accepted")
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    kind = values.get("kind")
    if kind == ALL:
        return ConfigDict(to_dict(check(schema.Whole, values, where)))
    if not isinstance(kind, str) or kind not in schema.KINDS:
        known = f"{', '.join(schema.KINDS)}{closest(str(kind), schema.KINDS)}"
        raise UserError(f"{where}: kind is {show(kind)}; accepted: {known}")
    values = to_dict(check(schema.KINDS[kind], values, where))
    if kind == "train":
        loss = losses.LOSSES[values["objective"]]
        values["loss"] = to_dict(check(loss, values["loss"], where, "loss."))
    if values.get("data"):
        values["data"] = _check_data(values["data"], kind, where)
    return ConfigDict(values)


def _check_data(data: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    from gen1_jax.data_pipelines import settings

    try:
        checked = settings.check_source(data) if kind == "encode" else settings.check_data(data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return to_dict(checked)


def load_other_part(spec: str, part: str) -> ConfigDict:
    """Returns another part of the config that `spec` names a part of."""
    return load_config(f"{spec.partition(':')[0]}:{part}")


def changed_settings(config: ConfigDict, workdir: Path) -> str:
    """Says which settings of a run differ from those that it was started with.

    Args:
      config: the settings now, with resolved paths.
      workdir: the part's folder, whose config.json holds the settings then.

    Returns:
      "seed was 0, is 3; …", or "". Keys that only one of the two has are left out: a newer version
      has more of them. A path counts as the same if it leads to the same place in the run.
    """
    try:
        then = flatten(read_json(workdir / SAVED_CONFIG) or {})
    except UserError:  # a damaged file, which this run replaces
        return ""
    now = flatten(json.loads(json.dumps(config.to_dict())))
    run = workdir.absolute().parent

    def is_same(before: Any, after: Any) -> bool:
        if isinstance(before, list) and isinstance(after, list):
            return len(before) == len(after) and all(map(is_same, before, after))
        if isinstance(before, str) and isinstance(after, str) and os.sep in after:
            place = os.path.relpath(after, run)
            return before == after or (place[0] != "." and f"/{before}".endswith(f"/{place}"))
        return before == after

    changed = [
        f"{key} was {show(then[key])}, is {show(value)}"
        for key, value in now.items()
        if key in then
        and not is_same(then[key], value)
        and (key not in _LEARNT or value != -1)
        # A setting that is left open, None, was filled in when the run started.
        and value is not None
    ]
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return "; ".join(changed[:_SHOWN]) + more


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
    """Returns the config with every path resolved that begins with `../` or `~/`.

    The first begins in the part's folder, the second in the user's home folder.
    """

    def resolve(value):
        if isinstance(value, str) and (value == ".." or value.startswith("../")):
            return join(workdir, value)
        if isinstance(value, str) and value.startswith("~/"):
            return os.path.expanduser(value)
        if isinstance(value, dict):
            return {key: resolve(entry) for key, entry in value.items()}
        if isinstance(value, tuple):
            return tuple(map(resolve, value))
        return value

    return ConfigDict(resolve(config.to_dict()))


def load_module(name: str) -> ModuleType:
    """Returns the module of a config, by its name in configs/ or the path of its file.

    Raises:
      UserError: there is no such config, or its file cannot be loaded.
    """
    if name.endswith(".py"):
        module = _load_file(Path(name))
    elif name.isidentifier() and importlib.util.find_spec(f"gen1_jax.configs.{name}"):
        module = importlib.import_module(f"gen1_jax.configs.{name}")
    else:
        known = known_configs()
        raise UserError(
            f"no config {name!r}; accepted: {', '.join(known)}, or a path to a .py file"
            f"{closest(name, known)}"
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
        raise UserError(
            f"{path}{_line_of(error, module)} cannot be loaded: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    return module


def _line_of(error: BaseException, module: ModuleType) -> str:
    """Returns ", line N": the last line of the module that an error came through; "" if none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == module.__file__]
    return f", line {lines[-1]}" if lines else ""


def known_configs() -> list[str]:
    """Returns the names of the configs in configs/."""
    from gen1_jax import configs

    names = {path.stem for path in Path(configs.__path__[0]).glob("[a-z]*.py")}
    return sorted(names - {"base", "losses", "schema"})  # which only the others import


# ---- overrides


def _override(config: ConfigDict, overrides: Sequence[str], where: str) -> ConfigDict:
    """Returns a checked config with `key.path=value` set.

    Another form of data comes first: the other settings of data are then those of the new form.
    """
    if config.kind == ALL:
        raise UserError(
            f"--set {shorten(overrides[0])}: name a part too, such as {where.split(':')[0]}:video"
        )
    values, pairs = config.to_dict(), []
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise UserError(f"--set {shorten(override)}: key.path=value is accepted")
        pairs.append((path, text))
    for path, text in sorted(pairs, key=lambda pair: pair[0] != "data.form"):
        if path == "data.form" and "data" in values:
            values["data"] = _switch_form(values["data"], values["kind"], text)
        else:
            _set(values, path, text)
    return check_config(values, f"{where} with --set")


def _switch_form(data: Mapping[str, Any], kind: str, form: str) -> dict[str, Any]:
    from gen1_jax.data_pipelines import settings

    forms = settings.SOURCES if kind == "encode" else settings.FORMS
    if form not in forms:
        guess = closest(form, forms)
        raise UserError(
            f"--set {shorten(f'data.form={form}')}: accepted: {', '.join(forms)}{guess}"
        )
    return settings.switch_form(data, form)


def _set(values: dict[str, Any], path: str, text: str) -> None:
    """Sets one value in a config's tree."""
    kinds = _kinds_of(values)
    model = values.get("model", {})
    if path.startswith("model.") and (not model or "like" in model):
        kinds.setdefault(path, Any)  # the network's class checks it
    given = shorten(f"{path}={text}")
    if path not in kinds:
        inner = [key for key in kinds if key.startswith(f"{path}.")]
        if inner:
            raise UserError(f"--set {given}: {path} is a group; such as {inner[0]}=VALUE")
        raise UserError(f"--set {given}: {refuse_key(path, kinds)}")
    *groups, last = path.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[last] = parse(kinds[path], text, f"--set {path}")


def _kinds_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the types of everything that can be set in a config, by dotted path."""
    from gen1_jax.configs import losses, schema

    kinds, groups = list_kinds(schema.KINDS[values["kind"]]), {}
    if values["kind"] == "train":
        groups["loss"] = list_kinds(losses.LOSSES[values["objective"]], "loss.")
    if form := values.get("data", {}).get("form"):
        from gen1_jax.data_pipelines import settings

        forms = settings.SOURCES if values["kind"] == "encode" else settings.FORMS
        groups["data"] = list_kinds(forms[form], "data.")
    if values.get("model"):
        groups["model"] = {
            path: _kind_like(value) for path, value in flatten(values["model"], "model.").items()
        }
    for name, group in groups.items():
        kinds.pop(name, None)
        kinds |= group
    return kinds


def _kind_like(value: Any) -> Any:
    """Returns what may stand in place of a value of the network's, which its class then checks."""
    if isinstance(value, tuple | list):
        return tuple[_kind_like(value[0]) if value else Any, ...]
    if type(value) in (int, float):
        return type(value) | tuple[type(value), ...]
    return type(value) if isinstance(value, bool | str) else Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a nested config by dotted path; an empty mapping is a value."""
    found = {}
    for key, value in tree.items():
        is_group = isinstance(value, Mapping) and value
        found |= flatten(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return found
