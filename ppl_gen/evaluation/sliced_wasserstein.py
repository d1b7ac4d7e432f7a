"""Sliced Wasserstein distance between two samples."""

import numpy as np

from ._samples import order_of, two_samples

_BLOCK = 2**20  # projected numbers at once


def sliced_wasserstein(
    x: np.ndarray, y: np.ndarray, num_projections: int = 128, p: float = 2.0, seed: int = 0
) -> float:
    """Wasserstein-p distance between projections of two samples on random lines.

    The p-th root of the mean over directions of W_p^p of the projections (Rabin, Peyre, Delon, Bernot 2011,
    "Wasserstein barycenter and its application to texture mixing"; Bonneel, Rabin, Peyre, Pfister 2015, "Sliced and
    Radon Wasserstein barycenters of measures", section 3.2). Each W_p^p is exact, whatever the sizes of the samples:
    the integral of |F^-1(u) - G^-1(u)|^p over u. The mean has the Monte Carlo error of the directions.

    Args:
        x: (n, d).
        y: (m, d).
        num_projections: directions, uniform on the sphere. In one dimension there is a single line.
        p: the order, at least 1.
        seed: of the directions; one seed compares models on the same ones.

    Returns:
        The distance, in the unit of the data: about W_p / sqrt(d) of two clouds that are shifted.

    Raises:
        ValueError: x or y is not two-dimensional, not real and finite, their dimensions differ, no projections, or p
            below 1.
    """
    x, y = two_samples(x, y)
    p = order_of(p)
    if isinstance(num_projections, bool) or num_projections != int(num_projections) or num_projections < 1:
        raise ValueError(f"num_projections must be a whole number, at least 1, got {num_projections!r}")
    lines = _directions(int(num_projections), x.shape[1], seed)
    size = max(1, _BLOCK // (len(x) + len(y)))
    parts = [_on_lines(x, y, lines[i : i + size], p) for i in range(0, len(lines), size)]
    return float(np.concatenate(parts).mean() ** (1.0 / p))


def _directions(count: int, d: int, seed: int) -> np.ndarray:
    """Uniform on the sphere, (count, d)."""
    if d == 1:
        return np.ones((1, 1))
    drawn = np.random.default_rng(seed).normal(size=(count, d))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _on_lines(x: np.ndarray, y: np.ndarray, lines: np.ndarray, p: float) -> np.ndarray:
    """W_p^p on each line, (line,)."""
    n, m = len(x), len(y)
    x, y = np.sort(x @ lines.T, axis=0), np.sort(y @ lines.T, axis=0)
    if n == m:
        return (np.abs(x - y) ** p).mean(axis=0)
    # Both quantile functions are constant between these levels, in units of 1 / (n m).
    levels = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    gaps = np.abs(x[levels[:-1] // m] - y[levels[:-1] // n]) ** p
    return np.diff(levels) / (n * m) @ gaps
