"""Starting one model from the parameters of another; every name is accounted for."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from gen1_jax.weights.naming import MismatchError, list_names


class MergeReport(NamedTuple):
    """The result of `merge_params`, as tuples of "/"-paths.

    Attributes:
      new: parameters that keep their initial values.
      dropped: loaded parameters that are not used.
      widened: kernels that have more input channels than the loaded ones.
    """

    new: tuple[str, ...]
    dropped: tuple[str, ...]
    widened: tuple[str, ...]

    def __str__(self) -> str:
        """Returns one line for a log."""
        return "; ".join(
            f"{len(names)} {title}" + (f" ({list_names(names)})" if names else "")
            for title, names in self._asdict().items()
        )


def merge_params(
    template: Mapping[str, Any],
    loaded: Mapping[str, Any],
    new: Sequence[str] = (),
    dropped: Sequence[str] = (),
    widened: Sequence[str] = (),
) -> tuple[dict[str, Any], MergeReport]:
    """Puts loaded parameters into a freshly initialised tree, and accounts for every name.

    Args:
      template: the wanted parameters, initialised; new parameters keep these values.
      loaded: the parameters of the model to start from.
      new: see `plan_merge`.
      dropped: see `plan_merge`.
      widened: see `plan_merge`. The loaded values come first and zeros after them, so that the
        added inputs have no influence yet.

    Returns:
      The parameters, with structure and dtypes of `template`, and the report.

    Raises:
      MismatchError: no pattern allows a name or a shape; lists them all.
    """
    report = plan_merge(template, loaded, new, dropped, widened)
    source, merged = traverse_util.flatten_dict(loaded, sep="/"), {}
    for path, target in traverse_util.flatten_dict(template, sep="/").items():
        if path in report.new:
            merged[path] = target
            continue
        array = np.asarray(source[path])
        if path in report.widened:
            extra = [(0, want - got) for got, want in zip(array.shape, target.shape, strict=True)]
            array = np.pad(array, extra)
        merged[path] = array.astype(target.dtype)
    return traverse_util.unflatten_dict(merged, sep="/"), report


def plan_merge(
    template: Mapping[str, Any],
    loaded: Mapping[str, Any],
    new: Sequence[str] = (),
    dropped: Sequence[str] = (),
    widened: Sequence[str] = (),
) -> MergeReport:
    """Accounts for every name of a merge, from the shapes alone.

    Patterns are regular expressions, which are searched for in "/"-paths such as
    `down_blocks_0/resnets_1/conv1/kernel`.

    Args:
      template: the wanted parameters, or their shapes.
      loaded: the parameters of the model to start from, or their shapes.
      new: patterns of parameters that the wanted model may have and the loaded one lack. A
        parameter of another shape that matches both `new` and `dropped` keeps its initial value.
      dropped: patterns of parameters that the loaded model may have and the wanted one lack.
      widened: patterns of kernels that may have more input channels than the loaded ones.

    Raises:
      MismatchError: no pattern allows a name or a shape; lists them all.
    """
    wanted, source = (
        {path: tuple(np.shape(x)) for path, x in traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (template, loaded)
    )
    is_new, is_dropped, is_widened = map(_matcher, (new, dropped, widened))
    added, grown, missing, wrong_shapes = [], [], [], []
    removed = [path for path in source if path not in wanted]
    unexpected = [path for path in removed if not is_dropped(path)]
    for path, shape in wanted.items():
        if path not in source:
            (added if is_new(path) else missing).append(path)
        elif source[path] == shape:
            continue
        elif is_widened(path) and _only_wider(path, source[path], shape):
            grown.append(path)
        elif is_new(path) and is_dropped(path):
            added.append(path)
            removed.append(path)
        else:
            wrong_shapes.append((path, source[path], shape))
    if missing or unexpected or wrong_shapes:
        advice = "; only what a pattern names may be new, dropped or widened"
        raise MismatchError("parameters do not merge", missing, unexpected, wrong_shapes, advice)
    return MergeReport(tuple(added), tuple(removed), tuple(grown))


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    if isinstance(patterns, str):
        raise TypeError(f"patterns must be a sequence of strings, not the string {patterns!r}")
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda path: any(pattern.search(path) for pattern in compiled)


def _only_wider(path: str, got: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Returns whether a kernel only has more input channels, which are the last axis but one."""
    if not path.endswith("kernel") or len(got) != len(want) or len(got) < 2:
        return False
    return (*got[:-2], got[-1]) == (*want[:-2], want[-1]) and got[-2] < want[-2]
