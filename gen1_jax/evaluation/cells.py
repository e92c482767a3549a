"""The cells of a sweep: which methods are measured, at which values of which controls."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gen1_jax.evaluation.methods.base import Method

Setting = dict[str, Any]  # method and control → value
# A control's values where none are given.
DEFAULTS: dict[str, tuple] = {
    "temporal_scale": (1.0,),
    "structure_level": (0,),
    "guidance_scale": (None,),  # the model's own
    "strength": (0.6,),
}


def make_grid(one_at_a_time: bool = True, **controls: Sequence[Any]) -> list[Setting]:
    """Returns settings of controls.

    Args:
      one_at_a_time: whether one control varies while the others keep their first value; else every
        combination is made.
      **controls: values by name of the control.
    """
    values = {name: tuple(dict.fromkeys(given)) for name, given in controls.items()}
    if not one_at_a_time:
        return [
            dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
        ]
    base = {name: given[0] for name, given in values.items()}
    settings = [{**base, name: value} for name, given in values.items() for value in given]
    return list({tuple(setting.items()): setting for setting in settings or [{}]}.values())


def settings_of(
    methods: Iterable[Method], one_at_a_time: bool = False, **controls: Sequence[Any]
) -> list[Setting]:
    """Returns the settings of methods, each over the controls that it takes.

    Args:
      methods: the methods, in the order of their settings.
      one_at_a_time: see `make_grid`.
      **controls: values by name of the control; others have their default.
    """
    given: Mapping[str, Sequence[Any]] = {**DEFAULTS, **controls}
    return [
        {"method": method.name, **setting}
        for method in methods
        for setting in make_grid(one_at_a_time, **{name: given[name] for name in method.controls})
    ]
