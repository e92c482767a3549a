"""Estimates the time, memory, data and disk that training a config takes, without the machine."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gen1_jax.aot import gpu
from gen1_jax.aot.target import Report, Target, describe_target, make_target, measure
from gen1_jax.aot.training import train_work
from gen1_jax.errors import UserError, one_line
from gen1_jax.files import read_json, write_json

# The settings that a step's program depends on. The learning rate, the place of the data and the
# stage before do not matter.
_KEYS = ("objective", "loss", "model", "trains", "dtype", "mesh", "sharding", "split_from")
_KEYS += ("microbatches", "remat", "reduce_once")
_DATA_KEYS = ("fields", "num_frames", "buckets", "image_buckets", "batch_size", "image_batch_size")
# What else its figures depend on, besides our own code.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu")
_PACKAGES += tuple(f"jax-cuda{n}-{kind}" for n in (12, 13) for kind in ("plugin", "pjrt"))
_TAKES = "5 to 15 minutes at Stable Diffusion's size; kept for the next plan"
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


@dataclasses.dataclass(frozen=True)
class StepFigures:
    """The figures of one step of a stage, on a batch of clips or of images.

    Attributes:
      kind: "clips" or "images".
      size: examples in the batch.
      share: share of the stage's steps that take such a batch.
      flops: model FLOPs, all chips together.
      bound_seconds: the time that a step takes at least: by the compiler, or else that of `flops`
        at the chips' peak.
      seconds: the time that a step takes at the assumed share of the peak.
      memory: bytes that a chip needs: by the compiler, or else those of the state alone.
      fits: whether that is no more than a chip has; None where only the state is known to fit.
    """

    kind: str
    size: int
    share: float
    flops: int
    bound_seconds: float
    seconds: float
    memory: int | None
    fits: bool | None


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """What one trained part takes.

    Attributes:
      name: the part.
      num_steps: its steps.
      steps: the figures of its kinds of steps.
      parameters: number of its model's parameters.
      state_bytes: bytes on a chip of parameters, average, moments and one gradient.
      bound_hours: hours that the part takes at least.
      hours: hours at the assumed share of the peak.
      disk_bytes: bytes of the checkpoints that are kept, and of the model.
      compiled: whether the compiler gave the figures.
    """

    name: str
    num_steps: int
    steps: tuple[StepFigures, ...]
    parameters: int
    state_bytes: int
    bound_hours: float
    hours: float
    disk_bytes: int
    compiled: bool

    @property
    def fits(self) -> bool | None:
        """Whether all kinds of steps fit; None where it is not known."""
        known = [step.fits for step in self.steps]
        return False if False in known else None if None in known else True

    def examples(self, kind: str) -> float:
        """Returns the clips or images that the part reads."""
        return sum(
            self.num_steps * step.share * step.size for step in self.steps if step.kind == kind
        )


def has_compiler(topology: str) -> bool:
    """Returns whether the compiler for these chips is installed."""
    version = topology.partition(":")[0]
    if version in gpu.GPUS:
        return gpu.is_installed()
    return importlib.util.find_spec("libtpu") is not None


def plan_part(
    config: Any,
    models: Mapping[str, dict],
    topology: str,
    *,
    mfu: float,
    compiles: bool,
    cache: Path,
    say: Callable[[str], None],
) -> PartPlan:
    """Returns what a trained part takes.

    Args:
      config: the part's config.
      models: the content of config.json of each frozen model, by name.
      topology: the chips, as `gen1 compile` takes them.
      mfu: share of the chips' peak that the model's FLOPs are assumed to reach.
      compiles: whether the steps are compiled for the chips.
      cache: folder in which the compiler's figures are kept.
      say: called with a line before each compilation.

    Raises:
      UserError: the settings are bad, the batch does not divide over the chips, or the compiler
        refused the step.
    """
    target = describe_target(topology, config.mesh.to_dict())
    peak = target.chip.flops * target.mesh.size
    steps, seconds, bound = [], 0.0, 0.0
    for kind, share in _kinds(config):
        images = kind == "images"
        work = train_work(config, models, target, images)
        report = None
        if compiles:
            report = _compile(config, models, topology, images, cache, say)
        at_peak = work.model_flops / peak
        least = at_peak if report is None else _longest(report, at_peak)
        step = StepFigures(
            kind=kind,
            size=next(iter(work.settings["batch"].values()))[0],
            share=share,
            flops=work.model_flops,
            bound_seconds=least,
            seconds=max(least, at_peak / mfu),
            memory=work.state_bytes + work.beside if report is None else report.hbm_used_bytes,
            fits=_fits(work.state_bytes + work.beside, target) if report is None else report.fits,
        )
        steps.append(step)
        bound += share * step.bound_seconds
        seconds += share * step.seconds
    model_bytes = 4 * work.parameters  # written as float32
    kept = config.keep_checkpoints + 1  # the newest is written before the oldest goes
    return PartPlan(
        name=config.name,
        num_steps=config.num_steps,
        steps=tuple(steps),
        parameters=work.parameters,
        state_bytes=work.state_bytes,
        bound_hours=bound * config.num_steps / 3600,
        hours=seconds * config.num_steps / 3600,
        disk_bytes=kept * work.checkpoint_bytes + model_bytes,
        compiled=compiles,
    )


def _kinds(config: Any) -> Iterator[tuple[str, float]]:
    """Yields the kinds of batches that a part reads, each with its share of the steps."""
    images = config.data.get("image_fraction") or 0.0
    if images < 1:
        yield "clips", 1 - images
    if images > 0:
        yield "images", images


def _fits(state_bytes: int, target: Target) -> bool | None:
    """Returns False if not even the state fits; otherwise nothing is known."""
    return None if state_bytes <= target.chip.memory else False


def _longest(report: Report, at_peak: float) -> float:
    """Returns the longest of the compiler's times; a program that does not fit has none."""
    times = (report.arithmetic_seconds, report.memory_seconds, report.interconnect_seconds)
    return max((at_peak, *(time for time in times if time is not None)))


def _compile(
    config: Any,
    models: Mapping[str, dict],
    topology: str,
    images: bool,
    cache: Path,
    say: Callable[[str], None],
) -> Report:
    """Returns the compiler's report of a step, from the cache if it is there."""
    data = {name: config.data.get(name) for name in _DATA_KEYS}
    asked = {name: config.to_dict()[name] for name in _KEYS} | {"data": data, "images": images}
    asked |= {"topology": topology, "models": models, "versions": _versions(), "code": _code()}
    asked |= {name: os.environ.get(name, "") for name in _VARIABLES}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    path = cache / f"{digest[:32]}.json"
    try:
        if (known := read_json(path)) is not None:
            return Report(**known)
    except (TypeError, UserError):  # a damaged file, or one of another version
        pass
    kind = "images" if images else "clips"
    say(f"{config.name}: compiling the step of {kind} for {topology} ({_TAKES}) …")
    target = make_target(topology, config.mesh.to_dict())
    report = measure(train_work(config, models, target, images), target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(report))
    except (OSError, UserError) as error:  # the figures are worth more than keeping them
        say(f"{config.name}: figures are not kept in {cache}: {one_line(error)}")
    return report


def cache_folder() -> Path:
    """Returns the folder in which the compiler's figures are kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "gen1_jax" / "plans"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _code() -> str:
    """Returns a digest of this package's code, which the figures depend on."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
