"""The one typed reader of config.json, for all five models.

The accepted types and ranges are the annotations of a module's own fields. Each reader refuses what
does not fit in one line that names the model, the key, its value and what is accepted.
"""

import dataclasses
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gen1_jax.errors import UserError

# The largest network that is initialised or loaded; public image and video networks have 1e9 to
# 2e10 parameters.
MAX_PARAMETERS = 10**11
# Every repeated layer of the five models holds at least this many tensors.
_LEAST_TENSORS_OF_A_LAYER = 8
# Sizes that any checkpoint may ask for. Where its tensors do not fit, they are compared by name,
# and the error lists them.
_FREE_LENGTH, _FREE_LAYERS = 4096, 16
# Fields of a module that are no part of its config.json: linen's own, and how we compute.
_NOT_CONFIG = frozenset({"parent", "name", "dtype", "remat"})

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, or of the length of a list; both are included.

    Attributes:
      low: Least value.
      high: Greatest value.
      measured_by: What bounds the value in a checkpoint: "length", if some tensor has an axis of
        this length, "layers", if it counts repeated layers, or None.
    """

    low: float
    high: float
    measured_by: Literal["length", "layers"] | None = None


# Types of fields. The upper bounds are far above any published model.
Width = Annotated[int, Range(1, 2**20, "length")]  # an axis of some tensor
Depth = Annotated[int, Range(0, 1024, "layers")]  # repeated layers
Layers = Annotated[int, Range(1, 1024, "layers")]  # the same, at least one
Count = Annotated[int, Range(1, 2**20)]  # heads, groups, frames
Pixels = Annotated[int, Range(1, 2**14)]
TokenId = Annotated[int, Range(-1, 2**31 - 1)]
Epsilon = Annotated[float, Range(0, 1)]
Scale = Annotated[float, Range(1e-9, 1e9)]  # a factor
Logarithm = Annotated[float, Range(-100, 100)]
Widths = Annotated[tuple[Width, ...], Range(1, 16)]  # one for each resolution
Index = Annotated[int, Range(-1024, 1024)]  # of a layer or a map
Factor = Annotated[float, Range(1 / 64, 64)]  # of a change of resolution
ImageSize = Pixels | tuple[Pixels, Pixels] | None  # told by diffusers' files, not used here


def read_config(
    cls: type,
    config: Mapping[str, Any],
    *,
    fixed: Mapping[str, Any] | None = None,
    ignore_unknown: bool = False,
) -> dict[str, Any]:
    """Returns keyword arguments of `cls`, checked by the annotations of its fields.

    Lists become tuples, and an object becomes the dataclass that its field is annotated with.
    Numbers stay as they are. Keys that begin with `_` belong to the library that wrote the file
    and are left out, and so is any unknown key that is off (None or False).

    Args:
      cls: A module or a dataclass.
      config: The content of config.json.
      fixed: Keys that the network has in one form only, with the one value that is accepted.
      ignore_unknown: Whether unknown keys are left out even if they are on.

    Raises:
      UserError: A value has another type or is out of range, a fixed key has another value, or an
        unknown key is on.
    """
    kinds, fixed = _kinds(cls), fixed or {}
    for key, value in fixed.items():
        if (got := config.get(key, value)) != value:
            raise refusal(cls, key, got, repr(value))
    if not ignore_unknown:
        _refuse_unknown(cls, config, [*kinds, *fixed], kinds)
    values = {}
    for key, kind in kinds.items():
        if key in config:
            try:
                values[key] = _convert(kind, config[key])
            except _Unfit:
                raise refusal(cls, key, config[key], _describe(kind)) from None
    return values


def write_config(module: Any) -> dict[str, Any]:
    """Returns the content of a module's config.json in diffusers' layout."""
    return {"_class_name": type(module).__name__} | list_fields(module)


def list_fields(module: Any) -> dict[str, Any]:
    """Returns the fields of a module that are keys of its config.json, as JSON writes them."""
    return {name: _listed(getattr(module, name)) for name in _kinds(type(module))}


def require(module: Any, name: str, holds: bool, accepted: str) -> None:
    """Raises a UserError about the field `name` unless the condition holds."""
    if not holds:
        raise refusal(type(module), name, getattr(module, name), accepted)


def require_divisors(module: Any, name: str, divisors: Iterable[int], multiples: str) -> None:
    """Raises a UserError unless each divisor divides its value of the field `multiples`."""
    values = getattr(module, multiples)
    values = values if isinstance(values, tuple) else (values,)
    divides = not any(value % divisor for value, divisor in zip(values, divisors, strict=False))
    require(module, name, divides, f"divisors of {multiples} {_SHORT.repr(_listed(values))}")


def refusal(cls: type, key: str, got: Any, accepted: str) -> UserError:
    """Returns the one line about a setting that is not accepted."""
    return UserError(f"{cls.__name__} does not support {_show(key, got)}; accepted: {accepted}")


def check_count(cls: type, parameters: int) -> None:
    """Raises a UserError if a network has more parameters than is sensible."""
    if parameters > MAX_PARAMETERS:
        raise UserError(
            f"{cls.__name__} would have {parameters:.1e} parameters by its settings; "
            f"accepted: at most {MAX_PARAMETERS:.0e}"
        )


def check_against_tensors(module: Any, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Refuses a module whose settings ask for more than a checkpoint holds.

    This costs nothing, and comes before the module's own shapes are computed.

    Args:
      module: A module that was made from a config.json.
      shapes: Shapes of the checkpoint's tensors, by name.
      what: How the error's line begins.

    Raises:
      UserError: A width is greater than the longest axis of any tensor, or there are more layers
        than the tensors could fill.
    """
    bounds = {
        "length": max((size for shape in shapes.values() for size in shape), default=0),
        "layers": len(shapes) // _LEAST_TENSORS_OF_A_LAYER,
    }
    free = {"length": _FREE_LENGTH, "layers": _FREE_LAYERS}
    for key, value, measured_by in _measured(module):
        if value > max(bounds[measured_by], free[measured_by]):
            raise UserError(
                f"{what}: {_show(key, value)}, but the {len(shapes)} tensors there allow at most "
                f"{bounds[measured_by]}"
            )


