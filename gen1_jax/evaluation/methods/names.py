"""The names of the methods, which the command line shows without loading what they are made of."""

from collections.abc import Iterable
from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.settings import closest

# Method → what it does.
NAMES = {
    "gen1": "the pipeline",
    "gen1-per-frame": "the pipeline with its temporal layers off",
    "depth-per-frame": "an image model with depth, frame by frame",
    "sdedit-per-frame": "SDEdit by an image model, frame by frame, each with its own noise",
    "sdedit-per-frame-fixed": "the same, with one noise for all frames",
    "sdedit-video": "SDEdit by the video model without structure",
    "propagate-first-frame": "the first frame is edited, and carried on by optical flow",
    "warp-and-renoise": "each output is moved by optical flow, noised, and denoised",
}
OUTPUTS = "outputs:"  # begins the name of a method that is read from a folder
# The model that a method needs beside the pipeline → the stage whose model it is by default.
MODELS = {
    "depth-per-frame": "depth",
    "sdedit-per-frame": "image",
    "sdedit-per-frame-fixed": "image",
    "sdedit-video": "video",
    "warp-and-renoise": "image",
}


def check_methods(names: Iterable[str]) -> None:
    """Raises UserError if a name is none of a method."""
    for name in names:
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise UserError(f"no method {name!r}{closest(name, NAMES)}; accepted: {known}")


def is_pipeline(folder: Path) -> bool:
    """Returns whether a folder is a whole pipeline of diffusers, not one model."""
    if (folder / "config.json").exists():
        return False
    return any((folder / name).exists() for name in ("model_index.json", "unet/config.json"))
