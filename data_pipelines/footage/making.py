"""Makes the records of one film or image, with their prints. Decoders of foreign data run here.

`child` calls this module in a process of its own, in which a decoder may crash or hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen1_jax.data_pipelines.footage import records
from gen1_jax.data_pipelines.footage.clips import ClipSettings, read_clips
from gen1_jax.data_pipelines.footage.images import ImageSettings, store_image
from gen1_jax.data_pipelines.footage.outcomes import Outcome
from gen1_jax.data_pipelines.footage.prints import hash_clip, hash_image


class Made(NamedTuple):
    """A record.

    Attributes:
      record: its fields, as `records` names them.
      prints: its prints, of `prints.ROW`.
      bucket: (height, width) of an image; None of a clip.
    """

    record: dict[str, Any]
    prints: np.ndarray
    bucket: tuple[int, int] | None = None


def make_clips(
    path: Path,
    settings: ClipSettings,
    caption: str,
    outcome: Outcome,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[Made]:
    """Yields the clips of a film.

    Args:
      path: the film, or folder of pictures.
      settings: settings of clips.
      caption: the film's caption.
      outcome: the input's outcome, in which all that is dropped is noted.
      watch: is called for every picture that was decoded; it may raise to end the film.

    Raises:
      Unreadable: the file is no video.
    """
    for clip in read_clips(path, settings, outcome, watch):
        stored = records.encode_clip(
            clip.frames, clip.times, caption, outcome.path, clip.start, crf=settings.crf
        )
        # Decoding every record once proves that it is whole.
        yield Made(stored, hash_clip(records.decode_clip(stored)["frames"]))


def make_image(data: bytes, settings: ImageSettings, caption: str, name: str) -> Made:
    """Returns the record of an encoded image.

    Raises:
      Unreadable: the data are no image, or one that is not wanted.
    """
    stored, bucket, pixels = store_image(data, caption, name, settings)
    records.decode_image(stored)
    return Made(stored, hash_image(pixels), bucket)
