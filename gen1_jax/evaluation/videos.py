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
      most_bytes: of all videos that this process writes, in bytes. Edits beyond have no video.

    Attributes:
      left_out: number of edits that have no video, because `most_bytes` was reached.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, object],
        identity: Callable[[str, Item], Mapping[str, str]] = lambda method, item: {},
        most_bytes: float = float("inf"),
    ):
        self._root, self._run, self._identity = folder, run, identity
        self._left, self.left_out = most_bytes, 0

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
        return self._left > 0 and not self.path(item, setting).exists()

    def write(self, item: Item, setting: Mapping[str, object], frames: np.ndarray) -> dict:
        """Writes the video of an edit if there is room; returns its place, for the record."""
        if self._left <= 0:
            self.left_out += 1
            return {}
        source, path = self._place(item) / "source.mp4", self.path(item, setting)
        if not source.exists():
            write_video(source, item.frames, item.fps)
            self._left -= source.stat().st_size
        write_video(path, frames, item.fps, overwrite=True)
        self._left -= path.stat().st_size
        return {"output": path.relative_to(self._root).as_posix()}

    def _place(self, item: Item) -> Path:
        words = re.sub(r"[^\w-]+", "-", f"{item.clip[-32:]}_{item.prompt[:_LONGEST]}").strip("-_")
        depends = json.dumps(key_of(item, self._run), sort_keys=True)
        return self._root / FOLDER / f"{words}_{zlib.crc32(depends.encode()):08x}"
