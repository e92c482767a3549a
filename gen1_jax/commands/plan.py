"""Say what training takes before anything is rented: steps, chip-hours, memory, data and disk.

    gen1 plan --config node --chips h100:8
    gen1 plan --config v5e16:video --chips v5e:4x4 --clips 200000 --images 2000000
    gen1 plan --config gpu24 --chips rtx4090:1 --no-compile

Memory and the least time are the compiler's figures where the compiler for the chips is installed
(see `gen1 compile`). A large step takes it 5 to 15 minutes; its figures are kept, so that the next
plan has them at once. With --no-compile, or without the compiler, they are counted from the
network: seconds instead of minutes, no activations in the memory, and a less likely time.
"""

import dataclasses
import json
import math
import sys
from functools import partial
from pathlib import Path

from gen1_jax import config as configs
from gen1_jax.aot.environment import prepare_environment
from gen1_jax.commands.compile_step import TOPOLOGY
from gen1_jax.commands.overrides import add_set_argument
from gen1_jax.errors import UserError

HELP = "what training takes: steps, chip-hours, memory, data, disk; nothing runs"
# Published figures for networks like Stable Diffusion's lie between 11.5 % (MLPerf, many small
# batches) and 36 % (large batches) of the chips' peak.
MFU = 0.3
# Bytes that an ingested clip takes for each of its pixels, and an image; docs/footage.md measured
# 74 to 102 kB for a clip of 8 frames at 448×256, and 22 to 27 kB for an image.
_CLIP_BYTES_PER_PIXEL, _IMAGE_BYTES = 0.1, 27_000
_CAPTION = 77  # tokens of a caption, CLIP's
_LEAST_MFU = 0.01


