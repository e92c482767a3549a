"""What a compiled program does, read from its HLO text: arithmetic, memory traffic, collectives.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs. Its
bytes are those of every memory, a TPU's fast VMEM too; here they are of the main memory alone, with
what fills up the tiles that arrays are stored in. What is sent counts without that. Pallas kernels
count as what they say of themselves (`pl.CostEstimate`).
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from gen1_jax.flops import count_taps

# Bytes of an element, by HLO's name of the type; others (token, opaque) hold nothing.
_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
# Bytes that a chip sends, of the bytes of the whole array, among g chips in a ring.
_SENT = {
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-gather": lambda g: (g - 1) / g,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
}
# They move nothing: names of values, and calls, whose insides are counted.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "partition-id replica-id opt-barrier add-dependency async-start async-update".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")
_KERNEL = 'custom_call_target="tpu_custom_call"'  # what a Pallas kernel is in HLO
_CALLED = re.compile(r"\b(calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


class Shape(NamedTuple):
    """One array, and how it is stored, as `{1,0:T(8,128)(2,1)S(1)}`."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Of the elements alone."""
        return self.size * _BYTES.get(self.dtype, 0)

    @property
    def stored_bytes(self) -> int:
        """With what fills up tiles. A layout has axes from the innermost on, and a tile's last
        size is the innermost's: 320 channels take the place of 384 in tiles of 8 x 128."""
        found = re.match(r"\{([\d,]*):[^}]*?T\(([\d,]+)\)", self.layout)
        if not found:
            return self.bytes
        sizes = [self.dims[int(axis)] for axis in found[1].split(",") if axis]
        tile = [int(size) for size in reversed(found[2].split(","))]
        whole = (-(-size // t) * t for size, t in zip_longest(sizes, tile, fillvalue=1))
        return math.prod(whole) * _BYTES.get(self.dtype, 0)

    @property
    def in_main_memory(self) -> bool:
        """`S(n)` names another memory, as VMEM."""
        return "S(" not in self.layout


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `%name = shapes opcode(arguments), attributes`."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several for a tuple
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.arguments)

    def kernel_cost(self, what: str) -> int | None:
        """What a Pallas kernel says of itself: its "flops" or "bytes_accessed"."""
        said = re.search(rf'"cost_estimate":\{{[^}}]*"{what}":"(\d+)"', self.attributes)
        return int(said[1]) if said else None

    def called(self) -> dict[str, str]:
        """The computations that it runs, by attribute; not those it reduces or sorts with."""
        found = dict(_CALLED.findall(self.attributes))
        if self.opcode == "call":
            found |= re.findall(r"\b(to_apply)=%?([\w.\-]+)", self.attributes)
        if branches := re.search(r"branch_computations=\{([^}]*)\}", self.attributes):
            for number, name in enumerate(re.findall(r"[\w.\-]+", branches[1])):
                found[f"branch {number}"] = name
        return found


class Traffic(NamedTuple):
    """Collectives of one kind, in one run of the program on one chip."""

    count: int
    bytes: int  # of the arrays: an all-gather's result, a reduce-scatter's operand
    sent: float  # bytes that the chip sends, in a ring


class Program:
    """A compiled module.

    Attributes:
      computations: name -> instructions.
      runs: how often each computation runs; of the branches of a conditional, all.
      unknown_loops: names of `while`s whose trips the text does not tell, counted once.
    """

    def __init__(self, text: str):
        self.computations, entry = parse(text)
        self.runs: dict[str, int] = defaultdict(int)
        self.unknown_loops: list[str] = []
        self._fused: set[str] = set()
        self._shapes = {
            name: {i.name: i.shapes for i in instructions}
            for name, instructions in self.computations.items()
        }
        self._walk(entry, 1)

    def _walk(self, name: str, runs: int) -> None:
        self.runs[name] += runs
        for instruction in self.computations[name]:
            times = runs
            if instruction.opcode == "while":
                trips = self._trips(instruction)
                if trips is None:
                    self.unknown_loops.append(instruction.name)
                times *= 1 if trips is None else trips
            for inner in instruction.called().values():
                if instruction.opcode == "fusion" or name in self._fused:
                    self._fused.add(inner)
                self._walk(inner, times)

    def _trips(self, loop: Instruction) -> int | None:
        """What XLA says, or the one constant that the counter, from 0 by 1, is compared with."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = list(self._with_called(loop.called()["condition"]))
        limits = {i.arguments for i in condition if i.opcode == "constant"}
        below = [i for i in condition if "direction=LT" in i.attributes]
        number = limits.pop() if len(limits) == 1 and len(below) == 1 else ""
        return int(number) if number.isdecimal() else None

    def _with_called(self, name: str) -> Iterator[Instruction]:
        for instruction in self.computations[name]:
            yield instruction
            for inner in instruction.called().values():
                yield from self._with_called(inner)

    def _each(self) -> Iterator[tuple[Instruction, str]]:
        """Instructions that run, each with its computation's name."""
        for name in self.runs:
            for instruction in self.computations[name]:
                yield instruction, name

    # ---------------------------------------------------------------- arithmetic

    def flops(self) -> int:
        """Of products and convolutions, two to a multiply-add, on one chip."""
        return sum(self.runs[where] * self._flops(i, where) for i, where in self._each())

    def _flops(self, instruction: Instruction, where: str) -> int:
        if instruction.opcode == "custom-call":
            return instruction.kernel_cost("flops") or 0
        if instruction.opcode not in ("dot", "convolution"):
            return 0
        left, right = (self._shapes[where][name][0].dims for name in instruction.operands[:2])
        out = instruction.shapes[0]
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction.attributes, left, right, out.dims)
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        return 2 * out.size * math.prod(left[int(axis)] for axis in axes[1].split(",") if axis)

    def uncounted_kernels(self) -> list[str]:
        """Names of Pallas kernels that do not say what they compute and move."""
        return [
            i.name
            for i, _ in self._each()
            if _KERNEL in i.attributes and i.kernel_cost("flops") is None
        ]

    # ---------------------------------------------------------------- memory

    def memory_traffic(self) -> int:
        """Bytes read from and written to the main memory of one chip."""
        return sum(
            self.runs[where] * self._traffic(instruction, where)
            for instruction, where in self._each()
            if where not in self._fused
        )

    def _traffic(self, instruction: Instruction, where: str) -> int:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return 0
        if (said := instruction.kernel_cost("bytes_accessed")) is not None:
            return said
        operands = [self._shapes[where].get(name, ()) for name in instruction.operands]
        read, written = [_main_bytes(s) for s in operands], _main_bytes(instruction.shapes)
        if opcode == "slice-start":  # of the result's arrays the operand is the first
            part = instruction.shapes[1]
            read, written = [part.stored_bytes if read[0] else 0], _main_bytes((part,))
        elif opcode.endswith("-start"):  # the result holds the operands again
            written = max(0, written - sum(read))
        elif opcode == "fusion":
            fused = self.computations[instruction.called()["calls"]]
            read = [min(r, _read_of(i, fused)) for i, r in enumerate(read)]
            written = min(written, _written_of(fused))
        elif opcode in _SLICES:
            read[0] = min(read[0], sum(shape.stored_bytes for shape in instruction.shapes))
        elif opcode == "dynamic-update-slice":
            read[0], written = 0, min(written, sum(shape.stored_bytes for shape in operands[1]))
        return sum(read) + written

    # ---------------------------------------------------------------- collectives

    def collectives(self, num_chips: int) -> dict[str, Traffic]:
        """Kind -> what one chip does of it, loops counted as often as they run."""
        total: dict[str, Traffic] = {}
        for instruction, where in self._each():
            kind = instruction.opcode.removesuffix("-start")
            if kind == "all-reduce" and where.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # on TPU a fusion: each chip gets its slice of the sum
            if kind not in _SENT or self._is_continued(instruction, where):
                continue
            group = _group_size(instruction.attributes, num_chips)
            operands = (self._shapes[where].get(name, ()) for name in instruction.operands)
            size = sum(shape.bytes for shapes in operands for shape in shapes)
            size *= group if kind == "all-gather" else 1
            runs, before = self.runs[where], total.get(kind, Traffic(0, 0, 0.0))
            total[kind] = Traffic(
                before.count + runs,
                before.bytes + runs * size,
                before.sent + runs * size * _SENT[kind](group),
            )
        return total

    def _is_continued(self, collective: Instruction, where: str) -> bool:
        """Whether another fusion started this collective.

        A TPU's compiler shows one in a fusion that starts it, in those whose arithmetic hides it,
        and in one that waits for its end. Its channel does not tell: unrelated ones share theirs.
        """
        if "async_collective_fusion_config" not in collective.attributes:
            return False
        starts = 'custom_call_target="AsyncCollectiveStart"'
        return not any(starts in i.attributes for i in self.computations[where])


