"""Model FLOPs of a function: the multiplications and additions of its products and convolutions.

They are counted in the program as it was written, before the compiler: recomputation, padding and
fusion do not count. MFU is defined by this number. If the data choose between branches, the most
expensive branch counts.

A training step costs each product once for its result, and once more for each of its two operands
that a gradient is needed of. That is three times the forward pass in the middle of a network, twice
in its first layer or where a layer is not trained, and once in a frozen encoder.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def count_flops(function: Callable, *arguments: Any) -> int:
    """Returns the FLOPs of `function`, two for a multiply-add.

    Args:
      function: a function that jax can trace.
      *arguments: its arguments, arrays or their shapes.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return _count(jaxpr, [False] * len(jaxpr.invars))[0]


def count_training_flops(loss: Callable, trained: Any, params: Any, *arguments: Any) -> int:
    """Returns the FLOPs of a loss and of its gradient.

    Args:
      loss: (params, *arguments) → a scalar, and what else there is.
      trained: for each leaf of `params`, whether its gradient is wanted; True: for all of them.
      params: the parameters, or their shapes.
      *arguments: the loss's other arguments, or their shapes.
    """
    if trained is True:
        trained = jax.tree.map(lambda _: True, params)
    jaxpr = jax.make_jaxpr(loss)(params, *arguments).jaxpr
    wanted = jax.tree.leaves(trained)
    return _count(jaxpr, wanted + [False] * (len(jaxpr.invars) - len(wanted)))[0]


def _count(jaxpr: Any, wanted: Sequence[bool]) -> tuple[int, list[bool]]:
    """Counts a program, the backward pass through what depends on the wanted inputs included.

    Args:
      jaxpr: the program.
      wanted: for each input, whether a gradient is needed of it.

    Returns:
      The FLOPs; and for each output, whether a gradient passes through it.
    """
    depends = dict(zip(jaxpr.invars, wanted, strict=True))
    total = 0

    def is_wanted(variable: Any) -> bool:
        return not isinstance(variable, core.Literal) and depends.get(variable, False)

    for equation in jaxpr.eqns:
        flops, outputs = _count_equation(equation, [is_wanted(x) for x in equation.invars])
        total += flops
        for variable, output in zip(equation.outvars, outputs, strict=True):
            depends[variable] = output and jnp.issubdtype(variable.aval.dtype, jnp.inexact)
    return total, [is_wanted(variable) for variable in jaxpr.outvars]


def _count_equation(equation: Any, wanted: list[bool]) -> tuple[int, list[bool]]:
    """Counts an equation; see `_count`."""
    name, params = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
        flops = _count_product(equation) if name == "dot_general" else _count_convolution(equation)
        return flops * (1 + sum(wanted)), [any(wanted)]
    if name == "stop_gradient":
        return 0, [False]
    if name == "cond":
        counted = [_count(branch.jaxpr, wanted[1:]) for branch in params["branches"]]
        # A `platform_dependent` lists the default last; that branch is the plain formula.
        last = [counted[-1]] if params.get("branches_platforms") else counted
        return max(flops for flops, _ in last), [
            any(each) for each in zip(*(o for _, o in counted), strict=True)
        ]
    if name == "scan":
        return _count_scan(params, wanted)
    inner = _inner_programs(params)
    if len(inner) == 1 and len(inner[0].invars) == len(wanted):
        flops, outputs = _count(inner[0], wanted)
        if len(outputs) == len(equation.outvars):
            return flops, outputs
    flops = sum(_count(each, [any(wanted)] * len(each.invars))[0] for each in inner)
    return flops, [any(wanted)] * len(equation.outvars)


def _count_scan(params: dict[str, Any], wanted: list[bool]) -> tuple[int, list[bool]]:
    """Counts a loop: a carry that depends on a wanted input in one turn does so in the next."""
    body = params["jaxpr"].jaxpr
    if "ft_in" in params:  # jax 0.11
        constants, carries, _ = (len(list(part)) for part in params["ft_in"].unpack())
    else:
        constants, carries = params["num_consts"], params["num_carry"]
    wanted = list(wanted)
    while True:
        flops, outputs = _count(body, wanted)
        carried = [a or b for a, b in zip(wanted[constants:], outputs[:carries], strict=False)]
        if carried == wanted[constants : constants + carries]:
            return params["length"] * flops, outputs
        wanted[constants : constants + carries] = carried


def _count_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    inner = math.prod(shape[axis] for axis in contracted)
    return 2 * inner * math.prod(equation.outvars[0].aval.shape)


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
