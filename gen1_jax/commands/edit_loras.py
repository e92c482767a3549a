"""The flag `--lora` of `gen1 edit`: LoRA files that are merged into the UNet at loading."""

import argparse
import math
from pathlib import Path

from gen1_jax.commands.edit_like import Several
from gen1_jax.errors import UserError


def add_lora_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        action=Several,
        default=[],
        metavar="PATH[:SCALE]",
        help="a LoRA of the UNet, such as NEW/lora of `gen1 customize --rank`, and how much of it "
        "counts (1); may be given several times, they add up",
    )


def loras_of(args) -> list[tuple[Path, float]]:
    """Returns path and scale of each LoRA.

    Raises:
      UserError: a scale is no number, or there is no such file or folder.
    """
    return [_parse(text) for text in args.lora]


def _parse(text: str) -> tuple[Path, float]:
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        path, scale = text, "1"
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not path or not math.isfinite(value):
        raise UserError(f"--lora {text}: PATH or PATH:SCALE is accepted, such as NEW/lora:0.8")
    if not Path(path).exists():
        raise UserError(f"--lora {path}: no such file or folder")
    return Path(path), value
