"""Compile a program for TPUs that are not there: does it fit, and how fast can it be at best?

    gen1 compile --config paper:blur --topology v5p:4x4x8
    gen1 compile --config paper:blur --topology v5e:16x16 --search
    gen1 compile --config paper:blur --topology v5e:2x4 --what sample

The real TPU compiler does it, on any machine (`pip install -e '.[compile]'`); no weights and no
data are needed. All seconds and the share of the peak (MFU) are bounds, not measurements. A program
that does not fit is an answer: exit code 0, and "fits": false in the last line of --json.
"""

import dataclasses
import json
import os
import re
from pathlib import Path

from ml_collections import ConfigDict

from gen1_jax import config as configs
from gen1_jax.errors import UserError

# libtpu looks for the machine of a TPU; it is told that this is none.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is taken, so several may compile at once
}
STEPS = 50
HELP = "compile the train step for TPUs that are not there; bounds its speed"


def add_arguments(parser) -> None:
    parser.add_argument("--config", required=True, help=configs.HELP)
    parser.add_argument(
        "--topology",
        required=True,
        help="chips: v4, v5e, v5p or v6e:AxB[xC], as v5p:4x4x8; cpu:N tries it out",
    )
    parser.add_argument(
        "--what",
        choices=("train", "sample", "encode"),
        default="train",
        help="the train step (default), guided sampling, or the frozen encoders",
    )
    parser.add_argument("--images", action="store_true", help="train: the step of an image batch")
    parser.add_argument("--microbatches", type=int, help="train: instead of the config's")
    parser.add_argument("--remat", help="train: what is recomputed, instead of the config's")
    parser.add_argument(
        "--search",
        action="store_true",
        help="train: tries remats and microbatches, and finds the best that fits",
    )
    parser.add_argument("--batch-size", type=int, help="sample: clips (default: one a chip)")
    parser.add_argument("--steps", type=int, help=f"sample: DDIM steps ({STEPS})")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="override, e.g. mesh.fsdp=8"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def run(args) -> None:
    prepare_environment(args.topology)
    config = load(args)
    from gen1_jax.aot import target as ahead_of_time

    mesh = config.mesh.to_dict() if "mesh" in config else {"data": -1, "fsdp": 1}
    target = ahead_of_time.make_target(args.topology, mesh)
    if args.search:
        reports = list(search(args, config, target))
        best = max(
            (r for r in reports if r.fits and r.mfu_bound), key=lambda r: r.mfu_bound, default=None
        )
        print(search_table(reports, best))
        found = {
            "search": [dataclasses.asdict(r) for r in reports],
            "best": dataclasses.asdict(best) if best else None,
        }
    else:
        report = ahead_of_time.measure(make_work(args, config, target), target)
        print(table(report))
        found = dataclasses.asdict(report)
    if args.json:
        print(json.dumps(found))


def prepare_environment(topology: str) -> None:
    """Sets what jax and libtpu read when they are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if count := re.fullmatch(r"cpu:([1-9]\d*)", topology):
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_force_host_platform_device_count" not in flags:
            flag = f"--xla_force_host_platform_device_count={count[1]}"
            os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def load(args):
    """The config with the command's changes.

    Raises:
      UserError: no such config, an option that does not go with --what, a part of another kind,
        settings that nothing runs with.
    """
    from gen1_jax import precompute as encoding
    from gen1_jax.training.loop import check_settings

    for what, names in (
        ("train", ("images", "microbatches", "remat", "search")),
        ("sample", ("batch_size", "steps")),
    ):
        for name in names:
            given = getattr(args, name)
            if given is not None and given is not False and args.what != what:
                raise UserError(f"--{name.replace('_', '-')} goes with --what {what} only")
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
        encoding.check_settings(config)
        return config
    if config.kind != "train":
        raise UserError(
            f"--config {args.config}: this part is not trained; name one that is, e.g. paper:blur"
        )
    if args.what == "sample" and config.objective != "diffusion":
        raise UserError(f"--config {args.config}: --what sample takes a stage of the UNet")
    # Sampling may split a clip's frames over chips, which training may not.
    check_settings(config if args.what == "train" else ConfigDict({**config, "mesh": {}}))
    return config


def make_work(args, config, target):
    """The program that the arguments ask for."""
    from gen1_jax.aot import programs

    if args.what == "train":
        models = model_configs(args.config, config.frozen)
        return programs.train_work(config, models, target, args.images)
    from gen1_jax.distributed import batch_parts

    part = other_part(args.config, "pipeline")
    pipeline = part.settings.to_dict()
    if args.what == "encode":
        models = model_configs(args.config, config.frozen)
        return programs.encode_work(config, pipeline, models, target)
    batch_size = batch_parts(target.mesh) if args.batch_size is None else args.batch_size
    steps = STEPS if args.steps is None else args.steps
    if batch_size < 1 or not 1 <= steps <= 1000:
        raise UserError("--batch-size: 1 or more is accepted; --steps: 1 to 1000")
    others = {name: folder for name, folder in part.folders.items() if name != "unet"}
    models = model_configs(args.config, others)
    return programs.sample_work(config, pipeline, models, target, batch_size, steps)


def other_part(spec: str, part: str):
    return configs.load_config(f"{spec.partition(':')[0]}:{part}")


def model_configs(spec: str, folders) -> dict[str, dict]:
    """What the config's own parts say of the models in `../PART/model`, by name."""
    return {
        name: other_part(spec, Path(folder).parent.name).model.to_dict()
        for name, folder in folders.items()
    }


