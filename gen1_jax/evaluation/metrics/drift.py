"""Whether a long output drifts away from how it began: its last window against its first.

FramePack (Zhang and Agrawala 2025) compares the first 15 % of a video with the last by other
measures. Here a window has a fixed number of frames, the length of the clips that the model was
trained on, because a long edit is made of windows. The source's own change is taken off: a camera
that turns is no drift. A clip shorter than two windows gives NaN.
"""

import numpy as np

from gen1_jax.video.pixels import rgb_to_lab

Array = np.ndarray

WINDOW = 8  # frames; the paper trains on clips of 8


def embedding_drift(embeddings: Array, source_embeddings: Array, window: int = WINDOW) -> Array:
    """Returns 1 − cosine of the mean embeddings of both windows, less the source's own, `[b]`.

    Args:
      embeddings: `[b n d]` CLIP image embeddings of the output's frames.
      source_embeddings: `[b n d]` those of the source's frames.
      window: frames.
    """

    def change(x: Array) -> Array:
        x = np.asarray(x, np.float64)
        unit = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        first, last = unit[:, :window].mean(1), unit[:, -window:].mean(1)
        length = np.linalg.norm(first, axis=-1) * np.linalg.norm(last, axis=-1)
        return 1 - (first * last).sum(-1) / np.maximum(length, 1e-12)

    return _where_long(embeddings, window, lambda: change(embeddings) - change(source_embeddings))


def colour_drift(frames: Array, source: Array, window: int = WINDOW) -> Array:
    """Returns how far the colours of both windows lie apart, less the source's own, `[b]`.

    It is the distance in CIELAB units of six numbers, the mean and the standard deviation of each
    channel, those with which Reinhard et al. 2001 describe a picture's colours.

    Args:
      frames: `[b n h w 3]` uint8, the output.
      source: `[b n h w 3]` uint8.
      window: frames.
    """

    def colours(x: Array) -> Array:
        lab = rgb_to_lab(x)
        return np.concatenate([lab.mean((1, 2, 3)), lab.std((1, 2, 3))], axis=-1)

    def change(x: Array) -> Array:
        x = np.asarray(x)
        return np.linalg.norm(colours(x[:, :window]) - colours(x[:, -window:]), axis=-1)

    return _where_long(frames, window, lambda: change(frames) - change(source))


def _where_long(clips: Array, window: int, measure) -> Array:
    """Returns a measure of clips of at least two windows, and NaN for shorter ones."""
    b, n = np.shape(clips)[:2]
    return measure() if n >= 2 * window else np.full(b, np.nan)
