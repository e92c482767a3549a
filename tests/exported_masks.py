"""Checks of masks in an exported pipeline: their forms, what stays, and what is refused."""

from functools import partial

import diffusers
import numpy as np
import torch
from exported_alone import GIVEN, edit, refused
from PIL import Image


def masks(pipe):
    """Outside, pixels are the source's and latents end as its own, with any scheduler."""
    frames = GIVEN["frames"]
    mask = np.zeros((16, 24), bool)
    mask[4:10, 8:16] = True
    hard = partial(edit, pipe, feather=0)
    want = hard(mask=mask).frames[0]
    assert np.array_equal(want[:, ~mask], frames[:, ~mask])
    assert (want[:, mask] != frames[:, mask]).mean() > 0.9
    other = hard(mask=~mask, invert_mask=True).frames[0]
    assert np.array_equal(other, want)
    whole, picture = mask[None].repeat(4, 0), Image.fromarray(mask)
    for form in (
        whole, whole[None], whole.astype(np.float32), mask * np.uint8(255), mask.astype(int),
        torch.from_numpy(whole), list(whole), picture, [picture] * 4, [picture.convert("RGB")],
        mask.repeat(2, 0).repeat(2, 1),
    ):  # fmt: skip
        assert np.array_equal(hard(mask=form).frames[0], want)
    soft = edit(pipe, mask=mask).frames[0]  # two pixels, the side of a latent
    around = np.zeros_like(mask)
    around[2:12, 6:18] = True
    assert np.array_equal(soft[:, ~around], frames[:, ~around])
    assert (soft[:, around & ~mask] != frames[:, around & ~mask]).any()
    both = hard([frames, frames[::-1]], mask=np.stack([whole, ~whole])).frames
    assert np.array_equal(both[0][:, ~mask], frames[:, ~mask])
    assert np.array_equal(both[1][:, mask], frames[::-1][:, mask])

    latents = pipe.encode(torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1)
    outside = torch.from_numpy(~mask.reshape(8, 2, 12, 2).any((1, 3)))
    ddim = pipe.scheduler
    try:
        for name in ("DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"):
            pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(ddim.config)
            made = hard(mask=mask, output_type="latent").frames[0]
            assert torch.equal(made[..., outside], latents[..., outside]), name
            assert made.isfinite().all()
    finally:
        pipe.scheduler = ddim

    # The left half of a portrait, which is cropped, or padded at its sides.
    portrait, left = GIVEN["portrait"], np.zeros((40, 28), bool)
    left[:, :14] = True
    made = edit(pipe, portrait, mask=left, feather=0).frames[0]
    assert np.array_equal(made[:, :, 12:], GIVEN["fitted"][:, :, 12:])
    made = edit(pipe, portrait, mask=left, feather=0, video_fit="pad").frames[0]
    assert np.array_equal(made[:, :, 6:], GIVEN["padded"][:, :, 12:17])

    for value, words in (
        (3, "mask of int64"),
        ("a", "mask of "),
        ([mask, mask[:2]], "mask of list"),
        (np.zeros((3, 16, 24)), "mask of [1, 3] frames; [1 4]"),
        (np.full((16, 24), np.nan), "0 to 1"),
        (np.full((16, 24), 300), "0 to 255"),
        (np.zeros((16, 24)), "edits nothing"),
        (np.ones((16, 16)), "mask of 16 x 16; the shape of 16 x 24"),
    ):
        refused(partial(edit, pipe, mask=value), words)
    refused(partial(edit, pipe, mask=mask, feather=-1), "feather -1", "0 pixels or more")
