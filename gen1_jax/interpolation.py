"""Linear interpolation along one axis as a matrix."""

import numpy as np


def interpolation_matrix(positions: np.ndarray, size: int) -> np.ndarray:
    """Returns the linear map from `size` samples to their values between the samples.

    Args:
      positions: `[out]` where to read, in units of samples: 0 is the first, `size - 1` the last.
      size: number of samples.

    Returns:
      `[out size]` float64; each row sums to 1.
    """
    distance = np.abs(positions[:, None] - np.arange(size))
    return np.maximum(0, 1 - distance)
