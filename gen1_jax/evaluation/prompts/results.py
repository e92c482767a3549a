"""Writes edits where a benchmark's own scripts look for them, beside what the scripts read."""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.prompts.reading import Prompts
from gen1_jax.files import replacing
from gen1_jax.video.io import write_video

FOLDER = "results"
_JPEG = {"quality": 95, "subsampling": 0}


class LayoutResults:
    """Writes `FOLDER/results/SETTING/…` in the form of the prompts' layout.

    The name of a setting's folder ends in letters of what all its edits depend on, such as the
    model and the number of frames.

    Args:
      folder: folder of the evaluation.
      prompts: what was edited.
      run: what all edits depend on.
      name_of: (clip, setting) → the name of the setting.
    """

    def __init__(
        self,
        folder: Path,
        prompts: Prompts,
        run: Mapping[str, object],
        name_of: Callable[[Item, Mapping[str, object]], str],
    ):
        self._root, self._layout, self._name_of = folder / FOLDER, prompts.layout, name_of
        self._rows = {row.name: row for row in prompts.rows}
        self._run = f"{zlib.crc32(json.dumps(run, sort_keys=True, default=str).encode()):08x}"
        self._folders: set[Path] = set()

    def folder(self, item: Item, setting: Mapping[str, object]) -> Path:
        """Returns the folder of a setting's results."""
        name, method = self._name_of(item, setting), str(setting["method"])
        name = name if name.startswith(method) else f"{method}_{name}"
        return self._root / f"{name}_{self._run}"

    def is_missing(self, item: Item, setting: Mapping[str, object]) -> bool:
        """Returns whether an edit is not there yet."""
        folder = self.folder(item, setting)
        self._folders.add(folder)
        return not (folder / self._layout.target(self._rows[item.clip]).edit).exists()

    def write(self, item: Item, setting: Mapping[str, object], frames: np.ndarray) -> dict:
        """Writes an edit `[n H W 3]`, and its source and mask where the layout's scripts read them.

        Returns:
          What is added to the edit's record: nothing.

        Raises:
          WritingFailed: the disk is full, or the folder cannot be written to.
        """
        folder = self.folder(item, setting)
        self._folders.add(folder)
        target = self._layout.target(self._rows[item.clip])
        write_frames(folder / target.edit, frames, item.fps, target.picture)
        if target.source and not (folder / target.source).exists():
            write_frames(folder / target.source, item.frames, item.fps, target.picture)
        if target.mask and item.mask is not None and not (folder / target.mask).exists():
            mask = item.mask.astype(np.uint8) * 255
            write_frames(folder / target.mask, mask, item.fps, target.picture)
        return {}

    def finish(self) -> list[Path]:
        """Writes what tells the scripts which edits there are; returns the settings' folders."""
        for folder in self._folders:
            there = [
                row
                for row in self._rows.values()
                if (folder / self._layout.target(row).edit).exists()
            ]
            for name, text in self._layout.index(there).items():
                with replacing(folder / name) as part:
                    part.write_text(text, encoding="utf-8")
        return sorted(self._folders)


def write_frames(path: Path, frames: np.ndarray, fps: float, picture: str) -> None:
    """Writes frames as a folder of pictures, or as a video.

    Args:
      path: the file or folder.
      frames: `[n H W 3]` uint8, or `[n H W]` uint8 grey.
      fps: frames per second, of a video.
      picture: name of a picture by its number; empty: a video is written.
    """
    if not picture:
        write_video(path, frames, fps, overwrite=True)
        return
    if path.is_dir():
        for file in path.iterdir():
            if re.fullmatch(r"\D*\d+\.(png|jpg)", file.name):
                file.unlink()
        path.rmdir()
    with replacing(path) as part:
        part.mkdir()
        for number, frame in enumerate(frames):
            name = picture.format(number)
            options = _JPEG if name.endswith(".jpg") else {}
            Image.fromarray(frame).save(part / name, **options)
