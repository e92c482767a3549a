"""Mean and deviation of a part's data, over examples that all processes read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gen1_jax.batch import Batch

Moments = tuple[Any, Any]  # mean and variance, of any one shape


def gather_statistics(
    moments: Callable[[Batch], Moments], batches: Iterator[Batch], examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of examples, the same on every process.

    Args:
      moments: mean and variance of a batch.
      batches: this process's shares of batches. The shares of all processes have one size.
      examples: how many examples to read, over all processes; the last batch is read whole.
    """
    parts, sizes = [], []
    while sum(sizes) * jax.process_count() < examples:
        batch = next(batches)
        parts.append(moments(batch))
        sizes.append(batch.size)
    mean, variance = _join(parts, sizes)
    if jax.process_count() > 1:
        own = np.float32(mean), np.float32(variance)
        everyone = zip(*multihost_utils.process_allgather(own), strict=True)
        mean, variance = _join(list(everyone), [1] * jax.process_count())
    return mean, np.sqrt(variance)


def _join(parts: Sequence[Moments], sizes: Sequence[int]) -> Moments:
    """Returns mean and variance of all parts, in float64."""
    means, variances = (np.asarray(jax.device_get(x), np.float64) for x in zip(*parts, strict=True))
    mean = np.average(means, axis=0, weights=sizes)
    between = np.average((means - mean) ** 2, axis=0, weights=sizes)
    return mean, np.average(variances, axis=0, weights=sizes) + between
