"""Maximum mean discrepancy between two samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist

from ._samples import BLOCK, two_samples

_MEDIAN_OF = 1000  # points of each sample whose distances the median heuristic looks at


class MMD(NamedTuple):
    """What :func:`mmd` found.

    Attributes:
        value: the unbiased estimate of the squared discrepancy; slightly negative where the samples are alike.
        standard_error: of the value, by the jackknife, which on average is not too small; up to sqrt(2) too large
            where the distributions are equal.
        p_value: of equal distributions, by permutation; None where no permutations were asked for.
        bandwidth: the one of each kernel.
    """

    value: float
    standard_error: float
    p_value: float | None
    bandwidth: tuple[float, ...]


def mmd(
    x: np.ndarray,
    y: np.ndarray,
    bandwidth: float | Sequence[float] | None = None,
    num_permutations: int = 0,
    seed: int = 0,
) -> MMD:
    """Squared maximum mean discrepancy between two samples, unbiased, with Gaussian kernels.

    Gretton, Borgwardt, Rasch, Schoelkopf, Smola (2012), "A kernel two-sample test", JMLR 13, equation 3:
    E k(X, X') + E k(Y, Y') - 2 E k(X, Y), each mean over different points, k(a, b) = exp(-|a - b|^2 / (2 h^2)),
    or the mean of such kernels. The standard error is the two-sample jackknife's (Efron, Stein 1981).

    Args:
        x: (n, d).
        y: (m, d).
        bandwidth: h, in the unit of the data, one or several. None: the median distance between points of both
            samples together, of 1,000 rows of each where there are more (ibid., section 8).
        num_permutations: of the rows among the samples, for the p-value; 0 gives none. The smallest p-value is
            1 / (num_permutations + 1).
        seed: of the permutations.

    Returns:
        :class:`MMD`. Time grows with (n + m)^2, memory with (n + m) (num_permutations + 1).

    Raises:
        ValueError: x or y is not two-dimensional, not real and finite, of fewer than 3 points, their dimensions
            differ, a bandwidth is not above 0, or num_permutations below 0.
    """
    x, y = two_samples(x, y, 3)
    if isinstance(num_permutations, bool) or num_permutations != int(num_permutations) or num_permutations < 0:
        raise ValueError(f"num_permutations must be a whole number, at least 0, got {num_permutations!r}")
    widths = _bandwidths(bandwidth, x, y)
    n, m, points = len(x), len(y), np.concatenate([x, y])
    in_x = np.zeros((n + m, int(num_permutations) + 1))  # the first column as given, the others permuted
    in_x[:n] = 1.0
    rng = np.random.default_rng(seed)
    in_x[:, 1:] = rng.permuted(in_x[:, 1:], axis=0)
    to_x, to_all = _kernel_sums(points, in_x, widths)
    values = _unbiased(in_x, to_x, to_all, n, m)
    error = _jackknife(to_x[:, 0], to_all, n, m)
    as_large = values[1:] >= values[0] - 1e-12  # rounding is no difference
    p_value = float((1 + as_large.sum()) / len(values)) if num_permutations else None
    return MMD(float(values[0]), error, p_value, widths)


def _bandwidths(given: float | Sequence[float] | None, x: np.ndarray, y: np.ndarray) -> tuple[float, ...]:
    if given is None:
        some = [a[:: -(-len(a) // _MEDIAN_OF)] for a in (x, y)]
        h = float(np.median(pdist(np.concatenate(some))))
        if h == 0.0:
            raise ValueError("the median distance between the points is 0: most of them are equal; give a bandwidth")
        return (h,)
    widths = np.atleast_1d(np.asarray(given, dtype=np.float64))
    if widths.ndim != 1 or not len(widths) or not (np.isfinite(widths) & (widths > 0)).all():
        raise ValueError(f"bandwidth must be one or several numbers above 0, got {given!r}; None takes the median")
    return tuple(widths.tolist())


def _kernel_sums(points: np.ndarray, in_x: np.ndarray, widths: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of k(a, b) over the b of x, in each permutation, and over all b; without a itself."""
    to_x, to_all = np.empty_like(in_x), np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        rows = slice(start, min(start + BLOCK, len(points)))
        squares = cdist(points[rows], points, "sqeuclidean")
        kernel = np.mean([np.exp(squares / (-2.0 * h**2)) for h in widths], axis=0)
        kernel[np.arange(len(kernel)), np.arange(start, rows.stop)] = 0.0
        to_x[rows], to_all[rows] = kernel @ in_x, kernel.sum(axis=1)
    return to_x, to_all


def _unbiased(in_x: np.ndarray, to_x: np.ndarray, to_all: np.ndarray, n: int, m: int) -> np.ndarray:
    """Equation 3, one for each column."""
    within_x, from_x = (in_x * to_x).sum(axis=0), in_x.T @ to_all
    between = from_x - within_x
    within_y = to_all.sum() - from_x - between
    return _joined(within_x, within_y, between, n, m)


def _joined(within_x: np.ndarray, within_y: np.ndarray, between: np.ndarray, n: float, m: float) -> np.ndarray:
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * between / (n * m)


def _jackknife(to_x: np.ndarray, to_all: np.ndarray, n: int, m: int) -> float:
    """Standard error from the values without one point of x, and without one of y."""
    to_y = to_all - to_x
    within_x, within_y, between = to_x[:n].sum(), to_y[n:].sum(), to_y[:n].sum()
    without_x = _joined(within_x - 2.0 * to_x[:n], within_y, between - to_y[:n], n - 1, m)
    without_y = _joined(within_x, within_y - 2.0 * to_y[n:], between - to_x[n:], n, m - 1)
    return float(np.sqrt((n - 1) * without_x.var() + (m - 1) * without_y.var()))
