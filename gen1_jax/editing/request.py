"""Makes what a caller wants into what the programs take: frames, windows, content, structure."""

import dataclasses
import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gen1_jax.diffusion.windows import Windows, place_windows
from gen1_jax.distributed import FRAMES
from gen1_jax.editing.embedding import make_content
from gen1_jax.editing.events import Stages
from gen1_jax.editing.redo import make_redo
from gen1_jax.editing.structure import find_wish
from gen1_jax.editing.wanted import Wanted
from gen1_jax.editing.whole import Request
from gen1_jax.errors import UserError
from gen1_jax.video.footage import Footage
from gen1_jax.video.inputs import to_frames
from gen1_jax.video.io import as_count
from gen1_jax.video.masks import to_mask

if TYPE_CHECKING:
    from gen1_jax.editing.editor import VideoEditor


def make_request(
    editor: "VideoEditor", frames: Any, wanted: Wanted, variations: int, stages: Stages
) -> Request:
    """Returns what the programs take.

    Args:
      editor: the models.
      frames: see `VideoEditor.edit`.
      wanted: what is wanted, checked.
      variations: edits with different seeds, from the wanted one on.
      stages: hears how far it is.

    Raises:
      UserError: the frames, a picture, a map or a window are not accepted.
    """
    footage = to_footage(editor, frames)
    windows = place(editor, footage, wanted)
    wish = find_wish(editor, footage, wanted)
    mask = None
    if wanted.mask is not None:
        feather = (
            editor.conditioner.vae.spatial_factor if wanted.feather is None else wanted.feather
        )
        mask = to_mask(wanted.mask, footage, bool(wanted.invert_mask), float(feather))
    seeds = seeds_from(wanted.seed, variations)
    with stages("prior", 1):
        drawn = seeds if wanted.content_seed is None else (int(wanted.content_seed),) * variations
        content = make_content(editor, wanted, footage, drawn)
        null = None
        if wanted.negative_prompt is not None:
            null = np.asarray(editor.text_content([wanted.negative_prompt] * variations, drawn))
    controls = wanted.controls
    if controls.guidance_scale is None:
        guidance = editor.settings["guidance_scale"]
        controls = dataclasses.replace(controls, guidance_scale=guidance)
    return Request(
        footage,
        windows,
        content,
        controls,
        wish,
        null,
        mask,
        None if wanted.redo is None else make_redo(wanted.redo, wanted.earlier, footage),
        seeds,
        float(wanted.strength),
        wanted.batch_size,
    )


def seeds_from(seed: int, variations: int) -> tuple[int, ...]:
    """Returns the seeds of variations: each is the edit that its seed alone gives.

    Raises:
      UserError: there is no such number of variations, or they lead past the last seed.
    """
    as_count("variations", variations, 1)
    if seed + variations > 2**32:
        raise UserError(f"{variations} variations from seed {seed} on; seeds end at {2**32 - 1}")
    return tuple(range(int(seed), int(seed) + variations))


def to_footage(editor: "VideoEditor", frames: Any) -> Footage:
    """Returns what a caller gave as frames to edit.

    Raises:
      UserError: it is none, or its size is no multiple of a latent's.
    """
    if isinstance(frames, str | os.PathLike):
        frames = editor.open(frames)
        if said := frames.taken.describe(size_is_models=True, keeps_sound=True):
            warnings.warn(
                f"{frames.path}: {said}; editor.open(path, start=, num_frames=, stride=, size=, "
                "fit=) takes others",
                stacklevel=4,
            )
    footage = frames if isinstance(frames, Footage) else to_frames(frames)
    height, width = footage.size
    factor = editor.conditioner.vae.spatial_factor
    if height % factor or width % factor:
        raise UserError(f"frames of {height} x {width}: sides must be multiples of {factor}")
    return footage


def place(editor: "VideoEditor", footage: Footage, wanted: Wanted) -> Windows:
    """Returns the windows over the frames; what is None is as in training.

    Raises:
      UserError: a window is longer than the model takes, or does not divide over the devices; an
        overlap is not below the window.
    """
    trained, most = editor.trained, editor.unet.max_frames
    window = trained.num_frames if wanted.window is None else as_count("window", wanted.window, 1)
    if window > most:
        raise UserError(f"a window of {window} frames; this model takes at most {most} at a time")
    length, each = min(window, len(footage)), editor.mesh.shape[FRAMES]
    if length % each:
        raise UserError(f"windows of {length} frames do not divide over {each} devices")
    # A section that is made anew is short, and sees more of what it must join.
    overlap = window // (4 if wanted.redo is None else 2)
    if wanted.overlap is not None:
        overlap = as_count("overlap", wanted.overlap, 0)
    if overlap >= window:
        raise UserError(f"overlap {overlap}; 0 to {window - 1} are accepted, below the window")
    stride = 1 if wanted.window_stride is None else wanted.window_stride
    stride = as_count("window stride", stride, 1)
    if wanted.batch_size is not None:
        as_count("batch size", wanted.batch_size, 1)
    if wanted.per_frame:  # windows are but batches then
        overlap, stride = 0, 1
    return place_windows(len(footage), window, overlap, stride)
