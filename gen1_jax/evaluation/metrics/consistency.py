"""The paper's two measures (section 4), on CLIP embeddings."""

import numpy as np

Array = np.ndarray


def frame_consistency(embeddings: Array) -> Array:
    """Returns the mean cosine of the CLIP embeddings of consecutive frames, `[b]`.

    Args:
      embeddings: `[b n d]`, one for each frame, n >= 2.
    """
    unit = normalised(embeddings)
    if unit.ndim != 3 or unit.shape[1] < 2:
        raise ValueError(f"[b n d] with n >= 2 wanted, not {unit.shape}")
    return np.sum(unit[:, 1:] * unit[:, :-1], axis=-1).mean(axis=-1)


def prompt_consistency(image_embeddings: Array, text_embeddings: Array) -> Array:
    """Returns the mean cosine of the prompt's CLIP embedding and that of each frame, `[b]`.

    Args:
      image_embeddings: `[b n d]`, one for each frame.
      text_embeddings: `[b d]`, one for each prompt.
    """
    images, texts = normalised(image_embeddings), normalised(text_embeddings)
    return np.einsum("bnd,bd->bn", images, texts).mean(-1)


def normalised(x: Array) -> Array:
    """Returns embeddings `[... d]` of length 1, in float64; one of length 0 stays 0."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
