"""Parses the text of a compiled program (HLO) into computations of instructions."""

import dataclasses
import math
import re
from itertools import zip_longest
from typing import NamedTuple

# Bytes of an element by HLO's name of the type. Other types (token, opaque) hold no data.
_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_CALLED = re.compile(r"\b(calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


class Shape(NamedTuple):
    """The type and size of one array, and its layout, e.g. `{1,0:T(8,128)(2,1)S(1)}`."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of the elements, without padding."""
        return self.size * _BYTES.get(self.dtype, 0)

    @property
    def stored_bytes(self) -> int:
        """Bytes with the padding of tiles: in tiles of 8 x 128, 320 channels take as much as 384.

        A layout lists its axes from the innermost on. A tile lists its sizes the other way round.
        """
        found = re.match(r"\{([\d,]*):[^}]*?T\(([\d,]+)\)", self.layout)
        if not found:
            return self.bytes
        sizes = [self.dims[int(axis)] for axis in found[1].split(",") if axis]
        tile = [int(size) for size in reversed(found[2].split(","))]
        whole = (-(-size // t) * t for size, t in zip_longest(sizes, tile, fillvalue=1))
        return math.prod(whole) * _BYTES.get(self.dtype, 0)

    @property
    def in_main_memory(self) -> bool:
        """Whether the array is in the main memory; `S(n)` names another one, such as VMEM."""
        return "S(" not in self.layout


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: `%name = shapes opcode(arguments), attributes`."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # the result's; several if it is a tuple
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.arguments)

    def kernel_cost(self, what: str) -> int | None:
        """Returns a Pallas kernel's own estimate: its "flops" or "bytes_accessed"."""
        said = re.search(rf'"cost_estimate":\{{[^}}]*"{what}":"(\d+)"', self.attributes)
        return int(said[1]) if said else None

    @property
    def cycles(self) -> int:
        """How many cycles a TPU's compiler expects the instruction to take; 0 if it says none."""
        said = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(said[1]) if said else 0

    def called(self) -> dict[str, str]:
        """Returns the computations that the instruction runs, by attribute.

        The operators that a reduction or a sort applies to elements are not among them.
        """
        found = dict(_CALLED.findall(self.attributes))
        if self.opcode == "call":
            found |= re.findall(r"\b(to_apply)=%?([\w.\-]+)", self.attributes)
        if branches := re.search(r"branch_computations=\{([^}]*)\}", self.attributes):
            for number, name in enumerate(re.findall(r"[\w.\-]+", branches[1])):
                found[f"branch {number}"] = name
        return found


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Parses HLO text into the instructions of each computation, and the entry's name."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_parse_instruction(line))
    return computations, entry


def _parse_instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    shapes, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(
        left.removeprefix("ROOT ").lstrip("%"),
        rest[:opening],
        tuple(
            Shape(dtype, tuple(int(d) for d in dims.split(",") if d), layout)
            for dtype, dims, layout in _SHAPE.findall(shapes)
        ),
        rest[opening + 1 : closing - 1],
        rest[closing:],
        left.startswith("ROOT "),
    )


def _closing(text: str, opening: int) -> int:
    """Returns the place after the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced HLO: {text[:80]}")
