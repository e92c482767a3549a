"""Compile a program for TPUs or GPUs that are not there: does it fit, how fast can it be at best?

    gen1 compile --config paper:blur --topology v5p:4x4x8
    gen1 compile --config node:blur --topology h100:8
    gen1 compile --config paper:blur --topology v5e:16x16 --search
    gen1 compile --config paper:blur --topology v5e:2x4 --what sample

The real compiler runs on any machine: for TPUs `pip install -e '.[compile]'`, for GPUs
`pip install -e '.[cuda12]'`. It needs neither weights nor data. All times, and the share of the
chips' peak (MFU), are bounds and not measurements. A program that does not fit is an answer too:
the exit code is 0, and the last line of --json says "fits": false. `gen1 plan` adds up a whole
config.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from gen1_jax import config as configs
from gen1_jax.aot.environment import prepare_environment
from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.errors import UserError

STEPS = 50
HELP = "compile a program for chips that are not there; bound its memory and speed"
TOPOLOGY = (
    "the chips: v4, v5e, v5p or v6e:AxB[xC], such as v5p:4x4x8; a GPU and how many, such as "
    "h100:8, a100:8 or rtx4090:1; or cpu:N, to try it out"
)
WORKDIR = "the part's folder in a run, RUN/PART, whose files say what the config leaves open"


def add_arguments(parser) -> None:
    parser.add_argument("--config", required=True, help=configs.HELP)
    parser.add_argument("--topology", "--chips", required=True, help=TOPOLOGY)
    parser.add_argument(
        "--what",
        choices=("train", "sample", "cell", "encode"),
        default="train",
        help="compile the train step (default), guided sampling, a cell of an evaluation (an edit "
        "and its measures), or the encoders",
    )
    parser.add_argument(
        "--images", action="store_true", help="train: compile the step of an image batch"
    )
    parser.add_argument(
        "--microbatches", type=int, help="train: number of microbatches (the config's)"
    )
    parser.add_argument(
        "--remat", help="train: what the backward pass computes again (the config's)"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="train: try values of --remat and --microbatches, and report the fastest that fits",
    )
    parser.add_argument(
        "--batch-size", type=int, help="sample, cell: number of clips (one for each chip)"
    )
    parser.add_argument("--steps", type=int, help=f"sample, cell: DDIM steps ({STEPS})")
    add_set_argument(parser, "mesh.fsdp=8")
    parser.add_argument("--workdir", type=Path, help=WORKDIR)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def run(args) -> None:
    prepare_environment(args.topology)
    config = load(args)
    from gen1_jax.aot.search import best_of
    from gen1_jax.aot.target import make_target, measure

    mesh = config.mesh.to_dict() if "mesh" in config else {"data": -1, "fsdp": 1}
    target = make_target(args.topology, mesh)
    if args.search:
        reports = []
        for report in search(args, config, target):
            print(search_line(report), flush=True)
            reports.append(report)
        best = best_of(reports)
        print(search_table(reports, best))
        found = {
            "search": [dataclasses.asdict(report) for report in reports],
            "best": dataclasses.asdict(best) if best else None,
        }
    else:
        report = measure(make_work(args, config, target), target)
        print(table(report), flush=True)
        found = dataclasses.asdict(report)
        if args.what == "train":
            found["beside"] = {}
            for name, work, chips in make_works_beside(args, config, target):
                beside = measure(work, chips)
                print(f"{name:<20} {memory(beside)}; fits: {fits(beside)}", flush=True)
                found["beside"][name] = dataclasses.asdict(beside)
    if args.json:
        print(json.dumps(found))


def load(args) -> ConfigDict:
    """Returns the config with the command's changes.

    Raises:
      UserError: there is no such config, an option does not go with --what, the part is of another
        kind, or a setting cannot be run with.
    """
    from gen1_jax.resolve import resolve_planned
    from gen1_jax.training_checks import check_settings

    for what, names in (
        (("train",), ("images", "microbatches", "remat", "search")),
        (("sample", "cell"), ("batch_size", "steps")),
    ):
        for name in names:
            given = getattr(args, name)
            if given is not None and given is not False and args.what not in what:
                accepted = " or ".join(what)
                raise UserError(f"--{name.replace('_', '-')} goes with --what {accepted} only")
    if args.search and (args.microbatches or args.remat):
        raise UserError("--search tries every --microbatches and --remat: give neither")
    overrides = list(args.set)
    if args.microbatches is not None:
        overrides.append(f"microbatches={args.microbatches}")
    if args.remat is not None:
        overrides.append(f"remat={args.remat!r}")
    part = "encoded" if args.what == "encode" else "all"
    config = configs.load_config(args.config, overrides, default_part=part)
    if args.what == "encode":
        if "levels_per_clip" not in config:
            raise UserError(f"--config {args.config}: this part encodes nothing; e.g. tiny:encoded")
        return config
    if config.kind != "train":
        raise UserError(
            f"--config {args.config}: this part is not trained; name one that is, e.g. paper:blur"
        )
    if args.what in ("sample", "cell") and config.objective != "diffusion":
        raise UserError(f"--config {args.config}: --what {args.what} takes a stage of the UNet")
    if args.what == "cell" and config.model.in_channels <= config.model.out_channels:
        raise UserError(f"--config {args.config}: --what cell takes a stage with structure")
    return resolve_planned(check_settings(config), other_part(args), args.workdir)


def other_part(args) -> Callable[[str], ConfigDict]:
    """Returns what loads the other parts of the config."""
    return partial(configs.load_other_part, args.config)


def load_pipeline(args) -> ConfigDict:
    """Returns the pipeline part, whose settings say the size and length of clips."""
    from gen1_jax.trained_on import resolve_pipeline

    pipeline = configs.load_other_part(args.config, "pipeline")
    if args.workdir:
        folder = args.workdir.parent / "pipeline"
        return resolve_pipeline(configs.resolve_paths(pipeline, folder))
    if pipeline.settings.get("size") is None or pipeline.settings.get("num_frames") is None:
        raise UserError(
            "the size and length of clips are left to the data; --workdir RUN/PART finds them"
        )
    return pipeline


def make_works_beside(args, config, target):
    """Yields what a run computes beside its steps: its name, the program and the chips."""
    from gen1_jax.aot.training import works_beside
    from gen1_jax.resolve import describe_models

    models = describe_models(config.frozen, other_part(args), args.workdir)
    yield from works_beside(config, models, target, args.images)


def make_work(args, config, target):
    """Returns the program that the arguments ask for."""
    from gen1_jax.aot import programs, training
    from gen1_jax.distributed import batch_parts
    from gen1_jax.resolve import describe_models

    def describe(folders):
        return describe_models(folders, other_part(args), args.workdir)

    if args.what == "train":
        return training.train_work(config, describe(config.frozen), target, args.images)
    pipeline = load_pipeline(args)
    settings = pipeline.settings.to_dict()
    if args.what == "encode":
        return programs.encode_work(config, settings, describe(config.frozen), target)
    batch_size = batch_parts(target.mesh) if args.batch_size is None else args.batch_size
    steps = STEPS if args.steps is None else args.steps
    if batch_size < 1 or not 1 <= steps <= 1000:
        raise UserError("--batch-size: 1 or more is accepted; --steps: 1 to 1000")
    models = describe({name: folder for name, folder in pipeline.folders.items() if name != "unet"})
    make = programs.sample_work if args.what == "sample" else programs.cell_work
    return make(config, settings, models, target, batch_size, steps)


def search(args, config, target):
    """Yields the reports of a search over the config's remat and microbatches."""
    from gen1_jax.aot import search
    from gen1_jax.aot.programs import batch_shapes
    from gen1_jax.distributed import FRAMES
    from gen1_jax.models.remat import REMAT

    if target.mesh.shape[FRAMES] > 1 and not args.images:
        raise UserError(
            "--search goes with mesh.frames=1 only: where devices share the frames of clips, they "
            "compute one clip at a time, so that only one number of microbatches is possible"
        )

    def make(remat: str, microbatches: int):
        config.remat, config.microbatches = remat, microbatches
        return make_work(args, config, target)

    return search.search(
        make,
        target,
        remats=tuple(REMAT) if config.objective == "diffusion" else ("none",),
        examples_per_chip=max(1, batch_shapes(config, args.images).size // target.mesh.size),
    )


# ---- tables


def table(report) -> str:
    """Returns the report as lines of text."""
    s = report.settings
    mesh = " x ".join(f"{name} {size}" for name, size in s["mesh"].items())
    settings = (f"{k} {v}" for k, v in s.items() if k not in ("what", "batch", "mesh", "chips"))
    rows = [
        ("program", f"{s['what']}, {', '.join(settings)}"),
        ("batch", ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in s["batch"].items())),
        ("chips", f"{s['chips']} as {mesh}"),
        ("parameters", f"{report.parameters:,}"),
        ("memory of a chip", memory(report)),
        ("fits", fits(report)),
        ("model FLOPs", f"{report.model_flops:.4g}, all chips together"),
    ]
    if report.flops is not None:
        rows += [
            ("compiled FLOPs", f"{report.flops:.4g} a chip; a loop counts each time it runs"),
            ("memory traffic", f"{report.bytes:.4g} B a chip; a loop counts each time it runs"),
        ]
    for kind, c in report.collectives.items():
        rows.append(
            (kind, f"{c['count']} times, {c['bytes']:.4g} B; a chip sends {c['sent']:.4g} B")
        )
    for name in ("arithmetic", "memory", "interconnect"):
        seconds = getattr(report, f"{name}_seconds")
        if seconds is not None:
            rows.append((f"{name} takes", f"{seconds:.4g} s at least"))
    if report.mfu_bound is not None:
        rows.append(("MFU", f"{report.mfu_bound:.1%} at most"))
    if report.scheduled_seconds is not None:
        rows.append(("scheduled", f"{report.scheduled_seconds:.4g} s by the compiler's clock"))
    if s["what"] == "cell" and report.scheduled_seconds:
        (clips, *_) = s["batch"]["frames"]
        hourly = 3600 * clips / s["chips"] / report.scheduled_seconds
        rows.append(("cells an hour", f"{hourly:.0f} a chip, by the same clock"))
    rows.append(("compiled in", f"{report.lower_seconds + report.compile_seconds:.0f} s"))
    rows += [("note", note) for note in report.notes]
    lines = [f"{name:<20} {value}" for name, value in rows]
    if not report.fits:
        lines.append(advice(report))
    return "\n".join(lines)


