"""Squared distances and second moments of rows under many Gaussians at once, as products of matrices.

Components lead and rows come last, (K, N): sums over components then run along contiguous rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.precision import floats
from ppl_gen.primitives import xp

_FEW = 48  # features up to which the products of all pairs are formed
_FINE = 1e-12


def rounding(x: Any) -> float:
    """The unit of rounding of an array's numbers."""
    return float(floats(x).eps)


def rounded_cholesky(sigma: Any, unit: Any) -> Any:
    """Cholesky factors of Sigma (..., D, D), each entry of which may be off by rounding.

    Args:
        unit: (..., D), rounding of the diagonal of what Sigma is the difference of. One such unit is added to the
            diagonal; where that leaves Sigma indefinite, as many as there can be errors.
    """
    d = sigma.shape[-1]
    slack = unit[..., None] * xp.eye(d)
    near, sure = (xp.linalg.cholesky(sigma + units * slack) for units in (1.0, d + 10.0))
    return xp.where(xp.isfinite(xp.sum(near, axis=(-2, -1), keepdims=True)), near, sure)


def squared_distances(y: Any, inverse_tril: Any, whitened_locs: Any) -> Any:
    """|A_k y_n - b_k|^2 (K, N), of rows y (N, D), lower triangles A (K, D, D) and b (K, D).

    With few features as one product with those of y and their pairs, for y of the order of 1; not in float32, which
    would lose distances that are small beside the spread of y.
    """
    k, d = whitened_locs.shape
    if d > _FEW or rounding(y) > _FINE:
        whitened = xp.reshape(inverse_tril, (k * d, d)) @ y.T
        return xp.sum((xp.reshape(whitened, (k, d, y.shape[0])) - whitened_locs[:, :, None]) ** 2, axis=1)
    first, second, _ = _pairs(d)
    transposed = xp.swapaxes(inverse_tril, -1, -2)
    precision = xp.reshape(transposed @ inverse_tril, (k, d * d))
    square = xp.take(precision, first * d + second, axis=1) * xp.array(np.where(first == second, 1.0, 2.0))
    linear = -2.0 * (transposed @ whitened_locs[:, :, None])[:, :, 0]
    constant = xp.sum(whitened_locs**2, axis=1)
    return constant[:, None] + xp.concatenate([linear, square], axis=1) @ _features(y).T


def moments(r: Any, y: Any) -> tuple[Any, Any]:
    """sum_n r_kn y_n (K, D) and sum_n r_kn y_n y_n^T (K, D, D), of weights r (K, N) and rows y (N, D)."""
    d = y.shape[1]
    if d > _FEW:
        return r @ y, (r[:, None, :] * y.T) @ y
    both = r @ _features(y)
    return both[:, :d], xp.take(both[:, d:], _pairs(d)[2], axis=1)


def _features(y: Any) -> Any:
    """y_i, and y_i y_j for i <= j, (N, D + D (D + 1) / 2)."""
    return xp.concatenate([y, *(y[:, i : i + 1] * y[:, i:] for i in range(y.shape[1]))], axis=1)


def _pairs(d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of an upper triangle, in order, and where each entry of the full square stands in it."""
    first, second = np.triu_indices(d)
    order = np.zeros((d, d), dtype=int)
    order[first, second] = order[second, first] = np.arange(len(first))
    return first, second, order
