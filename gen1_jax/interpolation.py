"""Interpolation along one axis as a matrix."""

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


def cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """Returns bicubic resizing along one axis as PyTorch and OpenCV compute it.

    Samples stand for cells of equal width, edges are repeated, and the kernel (a = −0.75) is not
    widened where the size shrinks.

    Args:
      size: number of samples.
      new_size: number of samples wanted.

    Returns:
      `[new_size size]` float64; each row sums to 1.
    """
    places = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    first = np.floor(places).astype(int) - 1
    matrix = np.zeros((new_size, size))
    for tap in range(4):
        d = np.abs(places - (first + tap))
        near = (1.25 * d - 2.25) * d**2 + 1
        far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        column = np.clip(first + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), column), np.where(d <= 1, near, far))
    return matrix