# The terms of a chip's memory, as people read them.
_TERMS = {"beside": "beside the program"}


def memory(report) -> str:
    text = _size(report.hbm_used_bytes)
    if report.hbm_available_bytes is not None:
        text = memory_short(report)
    terms = ((_TERMS.get(name, name), size) for name, size in report.hbm.items() if size)
    parts = ", ".join(f"{name} {_size(size)}" for name, size in terms)
    return f"{text} ({parts})" if parts else text


def fits(report) -> str:
    """Says whether a program fits, and with how much to spare or to save."""
    used, there = report.hbm_used_bytes, report.hbm_available_bytes
    if there is None:
        return "not known: the memory of a CPU is not looked at"
    if report.fits:
        return f"yes, and {_size(there - used)} are left"
    if used is None:
        return "no; the compiler does not say by how much"
    return f"no, it needs {_size(used - there)} more than there is"


def advice(report, searched: bool = False) -> str:
    """Returns what a program needs, and what may make it fit.

    Args:
      report: of a program that does not fit.
      searched: whether a search has tried remats and microbatches already.
    """
    change = "a smaller batch, or more chips"
    if report.settings["what"] == "train":
        change = "a larger mesh.fsdp (--set), or more chips"
        if not searched and report.settings["objective"] == "diffusion":
            change = f"--remat layer, {change}"
        if not searched:
            change = f"more --microbatches, {change}"
    return (
        f"does not fit: {_size(report.hbm_used_bytes)} needed, "
        f"{_size(report.hbm_available_bytes)} there; try {change}"
    )


def search_line(report) -> str:
    s = report.settings
    text = f"remat {s['remat']:<9} microbatches {s['microbatches']:<4} {memory_short(report):<26}"
    if report.refused:
        return f"{text} {report.refused}"
    if not report.fits:
        return f"{text} does not fit"
    return text if report.mfu_bound is None else f"{text} MFU at most {report.mfu_bound:.1%}"


def memory_short(report) -> str:
    if report.hbm_available_bytes is None:
        return _size(report.hbm_used_bytes)
    return f"{_size(report.hbm_used_bytes)} of {_size(report.hbm_available_bytes)}"


def search_table(reports: list, best) -> str:
    if not any(report.fits for report in reports):
        too_large = [report for report in reports if not report.refused]
        return advice(too_large[-1], searched=True) if too_large else reports[-1].refused
    if best is None:  # the chip's figures are not known
        return "\n".join(["", *map(search_line, reports)])
    return f"\nbest: {search_line(best)}\n{table(best)}"


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 2**30:.2f} GiB" if abs(count) >= 2**27 else f"{count / 2**20:.1f} MiB"
