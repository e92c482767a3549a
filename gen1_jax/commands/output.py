"""The check that an output folder is free, for commands that have `--output` and `--overwrite`."""

from pathlib import Path

from gen1_jax.errors import UserError


def check_new(folder: Path, overwrite: bool) -> None:
    """Raises UserError if there is a file or a filled folder and it may not be replaced."""
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists; give another --output, or --overwrite")
