"""Principal components on the host."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

_BLOCK = 8192


def covariance(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), divided by N, of rows x (N, D); block by block, added up in float64."""
    x = x if x.dtype.kind == "f" else x.astype(float)
    mean, total = x.mean(0, dtype=float), np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), _BLOCK):
        y = x[start : start + _BLOCK] - mean.astype(x.dtype)
        total += y.T @ y
    off = (mean - mean.astype(x.dtype))[:, None]
    return mean, total / len(x) - off * off.T


def leading(sigma: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The q greatest eigenvalues, descending, their eigenvectors (D, q), and the mean of the other eigenvalues."""
    d = len(sigma)
    values, vectors = eigh(sigma, subset_by_index=(d - q, d - 1))
    rest = (np.trace(sigma) - values.sum()) / (d - q)
    return values[::-1], vectors[:, ::-1], max(float(rest), 0.0)


def loadings(sigma: np.ndarray, q: int) -> tuple[np.ndarray, float]:
    """W (D, q) and sigma^2 of probabilistic PCA (Tipping & Bishop 1999, equations 7 and 8), with R = I.

    Each column of W is given the sign that makes the entry of it that is largest in size positive.
    """
    values, vectors, variance = leading(sigma, q)
    w = vectors * np.sqrt(np.maximum(values - variance, 0.0))
    sign = np.sign(w[np.abs(w).argmax(0), np.arange(q)])
    return w * np.where(sign == 0, 1.0, sign), variance


def jittered(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """W with a hundredth of its size in noise: EM never leaves a column that is zero."""
    size = np.sqrt((w**2).mean()) or 1.0
    return w + 0.01 * size * rng.standard_normal(w.shape)