def _convolution_flops(
    attributes: str, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]
) -> int:
    """FLOPs without those on padding and on zeros between dilated inputs.

    On TPU all products are convolutions, batches of them along axes with much of both.
    """
    axes = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _window(attributes)))
    total = 2 * right[axes[2].index("i")] * out[axes[3].index("b")] * out[axes[3].index("f")]
    for axis in range(len(out) - 2):
        label = str(axis)
        each = {name: text.split("x")[axis] for name, text in window.items()}
        total *= count_taps(
            left[axes[1].index(label)],
            right[axes[2].index(label)],
            out[axes[3].index(label)],
            int(each.get("stride", 1)),
            int(each.get("pad", "0_0").split("_")[0]),
            int(each.get("lhs_dilate", 1)),
            int(each.get("rhs_dilate", 1)),
        )
    return total


def _window(attributes: str) -> str:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    return found[1] if found else ""


def _main_bytes(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.stored_bytes for shape in shapes if shape.in_main_memory)


def _read_of(number: int, fused: list[Instruction]) -> float:
    """Bytes that a fusion reads of its operand, where it reads slices alone; else infinity."""
    name = next(
        i.name for i in fused if i.opcode == "parameter" and i.arguments.strip() == str(number)
    )
    users = [i for i in fused if name in i.operands]
    if users and all(user.operands[0] == name for user in users):
        if all(user.opcode in _SLICES for user in users):
            return sum(user.shapes[0].stored_bytes for user in users)
        if all(user.opcode == "dynamic-update-slice" for user in users):
            return 0  # written in place
    return math.inf


def _written_of(fused: list[Instruction]) -> float:
    """Bytes that a fusion writes, where it writes into a slice of an operand; else infinity."""
    root = next(i for i in fused if i.is_root)
    if root.opcode != "dynamic-update-slice":
        return math.inf
    return next(i.shapes[0].stored_bytes for i in fused if i.name == root.operands[1])


def _group_size(attributes: str, num_chips: int) -> int:
    """Chips that take part together, from the three forms in which HLO writes groups."""
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):  # [groups,size]<=[…]
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):  # {{0,1},{2,3}}
        return len(listed[1].split(","))
    # mesh['a'=4,'b'=2] {'a'}; a part of an axis is 'a':(before)size.
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return num_chips


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """HLO text -> (instructions by computation, the name of the one that is run)."""
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
    """The place after the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced HLO: {text[:80]}")
