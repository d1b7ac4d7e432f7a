"""Densities of rows under many Gaussians, and the moments of rows whose missing entries are integrated out.

An entry that is missing counts by its moments given the row's others (Ghahramani & Jordan 1994). Components lead and
rows come last, (K, N).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen.missing import Missing, split
from ppl_gen.models._missing_gaussian import complete, values
from ppl_gen.primitives import xp


def diagonal(x: Any, locs: Any, scales: Any, centre: Any, unit: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
    """Log densities (K, N) of rows x (N, D), complete or not, under N(locs_k, diag(scales_k^2)).

    Args:
        locs, scales: (K, D).
        centre, unit: (D,); what is computed with is y = (x - centre) / unit.

    Returns:
        the densities, and a function from responsibilities (K, N) to the expected sums of y and of y^2, (K, D).
    """
    observed = x.observed if isinstance(x, Missing) else None
    own = scales / unit
    m, precision = (locs - centre) / unit, 1.0 / (own * own)
    y = (values(x) - centre) / unit
    y = y if observed is None else y * observed
    features = xp.concatenate([y, y * y], axis=1)
    distance = xp.concatenate([-2.0 * m * precision, precision], axis=1) @ features.T
    level = m * m * precision + 2.0 * xp.log(own * unit) + float(np.log(2 * np.pi))
    levels = xp.sum(level, axis=1)[:, None] if observed is None else level @ observed.T

    def expected(r: Any) -> tuple[Any, Any]:
        both = r @ features
        first, second = both[:, : y.shape[1]], both[:, y.shape[1] :]
        if observed is None:
            return first, second
        unseen = r @ (1.0 - observed)
        return first + unseen * m, second + unseen * (m * m + own * own)

    return -0.5 * (levels + distance), expected


def incomplete(x: Missing, locs: Any, sigma: Any, centre: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
    """Log densities (K, N) of what was observed of rows x (N, D), under N(locs_k, sigma_k).

    Args:
        locs, sigma: (K, D), (K, D, D).
        centre: (D,).

    Returns:
        the densities, and a function from responsibilities (K, N) to the expected sums of x - centre, (K, D), and of
        its products, (K, D, D).
    """
    densities, means, b = complete(x, locs[:, None], sigma[:, None])
    k, d = locs.shape

    def expected(r: Any) -> tuple[Any, Any]:
        off = means - centre
        lost = xp.reshape(xp.sqrt(r)[:, :, None, None] * b, (k, -1, d))
        known = xp.sum(r, axis=1)[:, None, None] * sigma - xp.swapaxes(lost, 1, 2) @ lost
        second = known + xp.swapaxes(r[:, :, None] * off, 1, 2) @ off
        return (r[:, None, :] @ off)[:, 0], second

    return densities, expected


def centred(lib: Any, x: Any) -> tuple[Any, Any]:
    """Mean (D,) of each column, and the rows x (N, D) less that, for means and covariances of data that may have gaps.

    Of entries that are missing nothing but zero is left, and their column is scaled up to the sum of squares that as
    many entries would have: products of the columns are still a positive semi-definite matrix.

    Args:
        lib: NumPy, or what does its work on the arrays of x.
    """
    if not isinstance(x, Missing):
        mean = lib.mean(x, axis=0)
        return mean, x - mean
    number = lib.sum(x.observed, axis=0)
    number = lib.where(number > 0, number, lib.ones_like(number))
    mean = lib.sum(x.values, axis=0) / number
    return mean, (x.values - mean) * x.observed * lib.sqrt(x.shape[0] / number)


def on_host(x: Any) -> Any:
    """Rows in floating point on the host; a pair where entries are missing."""
    x = np.asarray(x, dtype=float)
    return split(x) if np.isnan(x).any() else x
