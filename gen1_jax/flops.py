"""Model FLOPs of a function: the multiplications and additions of its products and convolutions.

They are counted in the program as it was written, before the compiler: recomputation, padding and
fusion do not count. MFU is defined by this number. If the data choose between branches, the most
expensive branch counts.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *arguments: Any) -> int:
    """Returns the FLOPs of `function`, two for a multiply-add.

    Args:
      function: a function that jax can trace.
      *arguments: its arguments, arrays or their shapes.
    """
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
        return _count_convolution(equation)
    if name == "cond":
        costs = [_count(branch.jaxpr) for branch in params["branches"]]
        # A `platform_dependent` lists the default last; that branch is the plain formula.
        return costs[-1] if params.get("branches_platforms") else max(costs)
    times = params["length"] if name == "scan" else 1
    return times * sum(_count(inner) for inner in _inner_programs(params))


def _count_convolution(equation: Any) -> int:
    params = equation.params
    x, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    windows = zip(
        axes,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    total = 2 * kernel[numbers.rhs_spec[1]]
    total *= out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    for (x_axis, kernel_axis, out_axis), stride, padding, dilation, kernel_dilation in windows:
        total *= count_taps(
            x[x_axis], kernel[kernel_axis], out[out_axis],
            stride, padding[0], dilation, kernel_dilation,
        )  # fmt: skip
    return total


@functools.cache
def count_taps(
    size: int, kernel: int, out: int, stride: int, pad: int, dilation: int, kernel_dilation: int
) -> int:
    """Counts the (output, tap) pairs along one axis of a convolution that read an input.

    The other pairs read padding or the zeros between dilated inputs, and are no arithmetic.
    """
    places = (o * stride - pad + k * kernel_dilation for o in range(out) for k in range(kernel))
    return sum(0 <= place <= (size - 1) * dilation and place % dilation == 0 for place in places)


def _inner_programs(params: dict[str, Any]) -> list[Any]:
    """Returns the programs that an equation calls (jit, scan, checkpoint, …), each once."""
    found = []
    for value in params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(entry, core.ClosedJaxpr):
                found.append(entry.jaxpr)
            elif isinstance(entry, core.Jaxpr):
                found.append(entry)
    return found
