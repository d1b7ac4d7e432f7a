"""Densities and conditional means of Gaussians on the host, so that predictions need no compilation.

Entries that are NaN are integrated out: rows with the same gaps are dealt with together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.special import gammaln

_LOG_2PI = float(np.log(2 * np.pi))


def log_gaussians(x: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """log N(x_n | mu_k, Sigma_k), shape (N, K).

    Args:
        x: (N, D), NaN where nothing was observed.
        means: (K, D).
        covariances: (K, D, D), or variances (K, D).
    """
    if covariances.ndim == 2:
        pairs = zip(means, covariances, strict=True)
        return np.stack([np.nansum(-0.5 * ((x - m) ** 2 / v + np.log(v) + _LOG_2PI), 1) for m, v in pairs], 1)
    found = np.empty((len(x), len(means)))
    for rows, seen in patterns(x):
        for k, (m, c) in enumerate(zip(means, covariances, strict=True)):
            root = cholesky(c[np.ix_(seen, seen)], lower=True)
            whitened = solve_triangular(root, (x[np.ix_(rows, seen)] - m[seen]).T, lower=True)
            log_det = 2.0 * np.log(np.diag(root)).sum()
            found[rows, k] = -0.5 * ((whitened**2).sum(0) + log_det + len(seen) * _LOG_2PI)
    return found


def factor_means(x: np.ndarray, loc: np.ndarray, loadings: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """E[z_n | x_n] of x = mu + W z + e, z ~ N(0, I), e ~ N(0, diag(noise)), shape (N, q).

    Args:
        loc, noise: (D,).
        loadings: W (D, q).
    """
    found = np.empty((len(x), loadings.shape[1]))
    for rows, seen in patterns(x):
        scaled = loadings[seen] / noise[seen, None]
        precision = np.eye(loadings.shape[1]) + loadings[seen].T @ scaled
        found[rows] = np.linalg.solve(precision, scaled.T @ (x[np.ix_(rows, seen)] - loc[seen]).T).T
    return found


def patterns(x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of rows with the same entries observed, and of these entries."""
    gaps = np.isnan(x)
    if not gaps.any():
        yield np.arange(len(x)), np.arange(x.shape[1])
        return
    kinds, which = np.unique(gaps, axis=0, return_inverse=True)
    for i, kind in enumerate(kinds):
        yield np.flatnonzero(which.ravel() == i), np.flatnonzero(~kind)


def log_students(x: np.ndarray, dof: np.ndarray, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """log of multivariate Student's t, shape (N, K).

    Args:
        x: (N, D), NaN where nothing was observed.
        dof, means, scales: (K,), (K, D), (K, D, D).
    """
    found = np.empty((len(x), len(means)))
    for rows, seen in patterns(x):
        size = len(seen)
        for k, (v, m, c) in enumerate(zip(dof, means, scales, strict=True)):
            root = cholesky(c[np.ix_(seen, seen)], lower=True)
            distance = (solve_triangular(root, (x[np.ix_(rows, seen)] - m[seen]).T, lower=True) ** 2).sum(0)
            norm = gammaln(0.5 * (v + size)) - gammaln(0.5 * v) - 0.5 * size * np.log(v * np.pi)
            found[rows, k] = norm - np.log(np.diag(root)).sum() - 0.5 * (v + size) * np.log1p(distance / v)
    return found
