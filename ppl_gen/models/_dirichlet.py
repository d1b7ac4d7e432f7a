"""Dirichlet distributions of variational Bayes, on the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.primitives import xp

_TINY = 1e-300


def expected_log(concentration: Any) -> Any:
    """E log p under p ~ Dirichlet(concentration); same shape."""
    return xp.digamma(concentration) - xp.digamma(xp.sum(concentration, axis=-1, keepdims=True))


def divergences(concentration: Any, prior: Any) -> Any:
    """KL(Dirichlet(concentration) || Dirichlet(prior)) over the last axis; ``prior`` broadcasts."""
    prior = prior + xp.zeros_like(concentration)
    gain = xp.sum((concentration - prior) * expected_log(concentration), axis=-1)
    return gain + _log_norm(concentration) - _log_norm(prior)


def divergence(concentration: Any, prior: Any) -> Any:
    """The sum of these."""
    return xp.sum(divergences(concentration, prior))


def _log_norm(concentration: Any) -> Any:
    return xp.gammaln(xp.sum(concentration, axis=-1)) - xp.sum(xp.gammaln(concentration), axis=-1)


def draws(concentration: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` draws (count, ...), on the host; in logarithms, since draws at small concentrations underflow."""
    shape = (count, *concentration.shape)
    log_gamma = np.log(rng.gamma(concentration + 1.0, size=shape) + _TINY)  # Gamma(a) is Gamma(a + 1) U^(1 / a)
    log_gamma += np.log1p(-rng.random(shape)) / concentration
    weights = np.exp(log_gamma - log_gamma.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def mean(concentration: np.ndarray) -> np.ndarray:
    """E p."""
    return concentration / concentration.sum(-1, keepdims=True)
