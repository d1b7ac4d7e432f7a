"""Wishart distributions of variational Bayes: of a precision matrix, or of precisions one by one.

``rate`` is the inverse of the scale matrix and ``dof`` the degrees of freedom, so that E precision = dof / rate. Four
kinds, as of covariances: "full" rate (K, D, D) and "tied" (D, D) are matrices; "diag" (K, D) holds a Gamma(dof / 2,
rate / 2) for each feature, and "spherical" (K,) a Gamma(D dof / 2, D rate / 2) for each component, which is the law
of a Wishart's diagonal. ``dof`` is (K,), and () for "tied".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ppl_gen.primitives import xp

MATRICES = ("full", "tied")


def factor(kind: str, rate: Any) -> tuple[Any, Any]:
    """Inverse root A of the rate, rate^-1 = A^T A (A^2 where it is no matrix), and log |rate|."""
    if kind not in MATRICES:
        return 1.0 / xp.sqrt(rate), xp.log(rate)
    root = xp.linalg.cholesky(rate)
    inverse = xp.linalg.solve_triangular(root, xp.eye(rate.shape[-1]) + xp.zeros_like(rate), lower=True)
    return inverse, 2.0 * xp.sum(xp.log(xp.diagonal(root, 0, -2, -1)), axis=-1)


def expected_log_det(kind: str, dof: Any, log_rate: Any, d: int) -> Any:
    """E log |precision matrix| of each component (Bishop 2006, equation 10.65); (K,), () for "tied"."""
    if kind in MATRICES:
        return _digamma(0.5 * dof, d) + d * math.log(2.0) - log_rate
    if kind == "diag":
        return xp.sum(xp.digamma(0.5 * dof)[:, None] + math.log(2.0) - log_rate, axis=-1)
    return d * (xp.digamma(0.5 * d * dof) + math.log(2.0 / d) - log_rate)


def log_det_of_mean(kind: str, dof: Any, log_rate: Any, d: int) -> Any:
    """log |E precision matrix| of each component; (K,), () for "tied"."""
    if kind in MATRICES:
        return d * xp.log(dof) - log_rate
    return xp.sum(xp.log(dof)[:, None] - log_rate, axis=-1) if kind == "diag" else d * (xp.log(dof) - log_rate)


def inverse_of_mean(dof: Any, rate: Any) -> Any:
    """(E precision)^-1, in the shape of ``rate``; the other way round than :func:`mean`, on the backend's arrays."""
    return rate / dof.reshape(tuple(dof.shape) + (1,) * (rate.ndim - dof.ndim))


def divergence(kind: str, dof: Any, rate: Any, dof0: Any, rate0: Any, d: int) -> Any:
    """KL from the prior (dof0, rate0), summed over components; ``rate0`` is of one component."""
    inverse, log_rate = factor(kind, rate)
    log_rate0 = factor(kind, rate0)[1]
    if kind in MATRICES:
        size, trace = d, xp.sum((inverse @ rate0) * inverse, axis=(-2, -1))
    else:
        size, trace = 1, rate0 / rate
    if kind == "diag":
        dof = dof[:, None]
    if kind == "spherical":
        dof, dof0 = d * dof, d * dof0
    gain = 0.5 * dof * (trace - size) + 0.5 * dof0 * (log_rate - log_rate0)
    norm = _gammaln(0.5 * dof0 + xp.zeros_like(dof), size) - _gammaln(0.5 * dof, size)
    return xp.sum(gain + norm + 0.5 * (dof - dof0) * _digamma(0.5 * dof, size))


def _digamma(a: Any, size: int) -> Any:
    """Derivative of the log multivariate gamma function."""
    return xp.sum(xp.digamma(a[..., None] - 0.5 * xp.arange(size)), axis=-1)


def _gammaln(a: Any, size: int) -> Any:
    """Log multivariate gamma function, without its constant."""
    return xp.sum(xp.gammaln(a[..., None] - 0.5 * xp.arange(size)), axis=-1)


# On the host ------------------------------------------------------------------------------------------------------


def mean(kind: str, dof: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """E precision, in the shape of ``rate``."""
    if kind not in MATRICES:
        return dof.reshape(dof.shape + (1,) * (rate.ndim - dof.ndim)) / rate
    return dof[..., None, None] * np.linalg.inv(rate)


def draw_roots(kind: str, dof: np.ndarray, rate: np.ndarray, count: int, d: int, rng: np.random.Generator) -> Any:
    """Roots T of ``count`` precisions T T^T, or T^2 where they are no matrices; (count, shape of ``rate``)."""
    if kind == "diag":
        return np.sqrt(rng.gamma(0.5 * dof[:, None], 2.0 / rate, (count, *rate.shape)))
    if kind == "spherical":
        return np.sqrt(rng.gamma(0.5 * d * dof, 2.0 / (d * rate), (count, *rate.shape)))
    # Bartlett's decomposition: chi variables on, normals below the diagonal.
    below = np.tril(rng.standard_normal((count, *rate.shape)), -1)
    chi = np.sqrt(rng.chisquare(dof[..., None] - np.arange(d), (count, *rate.shape[:-1])))
    inverse = np.linalg.inv(np.linalg.cholesky(rate))
    return np.swapaxes(inverse, -1, -2) @ (below + chi[..., None] * np.eye(d))
