"""Energy distance between two samples."""

import numpy as np
from scipy.spatial.distance import cdist

from ._samples import BLOCK, two_samples


def energy_distance(x: np.ndarray, y: np.ndarray, unbiased: bool = False) -> float:
    """Energy distance between two samples: 0 exactly where their distributions are equal.

    Szekely, Rizzo (2013), "Energy statistics: a class of statistics based on distances", J. Stat. Plan.
    Inference 143(8): 2 E|X - Y| - E|X - X'| - E|Y - Y'| with Euclidean distances. No square
    root is taken (scipy.stats.energy_distance, for d = 1, takes one).

    Args:
        x: (n, d).
        y: (m, d).
        unbiased: leave out each point's distance to itself. The expectation is then right for any n and m,
            and the value may be slightly negative; otherwise it is never negative and too large by
            E|X - X'| / n + E|Y - Y'| / m.

    Returns:
        The distance, in the unit of the data. Time grows with (n + m)^2, memory does not.

    Raises:
        ValueError: x or y is not two-dimensional, not real and finite, too short (1 point; 2 if unbiased), or
            their dimensions differ.
    """
    x, y = two_samples(x, y, 2 if unbiased else 1)
    n, m = len(x), len(y)
    within_x = _sum_within(x) / (n * (n - unbiased))
    within_y = _sum_within(y) / (m * (m - unbiased))
    return float(2.0 * _sum_between(x, y) / (n * m) - within_x - within_y)


def _sum_between(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of |x_i - y_j| over all pairs."""
    return sum(cdist(some_x, some_y).sum() for some_x in _blocks(x) for some_y in _blocks(y))


def _sum_within(x: np.ndarray) -> float:
    """Sum of |x_i - x_j| over all ordered pairs; blocks off the diagonal are met once and counted twice."""
    total = 0.0
    for start in range(0, len(x), BLOCK):
        some = x[start : start + BLOCK]
        total += cdist(some, some).sum() + 2.0 * _sum_between(some, x[start + BLOCK :])
    return total


def _blocks(x: np.ndarray) -> list[np.ndarray]:
    return [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
