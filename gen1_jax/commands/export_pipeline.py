"""Write a pipeline for PyTorch: a diffusers folder that needs neither jax nor this project.

    gen1 export runs/demo/pipeline -o exported

DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR, trust_remote_code=True) loads it; its
README.md says how to use it. `gen1 import --pipeline` turns it back into a pipeline of ours.
"""

import re
from pathlib import Path

from gen1_jax.errors import UserError

HELP = "write a pipeline for PyTorch (diffusers)"

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def add_arguments(parser) -> None:
    parser.add_argument(
        "pipeline", type=Path, metavar="PIPELINE", help="a pipeline folder, such as RUN/pipeline"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="number type of the written weights (%(default)s)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="take the UNet from the newest checkpoint in this folder of a trained part, not from "
        "the pipeline",
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="with --run: the weights' moving average or the weights themselves (%(default)s)",
    )
    parser.add_argument(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="size above which a model is written as several files (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(args) -> None:
    from gen1_jax.commands.output import check_new
    from gen1_jax.commands.progress import byte_bar, weight_bytes
    from gen1_jax.files import check_replaceable
    from gen1_jax.weights.exporting import export_pipeline
    from gen1_jax.weights.public import MODEL_INDEX
    from gen1_jax.workflow import read_trained

    size = parse_size(args.max_shard_size)
    if args.weights == "raw" and not args.run:
        raise UserError(
            "--weights raw needs --run: a pipeline holds the weights' moving average alone"
        )
    check_new(args.output, args.overwrite)
    check_replaceable(args.output, MODEL_INDEX)
    unet = read_trained(args.run, args.weights) if args.run else None
    with byte_bar("export", weight_bytes(args.pipeline), not args.no_progress) as bar:
        counts = export_pipeline(
            args.pipeline,
            args.output,
            dtype=args.dtype,
            max_shard_bytes=size,
            unet=unet,
            report=bar,
        )
    print(f"{sum(counts.values()):,} parameters in {', '.join(counts)}: {args.output}")


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as "5GB"."""
    match = re.fullmatch(r"(\d+)\s*([KMG]B|)", text.strip().upper())
    if not match or not int(match[1]):
        raise UserError(f"--max-shard-size {text}; accepted: a whole number and KB, MB or GB")
    return int(match[1]) * _UNITS[match[2]]
