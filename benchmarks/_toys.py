"""Known densities of the plane that generative models are tried on: draws, and the exact log density.

``TOYS[name].draw(n, rng)`` gives (n, 2), ``TOYS[name].log_density(x)`` (n,) in nats.

* ``moons``: two half circles of radius 1 with noise of 0.1; the density is a mixture of Gaussians over the angle.
* ``gaussians``: eight on a circle of radius 2, standard deviation 0.2.
* ``wide_gaussians``: as torchcfm has them, on a circle of radius 5; it passes sqrt(0.1) as the variance, so that the
  standard deviation is 0.1^(1/4) = 0.562.
* ``checkerboard``: eight of the sixteen squares of side 1 around 0.
* ``swiss_roll``: (t cos t, t sin t) / 5 for t uniform in (1.5 pi, 4.5 pi), as scikit-learn's seen from the side, with
  noise of 0.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

_BLOCK = 5000
_NOISE = 0.1


class Toy(NamedTuple):
    """A density; ``side``: it lies within (-side, side)^2 but for tails."""

    title: str
    side: float
    draw: Callable[[int, np.random.Generator], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]


def _mixture(x: np.ndarray, centres: np.ndarray, weights: np.ndarray, deviation: float) -> np.ndarray:
    """Log density of round Gaussians."""
    found = []
    for rows in np.array_split(x, max(1, len(x) // _BLOCK)):
        found.append(logsumexp(cdist(rows, centres, "sqeuclidean") / (-2.0 * deviation**2), axis=1, b=weights))
    return np.concatenate(found) - np.log(2.0 * np.pi * deviation**2)


def _arcs(angle: np.ndarray) -> np.ndarray:
    """Points of the two half circles, (2, angles, 2); the second is the first turned by half a turn."""
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], axis=-1)
    return np.stack([upper, -upper])


def _spiral(share: np.ndarray) -> np.ndarray:
    """Points of the roll at these shares of its angle, (shares, 2)."""
    t = 1.5 * np.pi * (1.0 + 2.0 * share)
    return np.stack([t * np.cos(t), t * np.sin(t)], axis=-1) / 5.0


def _on_curve(curve: Callable[[np.ndarray], np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and weights of Gauss and Legendre for shares in (0, 1), so many that the noise does not see them."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    centres = curve(0.5 * (nodes + 1.0)).reshape(-1, 2)
    return centres, np.tile(0.5 * weights, len(centres) // count) * count / len(centres)


_MOONS = _on_curve(lambda share: _arcs(np.pi * share), 256)
_ROLL = _on_curve(_spiral, 768)


def _draw_moons(n: int, rng: np.random.Generator) -> np.ndarray:
    points = _arcs(np.pi * rng.random(n))[rng.integers(2, size=n), np.arange(n)]
    return points + _NOISE * rng.standard_normal((n, 2))


def _draw_roll(n: int, rng: np.random.Generator) -> np.ndarray:
    return _spiral(rng.random(n)) + _NOISE * rng.standard_normal((n, 2))


def eight_gaussians(radius: float, deviation: float, side: float) -> Toy:
    """Eight round Gaussians of equal weight on a circle."""
    angles = np.arange(8) * np.pi / 4.0
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)

    def draw(n: int, rng: np.random.Generator) -> np.ndarray:
        return centres[rng.integers(8, size=n)] + deviation * rng.standard_normal((n, 2))

    return Toy("eight Gaussians", side, draw, lambda x: _mixture(x, centres, np.full(8, 0.125), deviation))


def _draw_squares(n: int, rng: np.random.Generator) -> np.ndarray:
    square = rng.integers(8, size=n)
    row, column = square // 2, 2 * (square % 2) + square // 2 % 2
    return np.stack([column, row], axis=-1) - 2.0 + rng.random((n, 2))


def _log_squares(x: np.ndarray) -> np.ndarray:
    cell = np.floor(x + 2.0).astype(int)
    inside = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
    return np.where(inside, -np.log(8.0), -np.inf)


TOYS = {
    "moons": Toy("two moons", 3.0, _draw_moons, lambda x: _mixture(x, *_MOONS, _NOISE)),
    "gaussians": eight_gaussians(2.0, 0.2, 3.0),
    "wide_gaussians": eight_gaussians(5.0, 0.1**0.25, 8.0),
    "checkerboard": Toy("a checkerboard", 3.0, _draw_squares, _log_squares),
    "swiss_roll": Toy("a Swiss roll", 3.5, _draw_roll, lambda x: _mixture(x, *_ROLL, _NOISE)),
}
