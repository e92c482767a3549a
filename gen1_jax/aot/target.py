"""Compiling for accelerators that are not there: does a program fit, and how fast can it be?

The real compiler, through libtpu, compiles the real program for a topology of TPU chips; only
shapes go in. What it made is then read: memory, arithmetic, traffic, collectives. The figures are
bounds: no chip computes, reads and sends at its peak, and all three at once.
"""

import dataclasses
import importlib.util
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from gen1_jax.aot import hlo
from gen1_jax.distributed import make_mesh
from gen1_jax.errors import UserError
from gen1_jax.hardware import CHIPS, Chip

TPUS = ("v4", "v5e", "v5p", "v6e")
_COUNT = r"[1-9]\d*"


class Target(NamedTuple):
    """What is compiled for; `chip` is None where its figures are not known (a CPU)."""

    topology: str
    mesh: Mesh
    chip: Chip | None


@dataclasses.dataclass(frozen=True)
class Work:
    """A program to compile.

    Attributes:
      lower: makes jax's lowered program.
      settings: what it is, for the report.
      parameters: of the model.
      model_flops: of one run on all chips, as the model's formulas have it: without what is
        computed twice to save memory.
      beside: bytes on each chip that belong to the run but not to the program.
      notes: what the figures leave out.
    """

    lower: Callable[[], Any]
    settings: dict[str, Any]
    parameters: int
    model_flops: int
    beside: int = 0
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """One compiled program; bytes, FLOPs and seconds are of one chip and one run.

    Attributes:
      settings: what was compiled, for which topology.
      parameters: of the model.
      fits: whether the chip's memory is enough. If not, all figures but memory's are None.
      hbm_used_bytes: arguments + outputs − aliased + temporaries + code + beside.
      hbm_available_bytes: of the chip, what programs get.
      hbm: the terms of that sum, by name.
      model_flops: see `Work`; of all chips together.
      flops: of the compiled program's products and convolutions, with what is computed again.
      bytes: that pass between the chip and its main memory.
      compiler_flops, compiler_bytes: the compiler's own analysis, which runs each loop once and
        counts bytes of fast memory too.
      collectives: kind -> count, bytes (of the arrays), sent (by one chip, in a ring).
      arithmetic_seconds, memory_seconds, interconnect_seconds: at the chip's peaks.
      mfu_bound: model FLOPs over the peak's in the longest of these.
      refused: why the compiler makes no program of it, whatever memory there is; else None.
      notes: what the figures leave out.
    """

    settings: dict[str, Any]
    parameters: int
    fits: bool
    hbm_used_bytes: int | None
    hbm_available_bytes: int | None
    model_flops: int
    hbm: dict[str, int] = dataclasses.field(default_factory=dict)
    flops: float | None = None
    bytes: float | None = None
    compiler_flops: float | None = None
    compiler_bytes: float | None = None
    collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    arithmetic_seconds: float | None = None
    memory_seconds: float | None = None
    interconnect_seconds: float | None = None
    mfu_bound: float | None = None
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    refused: str | None = None
    notes: tuple[str, ...] = ()


# -------------------------------------------------------------------------------- the target


