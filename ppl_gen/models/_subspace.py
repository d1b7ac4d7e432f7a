"""Starts of linear dynamics: states are principal scores of lagged observations, and regressions give the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Dynamics(NamedTuple):
    """A linear-Gaussian state-space model; names as in :class:`ppl_gen.kalman.System`."""

    initial_loc: np.ndarray
    initial_covariance: np.ndarray
    transition: np.ndarray
    transition_covariance: np.ndarray
    emission: np.ndarray
    offset: np.ndarray
    variances: np.ndarray


def subspace(x: np.ndarray, num_states: int, rng: np.random.Generator, leading: bool) -> Dynamics:
    """States from a window of as many lags as it takes to see them all, and one more.

    After Doretto, Chiuso, Wu & Soatto (2003), Dynamic textures, section 3.2, where the window is one observation long.

    Args:
        x: (N, T, D) without gaps.
        leading: states are the leading components; else random combinations of twice as many.
    """
    _, num_steps, d = x.shape
    offset, spread = x.mean((0, 1)), x.std((0, 1))
    varies = spread > 1e-7 * np.abs(offset)
    spread = np.where(varies, spread, spread[varies].mean() if varies.any() else 1.0)
    y = (x - offset) / spread
    num_lags = min(num_steps, -(-num_states // d) + 1)
    z = _scores(_lagged(y, num_lags), num_states, rng, leading)
    now = y[:, num_lags - 1 :]
    transition, shocks = _regression(z[:, :-1].reshape(-1, num_states), z[:, 1:].reshape(-1, num_states))
    emission, rest = _regression(z.reshape(-1, num_states), now.reshape(-1, d))
    covariance = shocks.T @ shocks / max(len(shocks), 1) + 0.05 * np.eye(num_states)
    first = z[:, 0] - z[:, 0].mean(0)
    return Dynamics(
        initial_loc=z[:, 0].mean(0),
        initial_covariance=first.T @ first / len(z) + covariance,
        transition=transition,
        transition_covariance=covariance,
        emission=spread[:, None] * emission,
        offset=offset,
        variances=spread**2 * (np.mean(rest**2, axis=0) + 0.05),
    )


def _lagged(y: np.ndarray, num_lags: int) -> np.ndarray:
    """(N, T, D) -> (N, T - num_lags + 1, num_lags D): each observation beside those before it."""
    count = y.shape[1] - num_lags + 1
    return np.concatenate([y[:, lag : lag + count] for lag in range(num_lags)], axis=-1)


def _scores(h: np.ndarray, num_states: int, rng: np.random.Generator, leading: bool) -> np.ndarray:
    """Scores with standard deviation 1; noise stands in for components that the data do not have."""
    flat = h.reshape(-1, h.shape[-1])
    vectors = np.linalg.eigh(flat.T @ flat)[1][:, ::-1]
    if not leading:
        vectors = vectors[:, : 2 * num_states]
        vectors = vectors @ rng.standard_normal((vectors.shape[1], num_states))
    z = rng.standard_normal((len(flat), num_states))
    scores = flat @ vectors[:, :num_states]
    scale = np.sqrt(np.mean(scores**2, axis=0))
    there = np.flatnonzero(scale > 1e-7)
    z[:, there] = scores[:, there] / scale[there]
    return z.reshape(*h.shape[:-1], num_states)


def _regression(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (outputs, inputs) of a ridge regression, and residuals."""
    gram = inputs.T @ inputs + 1e-3 * (len(inputs) + 1) * np.eye(inputs.shape[1])
    coefficients = np.linalg.solve(gram, inputs.T @ outputs).T
    return coefficients, outputs - inputs @ coefficients.T
