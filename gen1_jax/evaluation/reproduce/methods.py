"""Ways to edit that only the comparison with the paper asks for."""

from functools import lru_cache

import jax
import numpy as np

from gen1_jax.conditioning import to_content
from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.methods.base import Setting
from gen1_jax.evaluation.methods.gen1 import Gen1


class Unedited:
    """The clips themselves: what the measures give where nothing is edited."""

    name = "unedited"
    controls = ()

    def identity(self, item: Item) -> dict[str, str]:
        return {}

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        return clips.frames


class FedText(Gen1):
    """The pipeline without its prior: the text embedding stands in for that of an image."""

    name = "gen1-fed-text"

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        tokens = clips.editor.tokenizer.encode([item.prompt for item in clips.items])
        fed = Clips(clips.editor, clips.items, 0)
        fed.seeds, fed.structure_map = clips.seeds, clips.structure_map
        fed.content = _embed_text(clips.editor)(clips.editor.params, tokens)
        return super().edit(fed, setting, num_steps)


@lru_cache(maxsize=4)
def _embed_text(editor: VideoEditor):
    conditioner = editor.conditioner
    return jax.jit(lambda params, tokens: to_content(conditioner.embed_text(params, tokens)))
