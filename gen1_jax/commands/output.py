"""The check that an output folder is free, for commands that have `--output` and `--overwrite`."""

from pathlib import Path

from gen1_jax.errors import UserError


def check_new(folder: Path, overwrite: bool) -> None:
    """Raises UserError if there is a file or a filled folder and it may not be replaced."""
    file = next((place for place in folder.parents if place.is_file()), None)
    if file:
        raise UserError(f"--output {folder} cannot be made: {file} is a file; give a folder")
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists; add --overwrite to replace it, or give another --output")
