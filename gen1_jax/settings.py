"""Settings with a name, a type, a default and one line of documentation, checked in one place.

A group of settings is a dataclass whose fields are made by `setting` and `required`:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Optimizer:
        learning_rate: float = setting(1e-3, "highest rate", low=0)

`check` reads values into it, and refuses in one line whatever does not fit.
"""

import ast
import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from gen1_jax.errors import UserError
from gen1_jax.kinds import Limits, Unfit, convert_value, is_mapping, kind_of, literal_keys, words

T = TypeVar("T")
FEW = 12  # a refusal lists the accepted keys if there are at most this many
LONGEST_VALUE = 60  # characters of a value that a refusal quotes


# ---- declaring


def setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None
) -> dataclasses.Field:
    """Returns a dataclass field that has a default.

    Args:
      default: the value where a user gives none.
      doc: what the setting means, in one line, with its unit.
      low: least number that is accepted, for the value or for each number in it.
      high: greatest number that is accepted.
    """
    metadata = {"doc": doc, "low": low, "high": high}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(doc: str, *, low: float | None = None, high: float | None = None) -> dataclasses.Field:
    """Returns a dataclass field without a default, which a user must give; see `setting`."""
    return dataclasses.field(metadata={"doc": doc, "low": low, "high": high})


class Description(NamedTuple):
    """One setting in words.

    Attributes:
      name: the key; that of a nested setting has dots: `optimizer.b1`.
      type: what is accepted, in words.
      default: the default; `dataclasses.MISSING` for a required setting.
      doc: what the setting means, in one line.
      is_group: whether it is a nested group, whose settings follow.
    """

    name: str
    type: str
    default: Any
    doc: str
    is_group: bool = False

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING


def describe(cls: type, prefix: str = "", defaults: Any = None) -> Iterator[Description]:
    """Yields every setting of a group; a nested group is followed by its own settings.

    Args:
      cls: the group.
      prefix: stands before each name, such as `data.`.
      defaults: a group whose values are the defaults; None: those of `cls`.
    """
    kinds = _kinds(cls)
    for field in dataclasses.fields(cls):
        kind, doc = kinds[field.name], field.metadata.get("doc", "")
        name, default = f"{prefix}{field.name}", field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if defaults is not None:
            default = getattr(defaults, field.name)
        is_group = dataclasses.is_dataclass(kind)
        yield Description(name, words(kind, _limits(field)), default, doc, is_group)
        if is_group:
            yield from describe(kind, f"{name}.", default if isinstance(default, kind) else None)


def list_kinds(cls: type, prefix: str = "") -> dict[str, Any]:
    """Returns the types of all settings by dotted name; nested groups give way to their settings.

    A mapping whose keys are known, such as `Mapping[Literal["vae", "clip"], str]`, counts as a
    nested group.
    """
    found = {}
    for name, kind in _kinds(cls).items():
        keys = literal_keys(kind)
        if dataclasses.is_dataclass(kind):
            found |= list_kinds(kind, f"{prefix}{name}.")
        elif keys:
            found |= {f"{prefix}{name}.{key}": typing.get_args(kind)[1] for key in keys}
        else:
            found[f"{prefix}{name}"] = kind
    return found


# ---- checking


