"""Compiles for accelerators that are not there: does a program fit, and how fast can it be?

The real compiler (libtpu for TPUs, XLA's CUDA plugin for NVIDIA GPUs) compiles the real program for
a topology of chips; it needs only the shapes of the arguments. The compiled program is then read
for its memory, arithmetic, traffic and collectives. All times are lower bounds: no chip reaches its
peaks of arithmetic, memory and interconnect, let alone all three at once.
"""

import dataclasses
import importlib.util
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from gen1_jax.aot import gpu, hlo
from gen1_jax.distributed import DATA, FRAMES, FSDP, make_mesh, mesh_shape
from gen1_jax.errors import UserError, one_line
from gen1_jax.hardware import CHIPS, Chip
from gen1_jax.runtime import UNITS

TPUS = ("v4", "v5e", "v5p", "v6e")
_COUNT = r"[1-9]\d*"


class Target(NamedTuple):
    """The chips to compile for.

    Attributes:
      topology: the version and the layout of the chips, e.g. `v5p:4x4x8`.
      mesh: the mesh over them.
      chip: the peak figures of one chip; None for a CPU, whose figures are not known.
      options: options of the compiler.
      notes: sentences on what the compiler's figures leave out.
    """

    topology: str
    mesh: Mesh
    chip: Chip | None
    options: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """A program to compile.

    Attributes:
      lower: returns jax's lowered program.
      settings: a description of the program for the report.
      parameters: number of the model's parameters.
      model_flops: FLOPs of one run on all chips by the model's formulas. Rematerialisation, which
        computes activations twice to save memory, is not counted.
      beside: bytes on each chip that the run needs outside the program.
      resident: bytes of all that lies on a chip before the program runs, its arguments included;
        None: its arguments, and what is `beside` it.
      state_bytes: bytes on each chip of what a training step changes and holds: parameters, their
        average and moments, and one gradient.
      checkpoint_bytes: bytes of a checkpoint.
      notes: sentences on what the figures leave out.
    """

    lower: Callable[[], Any]
    settings: dict[str, Any]
    parameters: int
    model_flops: int
    beside: int = 0
    resident: int | None = None
    state_bytes: int = 0
    checkpoint_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """The figures of one compiled program; bytes, FLOPs and seconds are for one chip and one run.

    Attributes:
      settings: the description from `Work`, with the topology, the number of chips and the mesh.
      parameters: number of the model's parameters.
      fits: whether the chip's memory is enough. If it is not, all figures except those of memory
        are None.
      hbm_used_bytes: arguments + outputs − aliased + temporaries + code + beside.
      hbm_available_bytes: the chip's memory that programs may use.
      model_flops: `Work.model_flops`, for all chips together.
      hbm: the terms of `hbm_used_bytes` by name.
      flops: FLOPs of the compiled program's products and convolutions, recomputation included.
      bytes: bytes that pass between the chip and its main memory.
      compiler_flops: FLOPs by the compiler's own analysis, which counts the body of a loop once.
      compiler_bytes: bytes by the same analysis, which counts traffic of the fast memory too.
      collectives: kind → count, bytes (size of the arrays) and sent (bytes one chip sends in a
        ring).
      arithmetic_seconds: time at the chip's peak for `flops`, or for the chip's share of
        `model_flops` where that is more.
      memory_seconds: time for `bytes` at the peak bandwidth of its main memory.
      interconnect_seconds: time for the sent bytes at the peak of its interconnect.
      mfu_bound: upper bound of the model FLOPs utilisation: model FLOPs over what the peak would
        compute in the longest of the three times.
      scheduled_seconds: time by the schedule of a TPU's compiler, where no two instructions
        overlap; Pallas kernels, of which it says nothing, count at the chip's peaks. It is no
        measurement.
      lower_seconds: how long lowering took.
      compile_seconds: how long compiling took.
      refused: why the compiler cannot compile the program on any amount of memory; else None.
      notes: sentences on what the figures leave out.
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
    scheduled_seconds: float | None = None
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    refused: str | None = None
    notes: tuple[str, ...] = ()


# ---- the target


def describe_target(topology: str, mesh: Mapping[str, int]) -> Target:
    """Returns a target that nothing can be compiled for, but whose memory and FLOPs can be counted.

    Args:
      topology: as for `make_target`; no compiler is needed.
      mesh: the arguments of `make_mesh`.

    Raises:
      UserError: there is no such topology, or the mesh does not fit the chips.
    """
    version, _, layout = topology.partition(":")
    known = {*TPUS, *gpu.GPUS}
    if version not in known or not re.fullmatch(rf"{_COUNT}(x{_COUNT})*", layout):
        raise UserError(_refuse(topology))
    count = math.prod(map(int, layout.split("x")))
    abstract = AbstractMesh(mesh_shape(count, **mesh), (DATA, FSDP, FRAMES))
    return Target(topology, abstract, CHIPS[version])


def _refuse(topology: str) -> str:
    return (
        f"--topology {topology}; accepted: a TPU ({', '.join(TPUS)}) and its chips, such as "
        f"v5p:4x4x8; a GPU ({', '.join(gpu.GPUS)}) and how many, such as h100:8; or cpu:N"
    )


def make_target(topology: str, mesh: Mapping[str, int]) -> Target:
    """Returns the chips of a topology, arranged as a mesh.

    Args:
      topology: `VERSION:CHIPS`, e.g. `v5p:4x4x8`, `v5e:8x16` or `h100:8`; or `cpu:N`.
      mesh: the arguments of `make_mesh`.

    Raises:
      UserError: there is no such topology, its compiler is missing, or the mesh does not fit the
        chips.
    """
    version, _, layout = topology.partition(":")
    if version == "cpu" and re.fullmatch(_COUNT, layout):
        devices = jax.devices("cpu")[: int(layout)]
        if len(devices) != int(layout):
            raise UserError(f"--topology {topology}: this process has {len(devices)} CPU devices")
        return Target(topology, make_mesh(**mesh, devices=devices), None)
    if version in gpu.GPUS and re.fullmatch(_COUNT, layout):
        devices = gpu.describe_devices(version, int(layout))
        mesh_of = make_mesh(**mesh, devices=devices)
        return Target(topology, mesh_of, CHIPS[version], gpu.OPTIONS, gpu.NOTES)
    if version not in TPUS or not re.fullmatch(rf"{_COUNT}(x{_COUNT})*", layout):
        raise UserError(_refuse(topology))
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU compiler is not installed; `pip install -e '.[compile]'`")
    from jax.experimental import topologies

    # The two cores of a v4 chip work as one device. That is the default of the other versions.
    options = {"chip_config_name": "megacore"} if version == "v4" else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:  # libtpu raises several types
        raise UserError(f"--topology {topology}: {str(error).splitlines()[0]}") from error
    return Target(topology, make_mesh(**mesh, devices=description.devices), CHIPS[version])


def measure(work: Work, target: Target) -> Report:
    """Compiles a program and reads its figures. Lack of memory is a result, not an error.

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
        compiled = lowered.compile(compiler_options=target.options)
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

    hbm = _memory(compiled.memory_analysis(), work)
    used = sum(hbm.values())
    program = hlo.Program(_read_text(compiled))
    flops, moved = program.flops(), program.memory_traffic()
    collectives = program.collectives(mesh.size)
    analysis = compiled.cost_analysis() or {}
    bounds = {}
    if chip:
        # XLA computes a product with a very short side as a sum, which `flops` does not count. The
        # model's own products are computed in any case.
        computed = max(flops, work.model_flops / mesh.size)
        bounds = {
            "arithmetic_seconds": computed / chip.flops,
            "memory_seconds": moved / chip.bandwidth,
            "interconnect_seconds": sum(c.sent for c in collectives.values()) / chip.interconnect,
        }
        bounds["mfu_bound"] = work.model_flops / mesh.size / (chip.flops * max(bounds.values()))
    if chip and chip.clock:
        bounds["scheduled_seconds"] = program.scheduled_cycles() / chip.clock
        bounds["scheduled_seconds"] += program.kernel_seconds(chip.flops, chip.bandwidth)
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
        notes=(*work.notes, *target.notes, *_notes(program)),
    )


