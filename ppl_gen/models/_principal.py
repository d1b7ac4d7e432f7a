"""Principal components on the host."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackError, eigsh

_BLOCK = 2**25  # bytes that are copied, or read from a file, at a time
_ROWS = 2**17  # whose products are added up in their own precision
_SEEN = 1000  # rows that tell whether a shift is needed
_FAR = 10.0  # standard deviations


def covariance(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), divided by N, of rows x (N, D); block by block, added up in float64."""
    x = x if x.dtype.kind == "f" else x.astype(float)
    n, d = x.shape
    step = max(1, _BLOCK // (d * x.itemsize))
    sum_y, sum_yy, shift = np.zeros(d), np.zeros((d, d)), _shift(x[: min(step, _SEEN)])
    step = _ROWS if shift is None and not isinstance(x, np.memmap) else step
    for start in range(0, n, step):
        y = x[start : start + step]
        y = y if shift is None else y - shift
        sum_y += np.ones(len(y), y.dtype) @ y
        sum_yy += y.T @ y
    mean = sum_y / n
    return mean if shift is None else mean + shift, sum_yy / n - np.outer(mean, mean)


def _shift(x: np.ndarray) -> np.ndarray | None:
    """The mean of x; None where x is near enough to the origin for nothing to cancel without a shift."""
    mean, spread = x.mean(0), x.std(0)
    return None if (np.abs(mean) <= _FAR * spread).all() else mean


def leading(sigma: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The q greatest eigenvalues, descending, their eigenvectors (D, q), and the mean of the other eigenvalues."""
    d = len(sigma)
    values, vectors = _few(sigma, q) if 10 * q < d else eigh(sigma, subset_by_index=(d - q, d - 1))
    rest = (np.trace(sigma) - values.sum()) / (d - q)
    return values[::-1], vectors[:, ::-1], max(float(rest), 0.0)


def _few(sigma: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
    """By Lanczos iterations, to rounding; by a decomposition where those find no start or no end."""
    try:
        values, vectors = eigsh(sigma, q, which="LA", v0=np.sqrt(np.abs(np.diag(sigma))))
    except ArpackError:
        return eigh(sigma, subset_by_index=(len(sigma) - q, len(sigma) - 1))
    order = np.argsort(values)
    return values[order], vectors[:, order]


def loadings(sigma: np.ndarray, q: int, least: float = 0.0) -> tuple[np.ndarray, float]:
    """W (D, q) and sigma^2 of probabilistic PCA (Tipping & Bishop 1999, equations 7 and 8), with R = I.

    Each column of W is given the sign that makes the entry of it that is largest in size positive. ``least`` is a
    lower bound of sigma^2; where it binds, W is the maximum under that sigma^2.
    """
    values, vectors, variance = leading(sigma, q)
    variance = max(variance, least)
    w = vectors * np.sqrt(np.maximum(values - variance, 0.0))
    sign = np.sign(w[np.abs(w).argmax(0), np.arange(q)])
    return w * np.where(sign == 0, 1.0, sign), variance


def jittered(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """W with a hundredth of its size in noise: EM never leaves a column that is zero."""
    size = np.sqrt((w**2).mean()) or 1.0
    return w + 0.01 * size * rng.standard_normal(w.shape)