def check(cls: type[T], values: Mapping[str, Any], where: str = "", prefix: str = "") -> T:
    """Returns the group of settings that has these values, and defaults for the rest.

    A list becomes a tuple, a whole number stands for a number, and a mapping is read into the
    nested group that its field names.

    Args:
      cls: the group, a dataclass.
      values: values by key.
      where: what the error's line begins with, such as the config's name.
      prefix: stands before each key in an error, such as `data.`.

    Raises:
      UserError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    start = f"{where}: " if where else ""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UserError(f"{start}{refuse_key(str(key), fields, prefix)}")
    kinds, converted = _kinds(cls), {}
    for name, field in fields.items():
        kind, key, limits = kinds[name], f"{prefix}{name}", _limits(field)
        if name in values:
            value = values[name]
            if hasattr(value, "to_dict"):  # an ml_collections.ConfigDict
                value = value.to_dict()
            if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
                converted[name] = check(kind, value, where, f"{key}.")
                continue
            if isinstance(value, Mapping) and is_mapping(kind):
                known, inner = literal_keys(kind), typing.get_args(kind)[1]
                for other in value:
                    if known and other not in known:
                        raise UserError(f"{start}{refuse_key(str(other), known, f'{key}.')}")
                converted[name] = {
                    str(other): convert(inner, item, f"{start}{key}.{other}", limits)
                    for other, item in value.items()
                }
                continue
            converted[name] = convert(kind, value, f"{start}{key}", limits)
        elif field.default is field.default_factory is dataclasses.MISSING:
            doc = field.metadata.get("doc", "")
            raise UserError(f"{start}{key} is missing; {words(kind, limits)} is accepted: {doc}")
    return cls(**converted)


def to_dict(group: Any) -> dict[str, Any]:
    """Returns a group of settings as nested dicts, without those settings that are None."""
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    return {
        name: to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if value is not None
    }


def convert(kind: Any, value: Any, key: str, limits: Limits | None = None) -> Any:
    """Returns a value as its type wants it.

    Args:
      kind: the type.
      value: the value.
      key: the setting's name, with which the error's line begins.
      limits: bounds of the number, or of each number in the value.

    Raises:
      UserError: the value has the wrong type or is out of range.
    """
    limits = limits or Limits()
    try:
        return convert_value(kind, value, limits)
    except Unfit as unfit:
        said = show(value) if unfit.by_range else f"{show(value)} ({kind_of(value)})"
        raise UserError(f"{key} is {said}; {words(kind, limits)} is accepted") from None


def parse(kind: Any, text: str, key: str) -> Any:
    """Returns the value that a text on the command line stands for, without checking its range.

    Text needs no quotes, a list no brackets, and `true`, `false` and `none` are known.

    Args:
      kind: the type that is wanted.
      text: the text.
      key: the setting's name, with which the error's line begins.

    Raises:
      UserError: the text stands for no value of this type.
    """
    named = {"true": True, "false": False, "none": None, "null": None}
    value = named.get(text.lower(), _literal(text))
    items = tuple(_literal(item.strip()) for item in text.split(",") if item.strip())
    for candidate in (value, text, items):
        try:
            return convert_value(kind, candidate, Limits())
        except Unfit:
            continue
    return convert(kind, value, key)  # raises


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def refuse_key(key: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the line about a key that does not exist, with the nearest one that does."""
    known = [f"{prefix}{name}" for name in known]
    guess, group = closest(f"{prefix}{key}", known), f"{prefix}{key}".rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == group]
    if not guess and len(beside) <= FEW:
        guess = f"; accepted: {', '.join(beside or known[:FEW]) or 'none'}"
    return f"no key {f'{prefix}{key}'!r}{guess}"


def closest(name: str, names: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the name nearest to a mistyped one, or ""."""

    def last(path: str) -> str:
        return path.rpartition(".")[2]

    def folder(path: str) -> str:
        return path.rpartition(".")[0]

    names = list(names)
    # First the names beside it, then `b1` for `optimizer.b1`.
    for group in ([other for other in names if folder(other) == folder(name)], names):
        by_word = {last(other): other for other in reversed(group)}
        found = difflib.get_close_matches(last(name), by_word, n=1)
        found = found or [word for word in by_word if len(last(name)) > 1 and last(name) in word]
        if found:
            return f"; did you mean {by_word[found[0]]!r}?"
    return ""


def show(value: Any) -> str:
    """Returns a value as a refusal quotes it: on one line, and not too long."""
    return shorten(repr(value))


def shorten(text: str) -> str:
    """Returns a text on one line, cut off where it is too long."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _kinds(cls: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, by name."""
    return typing.get_type_hints(cls)


def _limits(field: dataclasses.Field) -> Limits:
    return Limits(field.metadata.get("low"), field.metadata.get("high"))
