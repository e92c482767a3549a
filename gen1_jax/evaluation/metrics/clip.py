"""Measures on CLIP embeddings that came after the paper's two; those are in `consistency.py`."""

import numpy as np

from gen1_jax.evaluation.metrics.consistency import normalised

Array = np.ndarray


def all_pairs_consistency(embeddings: Array) -> Array:
    """Returns the mean cosine of all pairs of different frames, `[b]`.

    It is `clip_score_frame` of LOVEU-TGVE 2023 (scripts/run_eval.py). Gen-1's own measure takes
    consecutive frames.

    Args:
      embeddings: `[b n d]`, one for each frame, n >= 2.
    """
    unit = normalised(embeddings)
    n = unit.shape[1]
    # The sum over all pairs, without the n pairs of a frame and itself, whose cosines are 1.
    total = np.sum(unit.sum(axis=1) ** 2, axis=-1)
    return (total - np.sum(unit**2, axis=(1, 2))) / (n * (n - 1))


def directional_similarity(
    outputs: Array, sources: Array, prompts: Array, source_prompts: Array
) -> Array:
    """Returns how much the pictures changed as the words did, `[b]`: mean over frames of a cosine.

    The cosine is that of output minus source and of prompt minus source prompt, embeddings of
    length 1 (StyleGAN-NADA, Gal et al. 2021; InstructPix2Pix, metrics/clip_similarity.py). A frame
    that did not change has 0.

    Args:
      outputs: `[b n d]`, the edit's frames.
      sources: `[b n d]`, the source's frames.
      prompts: `[b d]`.
      source_prompts: `[b d]`. Where they say what the prompts say, there is no direction: NaN.
    """
    images = normalised(normalised(outputs) - normalised(sources))
    texts = normalised(prompts) - normalised(source_prompts)
    similarity = np.einsum("bnd,bd->bn", images, normalised(texts)).mean(-1)
    return np.where(np.linalg.norm(texts, axis=-1) > 1e-6, similarity, np.nan)


def share_nearer(embeddings: Array, wanted: Array, unwanted: Array) -> Array:
    """Returns the share of frames that are nearer to one text than to another, `[b]`.

    Args:
      embeddings: `[b n d]`, one for each frame.
      wanted: `[b d]`.
      unwanted: `[b d]`; a frame that is as near to both counts as nearer to this one.
    """
    images = normalised(embeddings)
    wanted, unwanted = (
        np.einsum("bnd,bd->bn", images, normalised(text)) for text in (wanted, unwanted)
    )
    return (wanted > unwanted).mean(-1)


def success(embeddings: Array, prompts: Array, source_prompts: Array) -> Array:
    """Returns 1 where CLIP reads the prompt and not the source's words on most frames, `[b]`.

    CLIP is the classifier, zero-shot, with two classes: the prompt and what the source shows. So
    the asked attribute must be there and the source's gone, on more than half of the frames.

    Args:
      embeddings: `[b n d]`, one for each frame of the edit.
      prompts: `[b d]`.
      source_prompts: `[b d]`.
    """
    return (share_nearer(embeddings, prompts, source_prompts) > 0.5).astype(np.float64)


def mean_cosine(embeddings: Array, target: Array, seen: Array) -> Array:
    """Returns the mean cosine of frames and one target, over the frames that count, `[b]`.

    Args:
      embeddings: `[b n d]`, one for each frame.
      target: `[b d]`.
      seen: `[b n]` bool, the frames that count. Without any the mean is NaN.
    """
    cosines = np.einsum("bnd,bd->bn", normalised(embeddings), normalised(target))
    count = seen.sum(-1)
    return np.where(count > 0, (cosines * seen).sum(-1) / np.maximum(count, 1), np.nan)
