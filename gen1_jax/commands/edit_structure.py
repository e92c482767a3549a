"""Flags that say what of the input is kept: its structure."""

from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.structure_settings import EXTRACTORS


def add_structure_arguments(parser) -> None:
    parser.add_argument(
        "--structure-level",
        type=int,
        default=0,
        metavar="T",
        help="how coarse the structure is: 0 keeps all of the depth, 7 nearly none (%(default)s)",
    )
    parser.add_argument(
        "--structure",
        "--structure-map",
        type=Path,
        metavar="PATH",
        help="keep the structure of this map, not that which the model would find in the input: "
        "inverse depth (bright is near) or any map, grey or in colours; a video, a folder of "
        "pictures (8 or 16 bits), an .npy of [n h w], or one picture for all frames",
    )
    parser.add_argument(
        "--structure-kind",
        choices=tuple(EXTRACTORS),
        metavar="KIND",
        help="what the structure shows, or what is extracted of the input: "
        f"{', '.join(EXTRACTORS)} (what the model was trained on)",
    )
    parser.add_argument(
        "--any-structure",
        action="store_true",
        help="take a kind of structure that the model was not trained on",
    )
    parser.add_argument(
        "--no-structure",
        action="store_true",
        help="keep no structure; the model must have been trained with some of it dropped",
    )
    parser.add_argument(
        "--save-structure",
        type=Path,
        metavar="PATH",
        help="also write the structure that the model saw, for --structure: an .npy (exact), a "
        "folder (PNGs, of 16 bits where it is grey), an mp4, gif or webp",
    )


def check_structure(args) -> None:
    """Raises UserError if flags contradict each other."""
    for name in ("structure", "structure_kind", "structure_level", "save_structure"):
        if args.no_structure and getattr(args, name):
            raise UserError(f"--no-structure leaves nothing for --{name.replace('_', '-')} to say")


def structure_of(args) -> dict[str, Any]:
    """Returns the keywords of `VideoEditor.edit` that say what is kept."""
    names = (
        "structure", "structure_kind", "structure_level", "any_structure", "no_structure",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names}
