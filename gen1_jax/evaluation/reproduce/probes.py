"""What leaks: what a linear probe reads off the structure latents, and off the content."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen1_jax.data_pipelines.moving_shapes.vocabulary import ATTRIBUTES
from gen1_jax.editing import VideoEditor
from gen1_jax.editing.structure import make_maps
from gen1_jax.evaluation.clip_judge import ClipJudge
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.world_items import attribute_labels, object_places, world_clips

LEVELS = (0, 3, 5, 7)
_PENALTIES = tuple(10.0**k for k in range(-2, 6))  # of standardised features
_AT_ONCE = 64  # clips


def fit_ridge(features: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a linear probe; its penalty is the best one for a quarter of the examples.

    Args:
      features: `[b d]`.
      targets: `[b k]`.
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-6

    def scale(x: np.ndarray) -> np.ndarray:
        return np.c_[(x - mean) / deviation, np.ones(len(x))]

    x, held = scale(features), len(features) // 4

    def solve(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
        penalties = np.full(x.shape[1], penalty)
        penalties[-1] = 0
        return np.linalg.solve(x.T @ x + np.diag(penalties), x.T @ y)

    def error(penalty: float) -> float:
        weights = solve(x[held:], targets[held:], penalty)
        return float(np.square(x[:held] @ weights - targets[:held]).mean())

    weights = solve(x, targets, min(_PENALTIES, key=error))
    return lambda other: scale(other) @ weights


def read_classes(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Returns how often a probe names the class of held-out examples, beside chance.

    Args:
      train: features `[b d]`.
      labels: of them `[b]` int.
      test: features of other examples.
      truth: their labels.

    Returns:
      `right`, of each held-out example 0 or 1; `chance`, the share of the commonest class.
    """
    count = int(max(labels.max(), truth.max())) + 1
    probe = fit_ridge(train, np.eye(count)[labels])
    right = (probe(test).argmax(1) == truth).astype(float)
    return {"right": right.tolist(), "chance": float(np.bincount(truth).max() / len(truth))}


def read_places(
    train: np.ndarray, places: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Returns the share of the places' variance that a probe explains on held-out examples.

    Returns:
      `right`, of each held-out example 1 − squared error / variance, whose mean is R²; `chance`, 0.
    """
    error = np.square(fit_ridge(train, places)(test) - truth).sum(1)
    variance = np.square(truth - places.mean(0)).sum(1).mean()
    return {"right": (1 - error / variance).tolist(), "chance": 0.0}


def find_leaks(
    editor: VideoEditor, judge: ClipJudge, world: Path, count: int
) -> list[dict[str, Any]]:
    """Fits probes on clips of the validation split, and tests them on clips of the test split.

    Args:
      editor: the pipeline.
      judge: the CLIP that measures.
      world: folder of the world.
      count: clips that probes are fitted on; a quarter as many test them.

    Returns:
      Rows: `what` is read, `off` what, the `level` t_s, `right` and `chance`. Beside what should
      not be read stand what should be. The structure of the true depth tells what the depth network
      leaks; what the measuring CLIP does not show, prompt consistency cannot see.
    """
    sides = [
        world_clips(world, None, split, n)
        for split, n in (("validation", count), ("test", count // 4))
    ]
    middles = [[_middle(item) for item in side] for side in sides]
    contents = [_in_parts(editor.image_content, _frames(side)[:, 0]) for side in middles]
    judged = [_in_parts(judge.embed, _frames(side))[:, 0] for side in middles]
    places = [object_places(side)[:, side[0].frames.shape[0] // 2] for side in sides]

    def labels(name: str) -> list[np.ndarray]:
        return [attribute_labels(side, name) for side in sides]

    rows = []

    def add(what: str, off: str, features: Sequence[np.ndarray], level: int | None = None) -> None:
        read, wanted = (read_places, places) if what == "place" else (read_classes, labels(what))
        found = read(features[0], wanted[0], features[1], wanted[1])
        rows.append({"what": what, "off": off, "level": level, **found})

    true = [np.stack([depth for _, depth in side]).astype(np.float32) for side in middles]
    estimated = [_in_parts(partial(_estimate, editor), _frames(side)) for side in middles]
    encode = jax.jit(editor.conditioner.encode_structure)

    def features(depths: Sequence[np.ndarray], level: int) -> list[np.ndarray]:
        def latents(depth: np.ndarray) -> np.ndarray:
            found = encode(editor.params, depth, np.full(len(depth), level, np.int32))
            return np.asarray(found).reshape(len(depth), -1)

        return [_in_parts(latents, depth.astype(np.float32)) for depth in depths]

    for level in LEVELS:
        seen = features(estimated, level)
        for what in ("colour", "background", "shape", "place"):
            add(what, "structure", seen, level)
        known = features(true, level)
        for what in ("colour", "background"):
            add(what, "structure of the true depth", known, level)
    for what in (*ATTRIBUTES, "place"):
        add(what, "content", contents)
        add(what, "the measuring CLIP", judged)
    return rows


def _middle(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Returns the middle frame and its true depth, `[1 H W 3]` and `[1 H W]`."""
    middle = len(item.frames) // 2
    return item.frames[middle : middle + 1], item.depth[middle : middle + 1]


def _frames(side: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([frame for frame, _ in side])


def _estimate(editor: VideoEditor, frames: np.ndarray) -> np.ndarray:
    """Returns what the structure of single frames `[b 1 H W 3]` is made of, `[b 1 H W]`."""
    return make_maps(editor, frames)


def _in_parts(function: Callable, array: np.ndarray) -> np.ndarray:
    starts = range(0, len(array), _AT_ONCE)
    parts = [function(array[start : start + _AT_ONCE]) for start in starts]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])
