"""Answers that the demo holds its engines to, and the densities that it draws; NumPy and SciPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]


def eight_schools_posterior(
    y: np.ndarray, sigma: np.ndarray, num_draws: int = 8000, seed: int = 0
) -> tuple[dict[str, np.ndarray], float]:
    """Independent exact draws of the eight schools' posterior, name -> (1, draw, ...), and the log evidence.

    Given tau everything is Gaussian: y_j ~ N(mu, tau^2 + sigma_j^2), mu ~ N(0, 5^2). What remains is one integral over
    tau ~ HalfCauchy(5), done on a fine grid of tau = 5 tan(a), on which the prior is uniform.
    """
    rng = np.random.default_rng(seed)
    angle = (np.arange(200_000) + 0.5) / 200_000 * np.pi / 2
    tau = 5.0 * np.tan(angle)
    precision = 1.0 / (tau[:, None] ** 2 + sigma**2)
    total = precision.sum(1) + 1 / 25
    centre = (precision * y).sum(1) / total
    log_det = np.log(precision).sum(1) - np.log(total) - np.log(25.0)
    quadratic = (precision * y**2).sum(1) - total * centre**2
    log_weight = 0.5 * (log_det - quadratic - len(y) * np.log(2 * np.pi))
    top = log_weight.max()
    weight = np.exp(log_weight - top)
    evidence = float(top + np.log(weight.mean()))
    pick = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(num_draws))
    t, mu = tau[pick], centre[pick] + rng.standard_normal(num_draws) / np.sqrt(total[pick])
    shrink = t[:, None] ** 2 / (t[:, None] ** 2 + sigma**2)
    spread = np.sqrt(shrink) * sigma
    theta = shrink * y + (1 - shrink) * mu[:, None] + spread * rng.standard_normal((num_draws, len(y)))
    return {"mu": mu[None], "tau": t[None], "theta": theta[None]}, evidence


def mixture_parts(draws: Arrays, columns: Sequence[int], most: int = 80) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Weighted components of a fitted mixture: points (m, d) -> densities (m,), averaged over draws.

    Args:
        draws: ``weights``, ``locs``, ``scales`` and, where the data have several columns, ``correlation``, each
            (chain, draw, ...), of a full covariance.
        columns: which columns of the data; the others are integrated out.
        most: at most so many draws, evenly spread.
    """
    flat = {n: _some(x.reshape(-1, *x.shape[2:]), most) for n, x in draws.items()}
    sigma = _covariances(flat)[..., columns, :][..., columns]
    locs = flat["locs"][..., columns]
    num_components = locs.shape[1]
    return [_part(flat["weights"][:, k], locs[:, k], sigma[:, k]) for k in range(num_components)]


def mixture_density(parts: Sequence[Callable[[np.ndarray], np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """The sum of the weighted components."""
    return lambda points: np.sum([part(points) for part in parts], axis=0)


def _some(x: np.ndarray, most: int) -> np.ndarray:
    return x[np.linspace(0, len(x) - 1, min(most, len(x))).astype(int)]


def _covariances(flat: Arrays) -> np.ndarray:
    """(draw, component, column, column)."""
    scales = flat["scales"]
    root = scales[..., None] * (flat["correlation"] if "correlation" in flat else np.eye(scales.shape[-1]))
    return root @ np.swapaxes(root, -1, -2)


def _part(weights: np.ndarray, locs: np.ndarray, sigma: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    inverse = np.linalg.inv(np.linalg.cholesky(sigma))
    height = weights * np.prod(np.diagonal(inverse, 0, -2, -1), -1) / (2 * np.pi) ** (locs.shape[-1] / 2)

    def density(points: np.ndarray) -> np.ndarray:
        total = np.zeros(len(points))
        for h, m, w in zip(height, locs, inverse, strict=True):
            total += h * np.exp(-0.5 * (((points - m) @ w.T) ** 2).sum(1))
        return total / len(height)

    return density
