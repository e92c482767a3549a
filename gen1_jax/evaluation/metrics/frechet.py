"""The Fréchet distance of two sets of features, as FID and FVD take it."""

import numpy as np

Array = np.ndarray


def frechet_distance(features: Array, others: Array) -> float:
    """Returns the distance of normal distributions fitted to two sets of features.

    It is |μ − ν|² + tr(Σ + Ω − 2 (ΣΩ)^½). The eigenvalues of ΣΩ are the squared singular values
    of the product of the two centred sets, so no square root of a matrix is needed, and sets with
    fewer members than features have a distance too.

    Args:
      features: `[n d]`, n >= 2.
      others: `[m d]`, m >= 2.

    Returns:
      The distance; 0 for equal sets. It shrinks with n and m, so compare sets of the same sizes.
    """
    sets = [np.asarray(x, np.float64) for x in (features, others)]
    means = [x.mean(0) for x in sets]
    centred = [(x - mean) / np.sqrt(len(x) - 1) for x, mean in zip(sets, means, strict=True)]
    traces = sum(np.sum(x**2) for x in centred)
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(np.sum((means[0] - means[1]) ** 2) + max(traces - 2 * cross, 0.0))
