"""A config in words: every key with its value, its meaning, and where the value comes from."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from gen1_jax import config as configs
from gen1_jax.settings import Description, describe

DEFAULT, SET = "default", "--set"
COMMENTS = 44  # the column in which comments begin, where keys and values leave it free
_NONE = object()


class Row(NamedTuple):
    """One key of a config.

    Attributes:
      path: the key; a nested one has dots.
      value: its value; None if it was left open, and for a group.
      source: where the value comes from: "default", a config file, or "--set"; "" for a group.
      doc: what the key means, in one line; "" for a network's settings.
      is_group: whether the keys of a group follow.
    """

    path: str
    value: Any
    source: str
    doc: str
    is_group: bool = False


# ---- one part


def explain(spec: str, overrides: Sequence[str] = ()) -> list[Row]:
    """Returns every key of a part's config, those that were left open included.

    A value that several files give is said to come from the first of them: that of configs/tiny.py
    from there, also in configs/demo.py, which changes some of them.

    Args:
      spec: `NAME_OR_PATH:PART`.
      overrides: `key.path=value`, as `--set` takes them.

    Raises:
      UserError: there is no such config, part or key, or a value has the wrong type.
    """
    values = configs.load_config(spec, overrides).to_dict()
    plain = configs.flatten(configs.load_config(spec).to_dict())
    name, _, part = spec.partition(":")
    files = [
        (_label(name, module), configs.flatten(given))
        for module in _config_modules(configs.load_module(name))
        if (given := _get_config(module, part)) is not None
    ]
    named = {override.partition("=")[0] for override in overrides}

    def find_source(path: str, value: Any, default: Any) -> str:
        if path in named or (value != plain.get(path) and value != default):
            return SET
        if value == default:
            return DEFAULT
        found = [label for label, given in files if given.get(path, _NONE) == value]
        return found[-1] if found else files[0][0]

    rows = []
    for key in describe_config(values):
        value = _find(values, key.name)
        if key.is_group:
            rows.append(Row(key.name, None, "", key.doc, True))
        elif isinstance(value, Mapping) and value:
            rows.append(Row(key.name, None, "", key.doc, True))
            rows += [
                Row(path, item, find_source(path, item, _NONE), "", isinstance(item, Mapping))
                for path, item in _walk(value, f"{key.name}.")
            ]
        else:
            source = find_source(key.name, value, key.default)
            rows.append(Row(key.name, value, source, key.doc))
    return rows


def describe_config(values: Mapping[str, Any]) -> Iterator[Description]:
    """Yields every key that a checked config may have, in order."""
    from gen1_jax.configs import losses, schema
    from gen1_jax.data_pipelines import settings

    kind, inner = values["kind"], {}
    if kind == "train":
        inner["loss"] = losses.LOSSES[values["objective"]]
    if values.get("data"):
        forms = settings.SOURCES if kind == "encode" else settings.FORMS
        inner["data"] = forms[values["data"]["form"]]
    for key in describe(schema.KINDS[kind]):
        if key.name in inner:
            yield key._replace(is_group=True)
            keys = describe(inner[key.name], f"{key.name}.")
            yield from sorted(keys, key=lambda each: each.name != "data.form")  # the form first
        else:
            yield key


def write_yaml(rows: Iterable[Row]) -> str:
    """Returns a config as YAML, with a comment after each value: its source, and what it means."""
    lines = []
    for path, value, source, doc, is_group in rows:
        *groups, key = path.split(".")
        text = f"{'  ' * len(groups)}{key}:" + ("" if is_group else f" {write_value(value)}")
        comment = f"{source:<16} {doc}" if source else doc
        lines.append(f"{text:<{COMMENTS}}  # {comment}".rstrip(" #") if comment else text)
    return "\n".join(lines)


def write_value(value: Any) -> str:
    """Returns a value as YAML writes it on one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r"(?<![\w.\"])(-?\d+)e", r"\1.0e", text)  # 1e-05 would be a text


def _walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields the groups and values of a nested mapping by dotted path."""
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{key}.")


def _find(values: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


# ---- where values come from


def _config_modules(module: ModuleType) -> list[ModuleType]:
    """Returns a config's module and then, in turn, those configs that it builds on."""
    found = [module]
    for each in found:
        for value in vars(each).values():
            if isinstance(value, ModuleType) and hasattr(value, "get_config"):
                found += [value] if value not in found else []
    return found


def _get_config(module: ModuleType, part: str) -> dict[str, Any] | None:
    try:
        return configs.check_config(module.get_config(part)).to_dict()
    except Exception:  # another config need not have this part
        return None


def _label(name: str, module: ModuleType) -> str:
    """Returns what a user calls a config's file."""
    package, _, stem = module.__name__.rpartition(".")
    return f"configs/{stem}.py" if package else name


# ---- a whole config, and all of them


def list_parts(name: str) -> list[tuple[str, str]]:
    """Returns the parts of a config in order, each with a line about it.

    Raises:
      UserError: there is no such config.
    """
    whole = configs.load_config(name)
    return [(part, _summary(configs.load_config(f"{name}:{part}"))) for part in whole.parts]


def _summary(config: Any) -> str:
    from gen1_jax.configs import losses, schema

    about = schema.KINDS[config.kind].__doc__.rstrip(".")
    if config.kind == "train":
        about = f"{losses.LOSSES[config.objective].__doc__.rstrip('.')}; {config.num_steps} steps"
    if config.kind == "given":
        about = f"Comes from elsewhere: {config.made_by}"
    return about[0].lower() + about[1:]


def first_line(name: str) -> str:
    """Returns the first line of a config's own documentation."""
    lines = (configs.load_module(name).__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


# ---- the reference in docs/configs.md


def write_reference() -> str:
    """Returns all keys of all kinds of config as Markdown tables."""
    from gen1_jax.configs import losses, schema
    from gen1_jax.data_pipelines import settings

    data = "data_pipelines/settings.py"
    blocks = [
        "## Kinds of part",
        "",
        "A part's `kind` says what it does, and which keys it has.",
        "",
    ]
    for kind, cls in {configs.ALL: schema.Whole, **schema.KINDS}.items():
        blocks += [f"### `{kind}`", "", cls.__doc__, "", *_table(cls), ""]
    blocks += ["## Settings of each objective", "", "`loss` of a part of kind `train`.", ""]
    for objective, cls in losses.LOSSES.items():
        blocks += [f"### `{objective}`", "", cls.__doc__, "", *_table(cls, "loss."), ""]
    blocks += ["## Forms of data", "", f"`data` of a part of kind `train`; {data} checks it.", ""]
    for form, cls in settings.FORMS.items():
        blocks += [f"### `{form}`", "", cls.__doc__, "", *_table(cls, "data."), ""]
    blocks += ["## Forms of data to encode", "", "`data` of a part of kind `encode`.", ""]
    for form, cls in settings.SOURCES.items():
        blocks += [f"### `{form}`, to encode", "", cls.__doc__, "", *_table(cls, "data."), ""]
    return "\n".join(blocks)


def _table(cls: type, prefix: str = "") -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in describe(cls, prefix):
        if not key.is_group:
            default = "required" if key.is_required else f"`{key.default!r}`"
            rows.append(f"| `{key.name}` | {key.type} | {default} | {key.doc} |")
    return rows