def search(args, config, target):
    """Yields a report for every number of microbatches tried, each printed as it is there.

    More microbatches than fit can still be faster: what they compute with stays in fast memory.
    Not if arithmetic is what is waited for; and if nothing is computed twice either, nothing beats
    it.
    """
    from gen1_jax.aot import programs
    from gen1_jax.aot import target as ahead_of_time
    from gen1_jax.models.unet import REMAT

    batch = programs.batch_shapes(config, args.images)
    per_chip = max(1, batch.size // target.mesh.size)
    divisors = [n for n in range(1, per_chip + 1) if per_chip % n == 0]
    for remat in REMAT if config.objective == "diffusion" else ("none",):
        for count in divisors:
            config.remat, config.microbatches = remat, count
            work = make_work(args, config, target)
            try:
                report = ahead_of_time.measure(work, target)
            except UserError as error:
                report = ahead_of_time.refusal(work, target, str(error))
            print(search_line(report), flush=True)
            yield report
            if report.fits and waits_for_arithmetic(report):
                if remat == "none":
                    return
                break


def waits_for_arithmetic(report) -> bool:
    """Or nothing is known of the chip."""
    moved = (report.memory_seconds or 0, report.interconnect_seconds or 0)
    return (report.arithmetic_seconds or 0) >= max(moved)


# ---------------------------------------------------------------- tables


def table(report) -> str:
    """The report as lines of text."""
    s = report.settings
    mesh = " x ".join(f"{name} {size}" for name, size in s["mesh"].items())
    settings = (f"{k} {v}" for k, v in s.items() if k not in ("what", "batch", "mesh", "chips"))
    rows = [
        ("program", f"{s['what']}, {', '.join(settings)}"),
        ("batch", ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in s["batch"].items())),
        ("chips", f"{s['chips']} as {mesh}"),
        ("parameters", f"{report.parameters:,}"),
        ("memory of a chip", memory(report)),
        ("model FLOPs", f"{report.model_flops:.4g}, all chips together"),
    ]
    if report.flops is not None:
        rows += [
            ("compiled FLOPs", f"{report.flops:.4g} a chip, loops as often as they run"),
            ("memory traffic", f"{report.bytes:.4g} B a chip, loops as often as they run"),
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
    rows.append(("compiled in", f"{report.lower_seconds + report.compile_seconds:.0f} s"))
    rows += [("note", note) for note in report.notes]
    lines = [f"{name:<20} {value}" for name, value in rows]
    if not report.fits:
        lines.append(advice(report))
    return "\n".join(lines)


def memory(report) -> str:
    text = f"{_size(report.hbm_used_bytes)} of {_size(report.hbm_available_bytes)}"
    parts = ", ".join(f"{name} {_size(size)}" for name, size in report.hbm.items() if size)
    return f"{text} ({parts})" if parts else text


def advice(report, searched: bool = False) -> str:
    """What may make it fit, beside what a search has tried."""
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
