"""The edits of an evaluation as videos: a folder for each clip, a file for each setting.

The folder's name ends in letters of all else that the edits depend on, such as the model and the
number of frames. So no video is taken for that of another evaluation. Records name their videos.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.records import CONTROLS
from gen1_jax.evaluation.sweep import key_of
from gen1_jax.video.io import write_video

FOLDER = "videos"
_LONGEST = 48  # letters of a prompt in a folder's name


class EditVideos:
    """Writes `FOLDER/videos/CLIP/SETTING.mp4` for each edit, and the clip's own frames beside them.

    Args:
      folder: folder of the evaluation.
      run: what all edits share, of `run_of`.
      identity: returns what a method's edits of a clip depend on; see `Method.identity`.
      most_bytes: of all videos in the folder, in bytes. Edits beyond have no video.
      processes: of the job, which share the room that is left.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, object],
        identity: Callable[[str, Item], Mapping[str, str]] = lambda method, item: {},
        most_bytes: float = float("inf"),
        processes: int = 1,
    ):
        self._root, self._run, self._identity = folder, run, identity
        there = sum(path.stat().st_size for path in (folder / FOLDER).glob("*/*.mp4"))
        self._left = (most_bytes - there) / processes
        self._without: set[Path] = set()

    @property
    def left_out(self) -> int:
        """Number of edits asked for that have no video, because there was no room."""
        return len(self._without)

    def name(self, item: Item, setting: Mapping[str, object]) -> str:
        """Returns the name of a setting, which no other has."""
        controls = [
            f"{name.replace('_', '-')}-{setting[name]:g}" for name in CONTROLS if name in setting
        ]
        method = [] if setting["method"] == "gen1" else [str(setting["method"])]
        if rival := self._identity(str(setting["method"]), item):
            method.append(f"{zlib.crc32(json.dumps(rival).encode()):08x}")
        return "_".join([*method, *controls, f"seed-{setting['seed']}"])

    def path(self, item: Item, setting: Mapping[str, object]) -> Path:
        """Returns the path of an edit's video."""
        return self._place(item) / f"{self.name(item, setting)}.mp4"

    def is_missing(self, item: Item, setting: Mapping[str, object]) -> bool:
        """Returns whether an edit has no video yet, and there is room for one."""
        path = self.path(item, setting)
        if path.exists():
            return False
        if self._left <= 0:
            self._without.add(path)
        return self._left > 0

    def write(self, item: Item, setting: Mapping[str, object], frames: np.ndarray) -> dict:
        """Writes the video of an edit if there is room; returns its place, for the record."""
        source, path = self._place(item) / "source.mp4", self.path(item, setting)
        if self._left <= 0:
            self._without.add(path)
            return {}
        if not source.exists():
            write_video(source, item.frames, item.fps)
            self._left -= source.stat().st_size
        before = path.stat().st_size if path.exists() else 0
        write_video(path, frames, item.fps, overwrite=True)
        self._left -= path.stat().st_size - before
        return {"output": path.relative_to(self._root).as_posix()}

    def _place(self, item: Item) -> Path:
        words = re.sub(r"[^\w-]+", "-", f"{item.clip[-32:]}_{item.prompt[:_LONGEST]}").strip("-_")
        depends = json.dumps(key_of(item, self._run), sort_keys=True)
        return self._root / FOLDER / f"{words}_{zlib.crc32(depends.encode()):08x}"
