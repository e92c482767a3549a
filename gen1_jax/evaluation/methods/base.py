"""What a method of editing is to an evaluation."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.items import Item

Setting = Mapping[str, Any]  # control → value


class Method(Protocol):
    """A way to edit clips. All methods share clips, prompts, seeds, autoencoder and measures.

    Attributes:
      name: in records and on the command line.
      controls: those of `records.CONTROLS` that it takes.
    """

    name: str
    controls: tuple[str, ...]

    def identity(self, item: Item) -> dict[str, str]:
        """Returns what the method's edits of a clip depend on, beside what all methods share.

        It is a part of the record's key, such as `{"rival": DIGEST}` for a model of its own.
        """

    def edit(self, clips: Clips, setting: Setting, num_steps: int) -> np.ndarray:
        """Returns the edits of all clips at a setting, `[b n H W 3]` uint8."""
