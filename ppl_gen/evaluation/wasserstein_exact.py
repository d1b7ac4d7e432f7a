"""Exact Wasserstein distance between two sets of points."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ._samples import order_of, two_samples

_MOST_POINTS = 5000  # 200 MB of costs; the time grows with the cube


def wasserstein_exact(x: np.ndarray, y: np.ndarray, p: float = 2.0) -> float:
    """Exact Wasserstein-p distance between two sets of equally many points: the earth mover's distance.

    The p-th root of the mean of |x_i - y_s(i)|^p over the best assignment s, with Euclidean distances (Peyre, Cuturi
    2019, "Computational optimal transport", proposition 2.1). Of two samples of one distribution it is not 0 but the
    sampling floor, which falls with n^(-1/d) only: measure it beside, on a second sample of the data.

    Args:
        x: (n, d).
        y: (n, d).
        p: the order, at least 1.

    Returns:
        The distance, in the unit of the data. 2,000 points take 1 to 5 s; at most 5,000.

    Raises:
        ValueError: x or y is not two-dimensional, not real and finite, their shapes differ, more than 5,000 points,
            or p below 1.
    """
    x, y = two_samples(x, y)
    p = order_of(p)
    if len(x) != len(y):
        raise ValueError(
            f"x and y must hold equally many points, got {len(x)} and {len(y)}; "
            "draw as many, or use sliced_wasserstein, which takes any numbers"
        )
    if len(x) > _MOST_POINTS:
        raise ValueError(
            f"at most {_MOST_POINTS} points, got {len(x)}; take some of the rows, or use sliced_wasserstein"
        )
    costs = cdist(x, y, "sqeuclidean")
    if p != 2.0:
        costs **= 0.5 * p
    return float(costs[linear_sum_assignment(costs)].mean() ** (1.0 / p))
