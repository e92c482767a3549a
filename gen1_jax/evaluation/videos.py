"""The edits of an evaluation as videos: a folder for each clip, a file for each setting.

The folder's name ends in letters of all else that the edits depend on, such as the model and the
number of frames. So no video is taken for that of another evaluation.
"""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from gen1_jax.editing import Edit
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
      seed: seed of the noise, which is a part of each name.
      run: what all edits share, of `run_of`.
    """

    def __init__(self, folder: Path, seed: int, run: Mapping[str, object]):
        self._folder, self._seed, self._run = folder / FOLDER, seed, run

    def path(self, item: Item, setting: Mapping[str, object]) -> Path:
        """Returns the path of an edit's video."""
        controls = [f"{name.replace('_', '-')}-{setting[name]:g}" for name in CONTROLS]
        method = [] if setting["method"] == "gen1" else [str(setting["method"]).replace("_", "-")]
        return self._place(item) / f"{'_'.join([*method, *controls, f'seed-{self._seed}'])}.mp4"

    def is_missing(self, item: Item, setting: Mapping[str, object]) -> bool:
        """Returns whether an edit has no video yet."""
        return not self.path(item, setting).exists()

    def write(self, item: Item, setting: Mapping[str, object], edit: Edit) -> None:
        """Writes the video of an edit."""
        source = self._place(item) / "source.mp4"
        if not source.exists():
            write_video(source, item.frames, item.fps)
        write_video(self.path(item, setting), edit.frames, item.fps, overwrite=True)

    def _place(self, item: Item) -> Path:
        words = re.sub(r"[^\w-]+", "-", f"{item.clip}_{item.prompt[:_LONGEST]}").strip("-_")
        depends = json.dumps(key_of(item, self._run), sort_keys=True)
        return self._folder / f"{words}_{zlib.crc32(depends.encode()):08x}"