def add_arguments(parser) -> None:
    parser.add_argument("--config", required=True, help=f"{configs.HELP}; without a part: all")
    parser.add_argument("--chips", "--topology", required=True, dest="chips", help=TOPOLOGY)
    parser.add_argument(
        "--mfu",
        type=float,
        default=MFU,
        help=f"share of the chips' peak that the model's arithmetic reaches ({MFU})",
    )
    parser.add_argument("--clips", type=int, help="clips that you have: says epochs and disk")
    parser.add_argument("--images", type=int, help="images that you have: says epochs and disk")
    parser.add_argument(
        "--no-compile", action="store_true", help="count only; do not ask the chips' compiler"
    )
    add_set_argument(parser, "mesh.fsdp=8")
    parser.add_argument(
        "--workdir",
        type=Path,
        help="folder of a run, or of its part (RUN/PART) if --config names one; its files say what "
        "the config leaves open",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def run(args) -> None:
    if not _LEAST_MFU <= args.mfu <= 1:
        raise UserError(f"--mfu is {args.mfu}; {_LEAST_MFU} to 1 is accepted, such as {MFU}")
    for name in ("clips", "images"):
        if (count := getattr(args, name)) is not None and count < 1:
            raise UserError(f"--{name} is {count}; 1 or more is accepted")
    if args.chips.startswith("cpu"):
        raise UserError(f"--chips {args.chips}: the peak of a CPU is not known; name TPUs or GPUs")
    prepare_environment(args.chips)
    found = make_plan(args)
    print(table(found))
    if args.json:
        print(json.dumps(found))


def make_plan(args) -> dict:
    """Returns the plan as plain values.

    Raises:
      UserError: there is no such config or part, no part of it is trained, or a setting is bad.
    """
    from gen1_jax.aot.plan import cache_folder, has_compiler, plan_part
    from gen1_jax.aot.target import describe_target
    from gen1_jax.resolve import describe_models, resolve_planned
    from gen1_jax.training_checks import check_settings
    from gen1_jax.weights.importing import RECORD

    compiles = not args.no_compile and has_compiler(args.chips)
    load = partial(configs.load_other_part, args.config)
    stages, parts = [], []
    for name, config in trained_parts(args).items():
        workdir = args.workdir
        if workdir and ":" not in args.config:
            workdir = workdir / name
        if workdir and (workdir / RECORD).exists():  # an imported model is not trained
            continue
        config = resolve_planned(check_settings(config), load, workdir)
        models = describe_models(config.frozen, load, workdir)
        stages.append(config)
        parts.append(
            plan_part(
                config,
                models,
                args.chips,
                mfu=args.mfu,
                compiles=compiles,
                cache=cache_folder(),
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        )
    if not stages:
        raise UserError(f"--config {args.config}: the model in {workdir} is imported, not trained")
    target = describe_target(args.chips, stages[0].mesh.to_dict())
    hours, bound = (sum(getattr(part, name) for part in parts) for name in ("hours", "bound_hours"))
    return {
        "config": args.config,
        "chips": args.chips,
        "number_of_chips": target.mesh.size,
        "memory_of_a_chip": int(target.chip.memory),
        "figures": figures(args, compiles),
        "mfu": args.mfu,
        "parts": [
            {**dataclasses.asdict(part), "fits": part.fits, "clips": part.examples("clips"),
             "images": part.examples("images")}
            for part in parts
        ],
        "hours": hours,
        "chip_hours": hours * target.mesh.size,
        "least_chip_hours": bound * target.mesh.size,
        "data": data(args, stages, parts),
        "checkpoints_bytes": sum(part.disk_bytes for part in parts),
    }  # fmt: skip


def trained_parts(args) -> dict:
    """Returns the configs of the part that --config names, or of all parts that are trained."""
    config = configs.load_config(args.config)
    name = args.config.partition(":")[0]
    parts = config.parts if config.kind == "all" else [args.config.partition(":")[2]]
    found = {}
    for part in parts:
        spec = f"{name}:{part}"
        if configs.load_config(spec).kind == "train":
            found[part] = configs.load_config(spec, args.set)
    if not found:
        raise UserError(
            f"--config {args.config}: this part is not trained; name one that is, such as "
            "paper:blur, or a config as a whole, such as paper"
        )
    return found


def figures(args, compiles: bool) -> str:
    """Says where the figures come from."""
    from gen1_jax.aot.gpu import GPUS, MEMORY_NOTE

    kind = args.chips.partition(":")[0]
    if compiles:
        note = f"; {MEMORY_NOTE}" if kind in GPUS else ""
        return f"memory and least time by the compiler for {kind}{note}"
    why = "as asked" if args.no_compile else f"no compiler for {kind} is installed"
    return f"counted, not compiled ({why}): activations, which also take memory, are left out"


def data(args, stages: list, parts: list) -> dict:
    """Returns what a config reads, and what its clips and images take on disk."""
    found = {}
    for kind, have in (("clips", args.clips), ("images", args.images)):
        read = sum(part.examples(kind) for part in parts)
        if not read:
            continue
        found[kind] = {"read": read, "have": have, "epochs": read / have if have else None}
        encoded = next((c for c in stages if c.data.get("form") == "encoded"), None)
        if encoded is not None:
            found[kind] |= example_bytes(args.config, encoded, kind)
    return found


def example_bytes(spec: str, config, kind: str) -> dict[str, float]:
    """Returns the bytes of an ingested example, and of an encoded one."""
    from gen1_jax.data_pipelines.encoded.records import Layout

    try:
        encoding = configs.load_other_part(spec, "encoded")
        length = configs.load_other_part(spec, "tokenizer").get("context_length") or _CAPTION
    except UserError:  # a config of one's own need not encode its data itself
        return {}
    images = kind == "images"
    frames = 1 if images else config.data.num_frames
    buckets = (images and config.data.image_buckets) or config.data.buckets
    height, width = max(buckets, key=math.prod)
    levels, model = encoding.levels_per_clip, config.model
    # The UNet reads image embeddings by cross-attention; the prior makes them.
    width_of_content = model.get("cross_attention_dim") or model.get("embedding_dim")
    shapes = (
        ("latents", (frames, height, width, 4)),
        ("latents_logvar", (frames, height, width, 4)),
        ("structure", (levels, frames, height, width, 4)),
        ("levels", (levels,)),
        ("content", (frames, width_of_content)),
        *((("tokens", (length,)),) if encoding.tokenizer else ()),
    )
    pixels = frames * height * width * 64  # 8 pixels to a latent, along each side
    return {
        "ingested_bytes": _IMAGE_BYTES if images else _CLIP_BYTES_PER_PIXEL * pixels,
        "encoded_bytes": Layout(shapes, encoding.precision).size,
    }


# ---- the screen


def table(found: dict) -> str:
    """Returns a plan as lines of text."""
    count, room = found["number_of_chips"], found["memory_of_a_chip"]
    rows = [
        ("part", "steps", "batch", "memory of a chip", "fits", "at least", f"at {found['mfu']:.0%}")
    ]
    for part in found["parts"]:
        rows += [row(part, step, room) for step in part["steps"]]
    total = f"{_hours(found['least_chip_hours'] / count)}", _hours(found["hours"])
    rows.append(("all", f"{sum(p['num_steps'] for p in found['parts']):,}", "", "", "", *total))
    widths = [max(len(each[i]) for each in rows) for i in range(len(rows[0]))]
    lines = [f"{found['config']} on {found['chips']} ({count} chip{'s' * (count > 1)})", ""]
    lines += [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows
    ]
    lines += [
        "",
        f"chip-hours   {found['chip_hours']:,.0f} where the model's arithmetic reaches "
        f"{found['mfu']:.0%} of the chips' peak (--mfu); {found['least_chip_hours']:,.0f} at least",
        *data_lines(found["data"]),
        f"checkpoints  {_bytes(found['checkpoints_bytes'])}, models included",
        f"figures      {found['figures']}",
    ]
    return "\n".join(lines)


def row(part: dict, step: dict, room: int) -> tuple[str, ...]:
    """Returns the cells of one kind of a part's steps."""
    used = "unknown" if step["memory"] is None else f"{step['memory'] / 2**30:.1f}"
    more = "" if part["compiled"] else " + activations"
    text = f"{used}{more} of {room / 2**30:.1f} GiB"
    fits = {True: "yes", False: "no", None: "not known"}[step["fits"]]
    steps = part["num_steps"] * step["share"]
    return (
        part["name"], f"{steps:,.0f}", f"{step['size']:,} {step['kind']}", text, fits,
        _hours(steps * step["bound_seconds"] / 3600), _hours(steps * step["seconds"] / 3600),
    )  # fmt: skip


def data_lines(data: dict) -> list[str]:
    lines = []
    for kind, each in data.items():
        text = f"{kind:<12} {each['read']:,.0f} are read"
        if each["have"]:
            text += f": {each['epochs']:,.1f} times each of {each['have']:,}"
        if "encoded_bytes" in each:
            have = each["have"] or 1_000_000
            sizes = (f"{_bytes(have * each[f'{k}_bytes'])} {k}" for k in ("ingested", "encoded"))
            text += f"; on disk {have:,} take {' and '.join(sizes)}"
        lines.append(text)
    return lines


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours / 24:,.1f} days"


def _bytes(count: float) -> str:
    return f"{count / 1e12:.2f} TB" if count >= 1e12 else f"{count / 1e9:.1f} GB"
