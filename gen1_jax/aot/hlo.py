"""Reads the arithmetic, memory traffic and collectives of a compiled program from its HLO text.

The figures differ from XLA's own cost analysis in two ways. A loop's body counts as often as it
runs, not once. Bytes are those of the main memory alone, not of a TPU's fast memory (VMEM) too, and
include the padding of the tiles that arrays are stored in. Bytes that collectives send are without
padding. A Pallas kernel counts as its own `pl.CostEstimate` says, and a call of a GPU's library
(cuBLAS, cuDNN) as the product or convolution that it computes.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from gen1_jax.aot.hlo_text import Instruction, Shape, parse
from gen1_jax.flops import count_taps

# Bytes that one chip of a ring of g sends, as a share of the bytes of the whole array.
_SENT = {
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-gather": lambda g: (g - 1) / g,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
}
# Opcodes that move no data: they name values, or call computations that are counted themselves.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "partition-id replica-id opt-barrier add-dependency async-start async-update".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")
# A call of cuBLAS or cuDNN, and where such a call and a product name the axes that are summed over.
_LIBRARY = r'custom_call_target="__cu(blas\$|dnn\$conv)(\w*)'
_CONTRACTED = r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)'
_KERNEL = 'custom_call_target="tpu_custom_call"'  # a Pallas kernel's attribute


class Traffic(NamedTuple):
    """The collectives of one kind in one run of the program on one chip.

    Attributes:
      count: number of collectives.
      bytes: size of the whole arrays: of an all-gather's result, of a reduce-scatter's operand.
      sent: bytes that the chip sends in a ring.
    """

    count: int
    bytes: int
    sent: float


class Program:
    """A compiled module.

    Attributes:
      computations: name → instructions.
      runs: how often each computation runs. All branches of a conditional count as run.
      unknown_loops: names of the `while` loops whose number of trips the text does not tell. Their
        bodies count once.
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
        """Returns a loop's number of trips; None if it is unknown.

        The number is XLA's own statement, or else the only constant of the loop's condition: loops
        of jax count from 0 in steps of 1 and compare the counter with it.
        """
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
        """Yields the instructions that run, each with its computation's name."""
        for name in self.runs:
            for instruction in self.computations[name]:
                yield instruction, name

    # ---- arithmetic

    def flops(self) -> int:
        """Returns the FLOPs of products and convolutions on one chip; a multiply-add is two."""
        return sum(self.runs[where] * self._flops(i, where) for i, where in self._each())

    def _flops(self, instruction: Instruction, where: str) -> int:
        library = re.search(_LIBRARY, instruction.attributes)
        if instruction.opcode == "custom-call" and not library:
            return instruction.kernel_cost("flops") or 0
        if not library and instruction.opcode not in ("dot", "convolution"):
            return 0
        left, right = (self._shapes[where][name][0].dims for name in instruction.operands[:2])
        out, attributes = instruction.shapes[0], instruction.attributes
        if library and library[1] == "dnn$conv":
            # A backward call names the axes and the window of the forward convolution.
            if library[2] == "BackwardInput":
                return _convolution_flops(attributes, out.dims, right, left)
            if library[2] == "BackwardFilter":
                return _convolution_flops(attributes, left, out.dims, right)
        if instruction.opcode == "convolution" or (library and library[1] == "dnn$conv"):
            return _convolution_flops(attributes, left, right, out.dims)
        axes = re.search(_CONTRACTED, attributes)
        return 2 * out.size * math.prod(left[int(axis)] for axis in re.findall(r"\d+", axes[1]))

    def uncounted_kernels(self) -> list[str]:
        """Returns the names of the Pallas kernels that have no cost estimate."""
        return [
            i.name
            for i, _ in self._each()
            if _KERNEL in i.attributes and i.kernel_cost("flops") is None
        ]

    # ---- memory

    def memory_traffic(self) -> int:
        """Returns the bytes read from and written to the main memory of one chip."""
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
        if opcode == "slice-start":  # the result holds the operand, then the slice
            part = instruction.shapes[1]
            read, written = [part.stored_bytes if read[0] else 0], _main_bytes((part,))
        elif opcode.endswith("-start"):  # the result repeats the operands
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

    # ---- the schedule

    def scheduled_cycles(self) -> int:
        """Returns the cycles that a TPU's compiler expects, where no two instructions overlap.

        Kernels of Pallas carry no estimate, and count as none; see `kernel_seconds`.
        """
        return sum(
            self.runs[where] * instruction.cycles
            for instruction, where in self._each()
            if where not in self._fused and instruction.opcode != "while"
        )

    def kernel_seconds(self, flops: float, bandwidth: float) -> float:
        """Returns the time of the Pallas kernels at a chip's peaks, each at the longer of its two.

        Args:
          flops: FLOP/s of the chip.
          bandwidth: bytes/s of its main memory.
        """
        return sum(
            self.runs[where]
            * max(
                (instruction.kernel_cost("flops") or 0) / flops,
                (instruction.kernel_cost("bytes_accessed") or 0) / bandwidth,
            )
            for instruction, where in self._each()
            if where not in self._fused and _KERNEL in instruction.attributes
        )

    # ---- collectives

    def collectives(self, num_chips: int) -> dict[str, Traffic]:
        """Returns kind → the traffic of one chip; a loop's body counts as often as it runs."""
        total: dict[str, Traffic] = {}
        for instruction, where in self._each():
            kind = instruction.opcode.removesuffix("-start")
            if kind == "all-reduce" and where.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # TPU: a fusion that gives each chip its slice of the sum
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
        """Returns whether another fusion started this collective.

        A TPU's compiler lists an asynchronous collective several times: in the fusion that starts
        it, in those whose arithmetic hides it, and in the one that waits for its end. The channel
        does not identify a collective, because unrelated ones share a channel.
        """
        if "async_collective_fusion_config" not in collective.attributes:
            return False
        starts = 'custom_call_target="AsyncCollectiveStart"'
        return not any(starts in i.attributes for i in self.computations[where])


def _convolution_flops(
    attributes: str, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]
) -> int:
    """Returns the FLOPs of a convolution, without padding and the zeros between dilated inputs.

    A TPU's compiler writes every matrix product as a convolution. It writes a batch of products as
    a convolution along the axis of the batch, with much padding and dilation.
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
    """Returns the bytes that a fusion reads of an operand if it reads only slices, else infinity.

    Args:
      number: the operand's place among the fusion's operands.
      fused: the instructions of the fusion.
    """
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
    """Returns the bytes that a fusion writes if it updates a slice in place, else infinity."""
    root = next(i for i in fused if i.is_root)
    if root.opcode != "dynamic-update-slice":
        return math.inf
    return next(i.shapes[0].stored_bytes for i in fused if i.name == root.operands[1])


def _group_size(attributes: str, num_chips: int) -> int:
    """Returns how many chips exchange data with each other; HLO has three forms of groups."""
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):  # [groups,size]<=[…]
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):  # {{0,1},{2,3}}
        return len(listed[1].split(","))
    # mesh['a'=4,'b'=2] {'a'}; a part of an axis is written 'a':(before)size.
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return num_chips