def _read_text(compiled: Any) -> str:
    """Returns a compiled program as text.

    Raises:
      UserError: the compiler is newer than jaxlib, which cannot read its program.
    """
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"jaxlib {jax.lib.__version__} cannot read what the compiler made "
            f"({one_line(error)}); the compiler is newer: `pip install -e '.[compile]'` brings a "
            "libtpu that fits"
        ) from error


def refusal(work: Work, target: Target, reason: str) -> Report:
    """Returns the report of a program for which `measure` raised UserError."""
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


def _memory(analysis: Any, work: Work) -> dict[str, int]:
    beside = work.beside
    if work.resident is not None:  # the compiler leaves out arguments that are not used
        beside += max(0, work.resident - analysis.argument_size_in_bytes)
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


# Main memory only: if a program needs too much fast memory (VMEM), no smaller batch helps.
_OUT_OF_MEMORY = r"Ran out of memory (?:in memory space|on) hbm\b"
_AMOUNTS = (
    r"memory required for [^(]*\(([\d.]+)([KMGT]?)\) exceeds available \w+ \(([\d.]+)([KMGT]?)\)",
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
)


def read_out_of_memory(message: str) -> tuple[int | None, int | None]:
    """Reads the compiler's message that a program needs too much memory.

    Returns:
      The bytes needed and the bytes available; None for both if the message does not say.

    Raises:
      UserError: the message is about something else.
    """
    if not re.search(_OUT_OF_MEMORY, message, re.IGNORECASE):
        raise UserError(f"the compiler refused the program: {message.splitlines()[0]}")
    for pattern in _AMOUNTS:
        if found := re.search(pattern, message):
            used, room = (int(float(found[i]) * UNITS[found[i + 1]]) for i in (1, 3))
            return used, room
    return None, None
