"""Flags that say which part of the picture is edited."""

from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError


def add_mask_arguments(parser) -> None:
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="PATH",
        help="edit what is white in this mask, and keep the input's pixels where it is black; a "
        "video, a folder of frames, one picture for all frames, or an .npy of [n h w]",
    )
    parser.add_argument(
        "--invert-mask",
        action="store_true",
        help="edit what is black in the mask, and keep what is white",
    )
    parser.add_argument(
        "--feather",
        type=float,
        metavar="PIXELS",
        help="width, in pixels of the edit, over which the edit fades out around the mask (the "
        "side of a latent, 8 for Stable Diffusion's)",
    )


def check_mask(args) -> None:
    """Raises UserError if a flag has a value that no video allows."""
    if args.mask is None and (args.invert_mask or args.feather is not None):
        raise UserError("--invert-mask and --feather need a --mask")
    if args.feather is not None and not 0 <= args.feather < float("inf"):
        raise UserError(f"--feather {args.feather}; a width of 0 pixels or more is accepted")


def mask_of(args) -> dict[str, Any]:
    """Returns the keywords of `VideoEditor.edit` that say what is edited."""
    return {name: getattr(args, name) for name in ("mask", "invert_mask", "feather")}
