"""The results of any other system, read from a folder."""

import hashlib
import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gen1_jax.errors import UserError
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.names import OUTPUTS
from gen1_jax.video.io import read_video

_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".gif", ".webp", "")  # "": a folder of frames
_WIDEST = 1.02  # ratio of two shapes that count as one


class Outputs:
    """A folder with a video, or a folder of frames, for each clip.

    A clip's file has the clip's name in the records, with a hyphen for all but letters, digits, dot
    and underscore: `films/wolf.mp4#a1b2` is `films-wolf.mp4-a1b2.mp4`, or a folder of that name.

    Args:
      name: of the system.
      folder: holds its results.
    """

    controls = ()

    def __init__(self, name: str, folder: Path):
        self.name, self._folder = f"{OUTPUTS}{name}", folder
        self._digests: dict[Path, str] = {}
        self._clips: dict[Path, str] = {}
        if not folder.is_dir():
            raise UserError(f"--outputs {name}={folder}: no such folder")

    def identity(self, item: Item) -> dict[str, str]:
        path = self.find(item)
        if self._clips.setdefault(path, item.clip) != item.clip:
            raise UserError(
                f"{path} would be the result of two clips, {self._clips[path]} and {item.clip}; "
                "give the clips names that differ in more than punctuation"
            )
        if path not in self._digests:
            self._digests[path] = _digest(path)
        return {"rival": self._digests[path]}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        return np.stack([self.read(item) for item in clips.items])

    def find(self, item: Item) -> Path:
        """Returns the file or folder of a clip.

        Raises:
          UserError: there is none.
        """
        name = re.sub(r"[^\w.]+", "-", item.clip).strip("-")
        paths = [self._folder / f"{name}{suffix}" for suffix in _SUFFIXES]
        found = next((path for path in paths if path.exists()), None)
        if found is None:
            raise UserError(
                f"{self._folder} has no result of the clip {item.clip}; {name}.mp4 is accepted, "
                f"or a folder {name} of frames"
            )
        return found

    def read(self, item: Item) -> np.ndarray:
        """Returns the result of a clip, scaled to the clip's size, `[n H W 3]` uint8.

        Raises:
          UserError: frames are missing or too many, or have another shape.
        """
        path, (n, height, width, _) = self.find(item), item.frames.shape
        video = read_video(path)
        if len(video.frames) != n:
            raise UserError(f"{path} has {len(video.frames)} frames; the clip has {n}")
        ratio = video.frames.shape[1] * width / (video.frames.shape[2] * height)
        if not 1 / _WIDEST <= ratio <= _WIDEST:
            size = f"{video.frames.shape[1]}x{video.frames.shape[2]}"
            raise UserError(f"{path} is {size}; the clip is {height}x{width}, of another shape")
        if video.frames.shape[1:3] == (height, width):
            return video.frames
        size = f"{video.frames.shape[1]}x{video.frames.shape[2]}"
        tqdm.write(f"{path} is {size}; it is scaled to the clip's {height}x{width}")
        return read_video(path, size=(height, width)).frames


def _digest(path: Path) -> str:
    """Returns sixteen letters that tell a file, or the files of a folder, apart from others."""
    digest = hashlib.sha256()
    try:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.name}\0".encode() + file.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]
