"""The content of an edit: of one prompt or picture, of several together, or changing over time.

A content is a direction of length √d, so a mixture is brought back to that length.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen1_jax.errors import UserError
from gen1_jax.settings import show

BLENDS = ("slerp", "mean")
TRANSITION = 0.5  # seconds from one prompt to the next
_TIMED = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)s:\s*(.*)", re.DOTALL)


def blend(contents: np.ndarray, weights: Sequence[float], how: str = "slerp") -> np.ndarray:
    """Returns a mixture of contents.

    Args:
      contents: [m d].
      weights: how much each counts, [m], none negative.
      how: "mean" adds them up; "slerp" goes along the arcs between them, one after another.

    Returns:
      [d], of length √d.

    Raises:
      UserError: the weights do not fit, or `how` is no way.
    """
    contents, weights = np.asarray(contents, np.float64), np.asarray(weights, np.float64)
    if how not in BLENDS:
        raise UserError(f"blend {show(how)}; {' and '.join(BLENDS)} are accepted")
    if weights.shape != (len(contents),) or not np.isfinite(weights).all():
        raise UserError(
            f"{weights.size} weights for {len(contents)} pictures; one number for each is accepted"
        )
    if (weights < 0).any() or not weights.sum():
        raise UserError(f"weights {show(weights.tolist())}; 0 or more is accepted, and not all 0")
    if how == "mean":
        return to_length(np.tensordot(weights / weights.sum(), contents, 1))
    mixed, total = contents[0], weights[0]
    for content, weight in zip(contents[1:], weights[1:], strict=True):
        total += weight
        mixed = slerp(mixed, content, weight / total if total else 0.0)
    return to_length(mixed)


def slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Returns the content at a share, 0 to 1, of the arc from `a` to `b`, [d]."""
    a, b = to_length(a), to_length(b)
    cosine = np.clip(a @ b / len(a), -1, 1)
    angle = np.arccos(cosine)
    if angle < 1e-4 or angle > np.pi - 1e-4:  # one direction, or no arc is the shortest
        return to_length((1 - share) * a + share * b)
    return to_length((np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle))


def to_length(content: np.ndarray) -> np.ndarray:
    """Returns a content [... d] in the length √d."""
    norm = np.linalg.norm(content, axis=-1, keepdims=True)
    return content / np.maximum(norm, 1e-6) * content.shape[-1] ** 0.5


# ---- over time


def read_prompts(prompts: Any) -> dict[float, str]:
    """Returns prompts by the time, in seconds, from which they count.

    Args:
      prompts: one text; a list of texts such as "2s: a blue ball"; or a mapping of times to texts.

    Raises:
      UserError: a prompt has no time though there are several, or times do not rise.
    """
    if isinstance(prompts, str):
        timed = _TIMED.fullmatch(prompts)
        return {float(timed[1]): timed[2]} if timed else {0.0: prompts}
    if isinstance(prompts, Mapping):
        pairs = list(prompts.items())
    elif isinstance(prompts, list | tuple) and all(isinstance(x, str) for x in prompts):
        found = [_TIMED.fullmatch(each) for each in prompts]
        if len(prompts) > 1 and not all(found):
            untimed = prompts[found.index(None)]
            raise UserError(
                f"the prompt {show(untimed)} says no time; with several prompts each begins with "
                'one, such as "2s: a blue ball"'
            )
        pairs = [
            (float(match[1]), match[2]) if match else (0.0, text)
            for match, text in zip(found, prompts, strict=True)
        ]
    else:
        raise UserError(
            f"the prompt is {show(prompts)} ({type(prompts).__name__}); a text is accepted"
        )
    times = [time for time, _ in pairs]
    wrong = [t for t in times if not isinstance(t, int | float) or not 0 <= t < float("inf")]
    if wrong or not pairs:
        raise UserError(f"prompts at {show(wrong)}; times in seconds, 0 or more, are accepted")
    for before, after in zip(times, times[1:], strict=False):
        if after <= before:
            raise UserError(f"a prompt at {after:g}s after one at {before:g}s; times rise")
    return {float(time): text for time, text in pairs}


def over_time(
    contents: Mapping[float, np.ndarray], times: np.ndarray, transition: float = TRANSITION
) -> np.ndarray:
    """Returns the content of each frame, [n d].

    A content holds until the next one's time, from which on it goes over to that one along the arc
    between them. The first holds from the beginning.

    Args:
      contents: [d] each, by the time in seconds from which it counts; times rise.
      times: of the frames, [n], in seconds.
      transition: how long it takes to go over, in seconds.
    """
    starts, found = list(contents), [np.asarray(each, np.float64) for each in contents.values()]
    rows = []
    for time in times:
        current = found[0]
        for start, content in zip(starts[1:], found[1:], strict=True):
            if time >= start:
                share = 1.0 if transition <= 0 else min(1.0, (time - start) / transition)
                current = slerp(current, content, share)
        rows.append(current)
    return np.stack(rows)


def of_windows(contents: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Returns the content of windows, [k d]: the mean of that of their frames.

    Args:
      contents: [d] for all frames, or [n d].
      frames: indices of the windows' frames, [k m].
    """
    contents = np.asarray(contents)
    if contents.ndim == 1:
        return np.broadcast_to(contents, (len(frames), len(contents)))
    if (contents == contents[0]).all():  # no mean of equals, which would round
        return np.broadcast_to(contents[0], (len(frames), contents.shape[1]))
    return to_length(contents[frames].mean(axis=1))