def make_target(topology: str, mesh: Mapping[str, int]) -> Target:
    """The chips of a topology, as a config's mesh.

    Args:
      topology: `VERSION:CHIPS`, e.g. v5p:4x4x8 or v5e:8x16; or cpu:N.
      mesh: `make_mesh`'s arguments.

    Raises:
      UserError: no such topology, libtpu is missing, or the mesh does not fit.
    """
    version, _, layout = topology.partition(":")
    if version == "cpu" and re.fullmatch(_COUNT, layout):
        devices = jax.devices("cpu")[: int(layout)]
        if len(devices) != int(layout):
            raise UserError(f"--topology {topology}: this process has {len(devices)} CPU devices")
        return Target(topology, make_mesh(**mesh, devices=devices), None)
    if version not in TPUS or not re.fullmatch(rf"{_COUNT}(x{_COUNT})*", layout):
        raise UserError(
            f"--topology {topology}; accepted: a version ({', '.join(TPUS)}) and its chips, e.g. "
            "v5p:4x4x8 or v5e:8x16, or cpu:N"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU compiler is not installed; `pip install -e '.[compile]'`")
    from jax.experimental import topologies

    # A v4 chip has two cores that work as one device; the other versions default to that.
    options = {"chip_config_name": "megacore"} if version == "v4" else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:  # of several kinds
        raise UserError(f"--topology {topology}: {str(error).splitlines()[0]}") from error
    return Target(topology, make_mesh(**mesh, devices=description.devices), CHIPS[version])


def measure(work: Work, target: Target) -> Report:
    """Compiles and reads the result. Not enough memory is an answer, not an error.

    Raises:
      UserError: the compiler refused the program for another reason.
    """
    mesh, chip = target.mesh, target.chip
    settings, available = _settings(work, target), _available(target)
    started = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = work.lower()
    lowered_at = time.perf_counter()
    seconds = {"lower_seconds": lowered_at - started}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds["compile_seconds"] = time.perf_counter() - lowered_at
        used, room = read_out_of_memory(str(error))
        return Report(
            settings,
            work.parameters,
            fits=False,
            hbm_used_bytes=None if used is None else used + work.beside,
            hbm_available_bytes=room if available is None else available,
            model_flops=work.model_flops,
            **seconds,
        )
    seconds["compile_seconds"] = time.perf_counter() - lowered_at

    hbm = _memory(compiled.memory_analysis(), work.beside)
    used = sum(hbm.values())
    program = hlo.Program(compiled.as_text())
    flops, moved = program.flops(), program.memory_traffic()
    collectives = program.collectives(mesh.size)
    analysis = compiled.cost_analysis() or {}
    bounds = {}
    if chip:
        bounds = {
            "arithmetic_seconds": flops / chip.flops,
            "memory_seconds": moved / chip.bandwidth,
            "interconnect_seconds": sum(c.sent for c in collectives.values()) / chip.interconnect,
        }
        longest = max(bounds.values())
        bounds["mfu_bound"] = work.model_flops / mesh.size / (chip.flops * longest)
    return Report(
        settings,
        work.parameters,
        fits=available is None or used <= available,
        hbm_used_bytes=used,
        hbm_available_bytes=available,
        model_flops=work.model_flops,
        hbm=hbm,
        flops=flops,
        bytes=moved,
        compiler_flops=analysis.get("flops"),
        compiler_bytes=analysis.get("bytes accessed"),
        collectives={kind: traffic._asdict() for kind, traffic in collectives.items()},
        **bounds,
        **seconds,
        notes=(*work.notes, *_notes(program)),
    )


def refusal(work: Work, target: Target, reason: str) -> Report:
    """The report of a program that `measure` raises UserError for."""
    return Report(
        _settings(work, target),
        work.parameters,
        fits=False,
        hbm_used_bytes=None,
        hbm_available_bytes=_available(target),
        model_flops=work.model_flops,
        refused=reason,
    )


def _settings(work: Work, target: Target) -> dict[str, Any]:
    return {
        **work.settings,
        "topology": target.topology,
        "chips": target.mesh.size,
        "mesh": {name: int(size) for name, size in target.mesh.shape.items()},
    }


def _available(target: Target) -> int | None:
    return int(target.chip.memory) if target.chip else None


def _memory(analysis: Any, beside: int) -> dict[str, int]:
    return {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": -analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
        "beside": beside,
    }


def _notes(program: hlo.Program) -> list[str]:
    notes = []
    if kernels := program.uncounted_kernels():
        notes.append(f"{len(kernels)} Pallas kernels: their arithmetic and traffic are not counted")
    if loops := program.unknown_loops:
        notes.append(f"{len(loops)} loops of unknown length are counted once: {', '.join(loops)}")
    return notes


_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Of the main memory. Of the fast one it is a fault of the program: no smaller batch helps.
_OUT_OF_MEMORY = r"Ran out of memory (?:in memory space|on) hbm\b"
_AMOUNTS = (
    r"memory required for [^(]*\(([\d.]+)([KMGT]?)\) exceeds available \w+ \(([\d.]+)([KMGT]?)\)",
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
)


def read_out_of_memory(message: str) -> tuple[int | None, int | None]:
    """(bytes needed, bytes there are) of the compiler's message; None where it does not say.

    Raises:
      UserError: the message is about something else.
    """
    if not re.search(_OUT_OF_MEMORY, message, re.IGNORECASE):
        raise UserError(f"the compiler refused the program: {message.splitlines()[0]}")
    for pattern in _AMOUNTS:
        if found := re.search(pattern, message):
            used, room = (int(float(found[i]) * _SCALE[found[i + 1]]) for i in (1, 3))
            return used, room
    return None, None
