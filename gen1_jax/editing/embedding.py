"""Embeds what a caller wants as content: prompts, pictures, or both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gen1_jax.editing.content import blend, over_time, read_prompts
from gen1_jax.editing.wanted import Wanted
from gen1_jax.errors import UserError
from gen1_jax.video.footage import Footage
from gen1_jax.video.inputs import to_example

if TYPE_CHECKING:
    from gen1_jax.editing.editor import VideoEditor


def make_content(
    editor: "VideoEditor", wanted: Wanted, footage: Footage, seeds: Sequence[int]
) -> np.ndarray:
    """Returns the content of each variation, of all frames [v d] or of each [v n d].

    Args:
      editor: the models.
      wanted: what is wanted.
      footage: the frames.
      seeds: of the prior's noise, one for each variation.

    Raises:
      UserError: a picture or a weight is not accepted, or prompts over time have no time.
    """
    picture = None if wanted.image is None else _embed_pictures(editor, wanted)
    if wanted.prompt is None:
        return np.stack([picture] * len(seeds))
    prompts = read_prompts(wanted.prompt)
    times = None if list(prompts) == [0.0] else _times(footage, max(prompts))
    shares = [1 - wanted.image_weight, wanted.image_weight]
    found = []
    for seed in seeds:
        embedded = np.asarray(editor.text_content(list(prompts.values()), seed))
        if picture is not None:
            embedded = [blend(np.stack([own, picture]), shares, wanted.blend) for own in embedded]
        if times is None:
            found.append(embedded[0])
        else:
            found.append(over_time(dict(zip(prompts, embedded, strict=True)), times))
    return np.stack(found).astype(np.float32)


def _embed_pictures(editor: "VideoEditor", wanted: Wanted) -> np.ndarray:
    """Returns the content [d] of the wanted pictures; of a video it is the mean of its frames."""
    is_list = isinstance(wanted.image, list | tuple)
    images, size = wanted.image if is_list else [wanted.image], editor.clip_size
    examples = [to_example(each, size) for each in images]
    found = []
    for frames in examples:
        embedded = [np.asarray(editor.image_content(frame[None]))[0] for frame in frames]
        # There is no mean of one, which would round.
        weights = [1] * len(embedded)
        found.append(
            embedded[0] if len(embedded) == 1 else blend(np.stack(embedded), weights, "mean")
        )
    weights = [1] * len(found) if wanted.image_shares is None else wanted.image_shares
    if len(found) == 1 and wanted.image_shares is None:
        return found[0]
    return blend(np.stack(found), weights, wanted.blend)


def _times(footage: Footage, last: float) -> np.ndarray:
    """Returns the times [n] of frames in seconds, for prompts of which the last is at `last`."""
    if footage.fps is None:
        raise UserError("prompts over time need the frames' rate: give a video, not an array")
    end = len(footage) / float(footage.fps)
    if last >= end:
        raise UserError(f"a prompt at {last:g}s; the video ends at {end:g}s")
    return np.arange(len(footage)) / float(footage.fps)
