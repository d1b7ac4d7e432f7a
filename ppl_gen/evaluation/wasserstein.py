"""Wasserstein-1 distance between draws of one variable, and how large it is by chance."""

from functools import lru_cache
from typing import Any

import numpy as np

_PLACES = 400
_BRIDGES = 4000


def wasserstein(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance between two empirical distributions, in the units of the draws.

    The area between their distribution functions, the integral of |F_x - F_y|; of two samples of one size the mean
    distance of the sorted draws.

    Args:
        x, y: (draw, *shape), each with its own number of draws.

    Returns:
        (*shape); nan where a draw is not finite.

    Raises:
        ValueError: shapes that differ, or no draws.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape[1:] != y.shape[1:] or not len(x) or not len(y):
        raise ValueError(f"draws must be (draw, ...) of one shape, got {x.shape} and {y.shape}")
    if len(x) == len(y):
        return np.abs(np.sort(x, axis=0) - np.sort(y, axis=0)).mean(axis=0)
    both = np.concatenate([x, y])
    order = np.argsort(both, axis=0)
    steps = np.where(order < len(x), 1 / len(x), -1 / len(y))
    gaps = np.diff(np.take_along_axis(both, order, axis=0), axis=0)
    return (np.abs(np.cumsum(steps, axis=0)[:-1]) * gaps).sum(axis=0)


def null_distance(draws: np.ndarray, sizes: tuple[Any, Any], prob: float = 0.95) -> np.ndarray:
    """What the distance between two independent samples of one distribution stays below with probability ``prob``.

    For large samples of sizes m and n the difference of the distribution functions is sqrt(1/m + 1/n) times a Brownian
    bridge B(F(x)) (del Barrio, Gine & Matran 1999, Annals of Probability 27(2)); the integral of |B(F(x))| dx is
    simulated, with the quantiles of the draws for F.

    Args:
        draws: (draw, *shape), of the distribution, e.g. both samples together.
        sizes: effective sizes m and n, numbers or (*shape).
        prob: of staying below.

    Returns:
        (*shape), in the units of the draws.
    """
    places, bridges = _bridges()
    quantiles = np.quantile(np.asarray(draws, float).reshape(len(draws), -1), places, axis=0)
    gaps = np.diff(quantiles, axis=0)
    middle = (bridges[:, 1:] + bridges[:, :-1]) / 2
    least = np.quantile(middle @ gaps, prob, axis=0).reshape(np.shape(draws)[1:])
    return least * np.sqrt(1 / np.asarray(sizes[0], float) + 1 / np.asarray(sizes[1], float))


@lru_cache(maxsize=1)
def _bridges() -> tuple[np.ndarray, np.ndarray]:
    """Places in (0, 1), close together at both ends, and |Brownian bridges| there: (bridge, place)."""
    places = 1 / (1 + np.exp(-np.linspace(-9, 9, _PLACES)))
    sds = np.sqrt(np.diff(places, prepend=0, append=1))
    walk = np.cumsum(sds * np.random.default_rng(0).normal(size=(_BRIDGES, _PLACES + 1)), axis=1)
    return places, np.abs(walk[:, :-1] - walk[:, -1:] * places)
