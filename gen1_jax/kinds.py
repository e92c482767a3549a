"""Types of settings: what a value of a type is converted to, and what the type accepts in words.

A type is `bool`, `int`, `float`, `str`, `Any`, a `Literal`, a `tuple`, a `Mapping`, a dataclass, or
a union of these.
"""

import dataclasses
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Union


class Limits(NamedTuple):
    """Bounds of a number; both are included, and None is no bound."""

    low: float | None = None
    high: float | None = None


class Unfit(Exception):
    """A value has the wrong type or, if `by_range`, is out of range."""

    def __init__(self, by_range: bool = False):
        super().__init__()
        self.by_range = by_range


def is_mapping(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def literal_keys(kind: Any) -> tuple[str, ...]:
    """Returns the keys of a mapping that accepts certain keys only, else ()."""
    keys = typing.get_args(kind)[0] if is_mapping(kind) else None
    return typing.get_args(keys) if typing.get_origin(keys) is Literal else ()


def _options(kind: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the one type."""
    is_union = typing.get_origin(kind) in (Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def convert_value(kind: Any, value: Any, limits: Limits) -> Any:
    """Returns a value as the type wants it, or raises `Unfit`."""
    by_range = False
    for option in _options(kind):
        try:
            return _convert_one(option, value, limits)
        except Unfit as unfit:
            by_range |= unfit.by_range
    raise Unfit(by_range)


def _convert_one(kind: Any, value: Any, limits: Limits) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
        raise Unfit(by_range=any(type(value) is type(choice) for choice in args))
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise Unfit
        if args[-1] is Ellipsis:
            return tuple(convert_value(args[0], item, limits) for item in value)
        if len(args) != len(value):
            raise Unfit
        return tuple(
            convert_value(arg, item, limits) for arg, item in zip(args, value, strict=True)
        )
    if is_mapping(kind):
        if not isinstance(value, Mapping):
            raise Unfit
        return {str(key): convert_value(args[1], item, limits) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):
            return value
        raise Unfit
    if kind in (int, float):
        return _convert_number(kind, value, limits)
    if kind in (None, type(None)):
        if value is not None:
            raise Unfit
        return None
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, kind):
        raise Unfit
    return value


def _convert_number(kind: type, value: Any, limits: Limits) -> int | float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise Unfit
    if kind is int and not isinstance(value, numbers.Integral):
        if not float(value).is_integer():  # 1e5 is a whole number
            raise Unfit
    low, high = limits
    in_range = (low is None or value >= low) and (high is None or value <= high)
    if not in_range or value in (math.inf, -math.inf) or value != value:
        raise Unfit(by_range=True)
    try:
        return kind(value)
    except OverflowError:
        raise Unfit(by_range=True) from None


def words(kind: Any, limits: Limits = Limits()) -> str:  # noqa: B008 - a tuple, never changed
    """Returns what a type accepts, in words."""
    options = [option for option in _options(kind) if option not in (None, type(None))]
    text = " or ".join(_words_of_one(option, limits) for option in options)
    return f"{text}, or None" if len(options) < len(_options(kind)) else text


def _words_of_one(kind: Any, limits: Limits) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    plain = {bool: "True or False", str: "text", type(None): "None", None: "None", Any: "anything"}
    if kind in plain:
        return plain[kind]
    if kind in (int, float):
        noun = "a whole number" if kind is int else "a number"
        return noun + _words_of_limits(limits)
    if origin is Literal:
        shown = [repr(choice) for choice in args]
        return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    if origin is tuple:
        if (plural := _plural(kind, limits)) is not None:
            return plural.replace("lists", "a list", 1)
        items = [arg for arg in args if arg is not Ellipsis]
        length = "" if args[-1] is Ellipsis else f"of {len(items)}, "
        each = words(items[0], limits) if len(set(items)) == 1 else None
        each = f"each {each}" if each else ", then ".join(words(item, limits) for item in items)
        return f"a list {length}{each}" if length else f"a list, {each}"
    if is_mapping(kind) and args[1] is not Any:
        keys = ", ".join(map(repr, literal_keys(kind)))
        return f"a mapping of {keys or 'names'}, each to {words(args[1], limits)}"
    return "a mapping"


def _plural(kind: Any, limits: Limits) -> str | None:
    """Returns a plain type in the plural, and None for a type that has no good one."""
    plain = {int: "whole numbers", float: "numbers", str: "texts"}
    if typing.get_origin(kind) is tuple:
        first, *others = typing.get_args(kind)
        inner = _plural(first, limits)
        if inner is None or any(other not in (first, Ellipsis) for other in others):
            return None
        count = "" if Ellipsis in others else f"{1 + len(others)} "
        return f"lists of {count}{inner}"
    if kind not in plain:
        return None
    return plain[kind] + (_words_of_limits(limits) if kind is not str else "")


def _words_of_limits(limits: Limits) -> str:
    low, high = (None if x is None else f"{x:.10g}" for x in limits)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of {low} or more"
    return f" of at most {high}" if high is not None else ""


def kind_of(value: Any) -> str:
    """Returns the type of a value in a user's words."""
    for kind, word in (
        (bool, "True or False"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (tuple | list, "a list"),
        (Mapping, "a mapping"),
        (type(None), "nothing"),
    ):
        if isinstance(value, kind):
            return word
    return type(value).__name__
