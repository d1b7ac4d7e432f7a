"""Gaussians of rows with missing entries, each row marginalised to what was observed of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.missing import Missing
from ppl_gen.primitives import dist, xp

_VARIANCE = 0.5 / np.pi  # of a normal whose density at its mean is 1


def values(x: Any) -> Any:
    """x, or the values of x where entries are missing."""
    return x.values if isinstance(x, Missing) else x


def normal(x: Any, loc: Any, scale: Any) -> Any:
    """Independent normals (..., D) of what was observed of x (N, D)."""
    unmasked = dist.Normal(loc, scale)
    return (unmasked.mask(x.observed > 0) if isinstance(x, Missing) else unmasked).to_event(1)


def multivariate_normal(x: Any, loc: Any, scale_tril: Any) -> Any:
    """N(loc, Sigma), shapes (..., N or 1, D) and (..., N or 1, D, D), of what was observed of x (N, D)."""
    if not isinstance(x, Missing):
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)
    return observed_normal(x, loc, scale_tril @ xp.swapaxes(scale_tril, -1, -2))


def observed_normal(x: Missing, loc: Any, sigma: Any) -> Any:
    """N(loc, Sigma) of what was observed of x (N, D), shapes as for :func:`multivariate_normal`."""
    return dist.MultivariateNormal(loc * x.observed, scale_tril=observed_scale_tril(x.observed, sigma))


def low_rank_normal(x: Any, loc: Any, loadings: Any, noise: Any) -> Any:
    """N(loc, W W^T + diag(noise)), W (..., D, q), of what was observed of x (N, D)."""
    if isinstance(x, Missing):
        unseen = _VARIANCE * (1.0 - x.observed)
        loc, loadings = loc * x.observed, loadings * x.observed[:, :, None]
        noise = noise * x.observed + unseen
    return dist.LowRankMultivariateNormal(loc, loadings, noise)


def observed_scale_tril(observed: Any, sigma: Any) -> Any:
    """Cholesky factors (..., N, D, D) of Sigma (..., N or 1, D, D) without the rows and columns of what is missing.

    In their place stand those of 1 / (2 pi) times the identity: a missing entry that is put at its mean then adds
    nothing to the log density.
    """
    both = observed[:, :, None] * observed[:, None, :]
    unseen = (_VARIANCE * (1.0 - observed))[:, :, None] * xp.eye(observed.shape[1])
    return xp.linalg.cholesky(sigma * both + unseen)


def complete(x: Missing, loc: Any, sigma: Any) -> tuple[Any, Any, Any]:
    """Log densities of what was observed of each row, and the row given that (Ghahramani & Jordan 1994).

    Args:
        loc, sigma: (..., N or 1, D) and (..., N or 1, D, D).

    Returns:
        log densities (..., N); means (..., N, D), which are x where it was observed; and B (..., N, D, D), so that the
        covariance given what was observed is Sigma - B^T B.
    """
    root = observed_scale_tril(x.observed, sigma)
    off = (x.values - loc) * x.observed
    sides = xp.concatenate([off[..., None], sigma * x.observed[:, :, None]], axis=-1)
    solved = xp.linalg.solve_triangular(root, sides, lower=True)
    white, b = solved[..., 0], solved[..., 1:]
    half_log_det = xp.sum(xp.log(xp.diagonal(root, 0, -2, -1)), axis=-1)
    constant = 0.5 * loc.shape[-1] * float(np.log(2 * np.pi))
    density = -0.5 * xp.sum(white * white, axis=-1) - half_log_det - constant
    return density, loc + xp.sum(b * white[..., None], axis=-2), b
