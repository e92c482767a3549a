"""Folders of runs that share parts with another run."""

from collections.abc import Iterable
from pathlib import Path


def link_parts(run: Path, folder: Path, parts: Iterable[str]) -> None:
    """Links parts of a run into a folder, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if not (folder / part).exists():
            (folder / part).symlink_to((run / part).resolve())
