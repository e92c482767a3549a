"""Public config.json <-> the fields of a module, for the models that follow diffusers' layout."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gen1_jax.errors import UserError

# What linen adds to every module's dataclass, and how we compute: no part of a config.json.
_NOT_CONFIG = frozenset({"parent", "name", "dtype", "remat"})


def config_fields(cls: type) -> list[str]:
    """The names of a module's fields that are keys of its config.json."""
    return [field.name for field in dataclasses.fields(cls) if field.name not in _NOT_CONFIG]


def read_config(
    cls: type, config: Mapping[str, Any], fixed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Keyword arguments of `cls` from a config.json's content; lists become tuples.

    Keys that begin with `_` are the writing library's own and are left out, as is any key that we
    do not know but that is switched off (None or False).

    Args:
        cls: the module.
        config: config.json's content.
        fixed: keys that `cls` has in one form only, and that form.

    Raises:
        UserError: a key that `cls` does not know is switched on, or a fixed one has another value.
    """
    known, fixed = config_fields(cls), fixed or {}
    for key, value in fixed.items():
        if (got := config.get(key, value)) != value:
            raise UserError(f"{cls.__name__} does not support {key}={got!r}; accepted: {value!r}")
    unknown = [
        f"{key}={value!r}"
        for key, value in config.items()
        if key not in (*known, *fixed)
        and not key.startswith("_")
        and value is not None
        and value is not False
    ]
    if unknown:
        raise UserError(
            f"{cls.__name__} does not support {', '.join(unknown)}; "
            f"accepted keys: {', '.join(known)}"
        )
    return {key: _tupled(config[key]) for key in known if key in config}


def write_config(module: Any) -> dict[str, Any]:
    """A config.json's content from a module, in diffusers' layout."""
    config = {"_class_name": type(module).__name__}
    return config | {name: _listed(getattr(module, name)) for name in config_fields(type(module))}


def require(module: Any, **accepted: tuple) -> None:
    """Raises a UserError that names the first field whose value is not among those accepted."""
    for name, values in accepted.items():
        value = getattr(module, name)
        if value not in values:
            raise UserError(
                f"{type(module).__name__} does not support {name}={value!r}; "
                f"accepted: {', '.join(map(repr, values))}"
            )


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, (list, tuple)) else value


def _listed(value: Any) -> Any:
    return list(map(_listed, value)) if isinstance(value, (list, tuple)) else value