# ---- types


class _Unfit(Exception):
    """A value is not of the type wanted; the reader words the refusal."""


def _kinds(cls: type) -> dict[str, Any]:
    """Returns the types of a class's fields that are keys of its config.json, by name."""
    fields = dataclasses.fields(cls)
    return {field.name: field.type for field in fields if field.name not in _NOT_CONFIG}


def _unwrap(kind: Any) -> tuple[Any, Range | None]:
    """Splits an annotation into the plain type and its range."""
    if get_origin(kind) is Annotated:
        return get_args(kind)
    return (type(None) if kind is None else kind), None


def _options(kind: Any) -> tuple[Any, ...]:
    """Returns the types that a union joins, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _convert(kind: Any, value: Any) -> Any:
    """Returns the value in the form of a type, or raises _Unfit."""
    for option in _options(kind):
        try:
            return _convert_one(*_unwrap(option), value)
        except _Unfit:
            continue
    raise _Unfit


def _convert_one(kind: Any, limits: Range | None, value: Any) -> Any:
    measure = value
    if get_origin(kind) is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    elif get_origin(kind) is tuple:
        fits = isinstance(value, (list, tuple))
        value = _convert_items(get_args(kind), value) if fits else value
        measure = len(value) if fits else 0
    elif dataclasses.is_dataclass(kind):
        fits = isinstance(value, (Mapping, kind))
        if isinstance(value, Mapping):  # another library's dict: its own keys are its business
            value = kind(**read_config(kind, value, ignore_unknown=True))
    elif kind is float:
        fits = type(value) in (int, float)
    else:
        fits = type(value) is kind  # a bool is no int
    if not fits or (limits and not limits.low <= measure <= limits.high):  # NaN is in no range
        raise _Unfit
    return value


def _convert_items(kinds: tuple[Any, ...], values: Iterable[Any]) -> tuple[Any, ...]:
    """Converts a list by the arguments of `tuple[...]`."""
    if kinds[-1] is Ellipsis:
        return tuple(_convert(kinds[0], value) for value in values)
    if len(kinds) != len(values):
        raise _Unfit
    return tuple(map(_convert, kinds, values))


def _describe(kind: Any) -> str:
    """Returns what a type accepts, in words."""
    return " or ".join(_describe_one(*_unwrap(option)) for option in _options(kind))


def _describe_one(kind: Any, limits: Range | None) -> str:
    words = {bool: "true or false", str: "a string", type(None): "null"}
    if get_origin(kind) is Literal:
        return ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        items = [item for item in get_args(kind) if item is not Ellipsis]
        length = f" of {limits.low:g} to {limits.high:g}" if limits else ""
        return f"a list{length}, each {_describe(items[0])}"
    if kind in (int, float):
        name = "one whole number" if kind is int else "one number"
        return f"{name} from {limits.low:.7g} to {limits.high:.7g}" if limits else name
    return words.get(kind, "an object")


def _measured(module: Any) -> Iterator[tuple[str, int, str]]:
    """Yields each setting that a checkpoint bounds: its key, its value, and what bounds it."""
    for key, kind in _kinds(type(module)).items():
        value = getattr(module, key)
        if dataclasses.is_dataclass(value):
            yield from _measured(value)
        for option in _options(kind):
            inner, limits = _unwrap(option)
            values = (value,)
            if get_origin(inner) is tuple:
                _, limits = _unwrap(get_args(inner)[0])
                values = value if isinstance(value, tuple) else ()
            if limits and limits.measured_by:
                yield from ((key, x, limits.measured_by) for x in values if type(x) is int)


# ---- words


def _refuse_unknown(
    cls: type, config: Mapping[str, Any], known: Iterable[str], listed: Iterable[str]
) -> None:
    unknown = [
        _show(key, value)
        for key, value in config.items()
        if key not in known and not key.startswith("_") and value is not None and value is not False
    ]
    if unknown:
        raise UserError(
            f"{cls.__name__} does not support {', '.join(unknown[:8])}; "
            f"accepted keys: {', '.join(listed)}"
        )


def _show(key: str, value: Any) -> str:
    """Writes a setting in one short line; `reprlib` bounds how long and how deep."""
    return f"{key if key.isidentifier() else _SHORT.repr(key)}={_SHORT.repr(_listed(value))}"


def _listed(value: Any) -> Any:
    return [_listed(x) for x in value] if isinstance(value, tuple) else value
