"""Structure maps that the world knows of its clips: what an extractor would at best find."""

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.structure_settings import TRUTH

_JUMP = 0.03  # of inverse depth, from one pixel to the next; surfaces themselves rise by less


def draw_truth(extractor: str, depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the truth as a structure map `[n h w]` float32.

    Args:
      extractor: truth:depth, truth:edges or truth:masks.
      depth: true inverse depth `[n h w]`.
      mask: the object, `[n h w]` bool.

    Raises:
      UserError: there is no such truth.
    """
    draw = {"depth": lambda: depth, "edges": lambda: outlines(depth, mask), "masks": lambda: mask}
    name = extractor.removeprefix(TRUTH)
    if name not in draw:
        raise UserError(
            f"unknown truth {extractor}; accepted: {', '.join(TRUTH + x for x in draw)}"
        )
    return draw[name]().astype(np.float32)


def outlines(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the outlines of things `[n h w]` bool: where depth jumps, or the mask ends.

    A line is one pixel wide, on the side of what is nearer.
    """
    found = np.zeros(mask.shape, bool)
    for axis in (1, 2):
        for step in (1, -1):
            beside = np.roll(depth, step, axis)
            jump = depth - beside > _JUMP
            jump |= mask & ~np.roll(mask, step, axis) & (depth >= beside)
            edge = [slice(None)] * 3
            edge[axis] = 0 if step == 1 else -1  # what was rolled in comes from the other side
            jump[tuple(edge)] = False
            found |= jump
    return found
