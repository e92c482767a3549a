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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from gen1_jax import hlo
from gen1_jax.batch import Batch
from gen1_jax.conditioning import Conditioner, Frozen
from gen1_jax.diffusion import make_schedule
from gen1_jax.errors import UserError
from gen1_jax.flops import count_flops
from gen1_jax.hardware import CHIPS, Chip
from gen1_jax.objectives import make_objective, sample_latents
from gen1_jax.parallel import (
    FRAMES,
    batch_parts,
    batch_sharding,
    clip_sharding,
    make_mesh,
    replicated,
)
from gen1_jax.train_step import make_module, make_optimizer, make_step, state_template
from gen1_jax.weights.folder import module_from_config, param_template

TPUS = ("v4", "v5e", "v5p", "v6e")
LATENT_CHANNELS = 4
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


# -------------------------------------------------------------------------------- the programs


def train_work(config: Any, models: Mapping[str, dict], target: Target, images: bool) -> Work:
    """The train step that `gen1 train` runs.

    Args:
      config: of a trained part.
      models: config.json's content of the frozen models, by name.
      target: what it is compiled for.
      images: the step of an image batch, not of a video batch.

    Raises:
      UserError: bad settings, or a batch that does not divide over the chips.
    """
    mesh = target.mesh
    module = make_module(config)
    conditioner, frozen = describe_frozen(models, jnp.dtype(config.dtype), mesh)
    loss = make_objective(config.objective, module, conditioner, config.loss.to_dict()).loss
    optimizer = make_optimizer(num_steps=config.num_steps, **config.optimizer)
    state = state_template(module, optimizer, mesh, config)
    batch = _placed(batch_shapes(config, images), batch_sharding(mesh))
    if mesh.shape[FRAMES] > 1:
        raise UserError("mesh.frames is for editing; training takes 1")
    if batch.size % mesh.size:
        raise UserError(f"a batch of {batch.size} does not divide over {mesh.size} chips")
    notes = []
    if batch.size // mesh.size % config.microbatches:
        notes.append(
            f"{batch.size // mesh.size} examples a chip do not divide into {config.microbatches} "
            "microbatches: they move between chips, or some wait"
        )
    # Encoded batches need no encoder: the frozen models are for pictures, and lie beside.
    idle = config.objective == "diffusion" and batch.encoded
    model_flops = 3 * _count(loss, state.params, frozen, batch, jax.random.key(0))
    if frozen and not idle:
        notes.append("of the frozen networks model FLOPs count a backward pass too")
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    step = make_step(config, loss, optimizer, state.params)
    settings = {
        "what": "train",
        "objective": config.objective,
        "batch": _shapes(batch),
        "microbatches": config.microbatches,
        "remat": config.remat,
    }
    return Work(
        partial(step.lower, state, batch, frozen, rate),
        settings,
        _size(state.params),
        model_flops,
        beside=_bytes(frozen) if idle else 0,
        notes=tuple(notes),
    )


def sample_work(
    config: Any,
    pipeline: Mapping[str, Any],
    models: Mapping[str, dict],
    target: Target,
    batch_size: int,
    num_steps: int,
) -> Work:
    """Guided DDIM of a batch of clips: `num_steps` steps of three predictions each.

    Args:
      config: of a trained UNet stage.
      pipeline: the settings of its pipeline part.
      models: config.json's content of the pipeline's other models, by name. An editor has them on
        every chip, whatever it computes.
      target: what it is compiled for.
      batch_size: clips, over all chips.
      num_steps: DDIM steps.
    """
    mesh = target.mesh
    module = make_module(config).clone(remat="none")
    schedule = make_schedule(**pipeline["schedule"])
    params = _placed(param_template(module), replicated(mesh))
    _, frozen = describe_frozen(models, jnp.dtype(config.dtype), mesh)
    shapes = batch_shapes(config, images=False)
    parts, split = batch_parts(mesh), mesh.shape[FRAMES]
    if batch_size % parts:
        raise UserError(f"a batch of {batch_size} clips does not divide over {parts} parts")
    if config.data.num_frames % split:
        raise UserError(f"{config.data.num_frames} frames do not divide over {split} chips")

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = (clip_sharding if len(x.shape) == 5 else batch_sharding)(mesh)
        return jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=sharding)

    batch = jax.tree.map(place, shapes)
    structured = module.in_channels > module.out_channels
    condition = (batch.structure, batch.structure_level) if structured else (None, None)

    def sample(params, noise, content, structure, level):
        return sample_latents(
            module,
            params,
            schedule,
            noise,
            content,
            structure,
            level,
            guidance_scale=pipeline["guidance_scale"],
            num_steps=num_steps,
            spacing=pipeline["spacing"],
        )

    arguments = (params, batch.latents, batch.content, *condition)
    settings = {"what": "sample", "batch": _shapes(batch), "num_steps": num_steps}
    return Work(
        partial(jax.jit(sample).lower, *arguments),
        settings,
        _size(params),
        _count(sample, *arguments),
        beside=_bytes(frozen),
    )


