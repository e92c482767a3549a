"""Arithmetic of a function: multiplications and additions of its products and convolutions.

Counted from the program as it was written, before any compiler: recomputation by the back end,
padding and fusion do not count. This is the "model FLOPs" of MFU.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *arguments: Any) -> int:
    """FLOPs (two to a multiply-add) of `function` at `arguments`, arrays or their shapes."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        inner = math.prod(shape[axis] for axis in contracted)
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_axis = params["dimension_numbers"].rhs_spec[0]
        inner = math.prod(kernel) // kernel[out_axis]
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "cond":  # the dearest branch
        return max(_count(branch.jaxpr) for branch in params["branches"])
    times = params["length"] if name == "scan" else 1
    return times * sum(_count(inner) for inner in _inner_programs(params))


def _inner_programs(params: dict[str, Any]) -> list[Any]:
    """Programs that an equation calls (jit, scan, checkpoint, custom derivatives, …), each once."""
    found = []
    for value in params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(entry, core.ClosedJaxpr):
                found.append(entry.jaxpr)
            elif isinstance(entry, core.Jaxpr):
                found.append(entry)
    return found