def encode_work(
    config: Any, pipeline: Mapping[str, Any], models: Mapping[str, dict], target: Target
) -> Work:
    """What `gen1 precompute` runs on a batch of clips, here over all chips.

    Args:
      config: of an encoding part.
      pipeline: the settings of the pipeline part: clip length and frame size.
      models: config.json's content of vae, clip and depth.
      target: what it is compiled for.
    """
    mesh = target.mesh
    b = config.batch_size * batch_parts(mesh)
    conditioner, frozen = describe_frozen(models, jnp.dtype(config.dtype), mesh)
    frames = (b, pipeline["num_frames"], *pipeline["size"], 3)
    shapes = (
        jax.ShapeDtypeStruct(frames, jnp.uint8),
        jax.ShapeDtypeStruct((b, config.levels_per_clip), jnp.int32),
    )
    arguments = (frozen, *_placed(shapes, batch_sharding(mesh)))
    settings = {
        "what": "encode",
        "batch": {"frames": list(frames)},
        "levels": config.levels_per_clip,
    }
    return Work(
        partial(jax.jit(conditioner.encode_record).lower, *arguments),
        settings,
        _size(frozen),
        _count(conditioner.encode_record, *arguments),
    )


def batch_shapes(config: Any, images: bool) -> Batch:
    """The shapes of a config's batches, over all hosts; of several buckets the largest.

    Raises:
      UserError: a number below 1, a bucket that is no size, or a field that no batch has.
    """
    data, model = config.data, config.model
    for name in ("image_batch_size" if images else "batch_size", "num_frames"):
        if data[name] < 1:
            raise UserError(f"data.{name} is {data[name]}; 1 or more is accepted")
    buckets = (images and data.get("image_buckets")) or data.buckets
    if not buckets or not all(map(_is_size, buckets)):
        raise UserError(f"data.buckets is {tuple(buckets)}; accepted: pairs (height, width)")
    height, width = max(buckets, key=lambda size: size[0] * size[1])
    b = data.image_batch_size if images else data.batch_size
    clip = (b, 1 if images else data.num_frames, height, width)
    text = model.get("text_config", {})
    length = text.get("max_position_embeddings") or model.get("num_embeddings", 0)
    content = model.get("cross_attention_dim") or model.get("embedding_dim", 0)
    shapes = {
        "frames": ((*clip, 3), jnp.uint8),
        "depth": (clip, jnp.float32),
        "tokens": ((b, length), jnp.int32),
        "content_frame": ((b,), jnp.int32),
        "latents": ((*clip, LATENT_CHANNELS), jnp.float32),
        "latents_logvar": ((*clip, LATENT_CHANNELS), jnp.float32),
        "structure": ((*clip, LATENT_CHANNELS), jnp.float32),
        "structure_level": ((b,), jnp.int32),
        "content": ((b, content), jnp.float32),
    }
    if not data.fields or not set(data.fields) <= set(shapes):
        raise UserError(f"data.fields is {tuple(data.fields)}; accepted: {', '.join(shapes)}")
    return Batch(**{name: jax.ShapeDtypeStruct(*shapes[name]) for name in data.fields})


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, tuple) and len(size) == 2 and all(type(x) is int and x > 0 for x in size)
    )


def describe_frozen(
    models: Mapping[str, dict], dtype: Any, mesh: Mesh
) -> tuple[Conditioner, Frozen]:
    """As `Conditioner.load`, with the shapes of parameters that are on every chip."""
    modules = {
        name: module_from_config(config, dtype=dtype, where=name) for name, config in models.items()
    }
    frozen = {name: param_template(module) for name, module in modules.items()}
    return Conditioner(**modules), _placed(frozen, replicated(mesh))


def _placed(shapes: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def _count(function: Callable, *arguments: Any) -> int:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return count_flops(function, *shapes)


def _shapes(batch: Batch) -> dict[str, list[int]]:
    return {name: list(x.shape) for name, x in batch.fields().items()}


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# -------------------------------------------------------------------------------- the report


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
