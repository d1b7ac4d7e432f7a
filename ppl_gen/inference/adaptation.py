"""Warm-up: dual-averaged step size and a preconditioner from pooled draws; every kernel composes with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Constants of Hoffman & Gelman (2014), section 3.2.
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
_FIRST_WINDOW, _START_FRACTION, _END_FRACTION = 25, 0.1, 0.1


class StepSize(NamedTuple):
    """Dual averaging of log step size; all of one shape (Hoffman & Gelman 2014, algorithm 5)."""

    log_step: Any
    log_average: Any
    error: Any
    count: Any
    centre: Any


class Moments(NamedTuple):
    """Running moments of draws pooled over chains (Welford): mean (dim,), m2 (dim,) or (dim, dim)."""

    count: Any
    mean: Any
    m2: Any


class Adaptation(NamedTuple):
    """What is learned in warm-up."""

    step_size: StepSize
    moments: Moments


def start_step_size(xp: Any, step_size: float, shape: tuple[int, ...] = ()) -> StepSize:
    """Dual averaging that begins at ``step_size``; one for each entry of ``shape``."""
    zero, log_step = xp.zeros(shape), xp.log(xp.zeros(shape) + step_size)
    return StepSize(log_step, log_step, zero, zero, log_step)


def start_moments(xp: Any, dim: int, dense: bool) -> Moments:
    """Moments of no draws."""
    return Moments(xp.zeros(()), xp.zeros((dim,)), xp.zeros((dim, dim) if dense else (dim,)))


def adapt_step_size(xp: Any, s: StepSize, acceptance: Any, target: float) -> StepSize:
    """One update by the mean acceptance probability of a step."""
    count = s.count + 1.0
    weight = 1.0 / (count + _T0)
    error = (1.0 - weight) * s.error + weight * (target - acceptance)
    log_step = s.centre - xp.sqrt(count) / _GAMMA * error
    eta = count**-_KAPPA
    return StepSize(log_step, eta * log_step + (1.0 - eta) * s.log_average, error, count, s.centre)


def add_draws(xp: Any, m: Moments, draws: Any) -> Moments:
    """Moments with one more draw (chains, dim) of every chain (Chan, Golub & LeVeque 1979)."""
    more = draws.shape[0]
    mean = xp.mean(draws, axis=0)
    delta, count = mean - m.mean, m.count + more
    inner = draws - mean
    if m.m2.ndim == 2:
        spread = inner.T @ inner + xp.outer(delta, delta) * (m.count * more / count)
    else:
        spread = xp.sum(inner * inner, axis=0) + delta * delta * (m.count * more / count)
    return Moments(count, m.mean + delta * (more / count), m.m2 + spread)


def preconditioner(moments: Moments) -> np.ndarray:
    """Standard deviations (dim,) or Cholesky factor (dim, dim) of the pooled draws, on the host.

    Shrunk towards a small multiple of the identity, as Stan does.
    """
    count, m2 = float(moments.count), np.asarray(moments.m2, dtype=float)
    weight = count / (count + 5.0)
    covariance = weight * m2 / max(count - 1.0, 1.0)
    if m2.ndim == 2:
        return np.linalg.cholesky(covariance + 1e-3 * (1 - weight) * np.eye(len(m2)))
    return np.sqrt(covariance + 1e-3 * (1 - weight))


def fisher_preconditioner(draws: Moments, gradients: Moments) -> np.ndarray:
    """Standard deviations (dim,) or Cholesky factor (dim, dim) from draws and the gradients there, on the host.

    Of all covariances S, that of least Fisher divergence between the target and a Gaussian: the geometric mean of the
    draws' covariance and of the inverse of the gradients' (Seyboldt, Carlson & Carpenter 2025, "Preconditioning
    Hamiltonian Monte Carlo by minimizing Fisher divergence"). On a Gaussian target that is exact for draws that are
    spread anyhow, those of chains that have not come far included.
    """
    spread, slope = (_covariance(m) for m in (draws, gradients))
    if spread.ndim == 1:
        return (spread / slope) ** 0.25
    values, vectors = np.linalg.eigh(slope)
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    values, vectors = np.linalg.eigh(root @ spread @ root)
    middle = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return np.linalg.cholesky(inverse @ middle @ inverse)


def _covariance(m: Moments) -> np.ndarray:
    """Of pooled draws, variances or a matrix; shrunk a little towards its diagonal, and away from zero."""
    count, m2 = float(m.count), np.asarray(m.m2, dtype=float)
    covariance = m2 / max(count - 1.0, 1.0)
    tiny = np.finfo(float).tiny ** 0.5
    if m2.ndim == 1:
        return np.maximum(covariance, tiny)
    own = np.maximum(np.diag(covariance), tiny)
    shrunk = min(0.5, 1e-12 + 0.1 * (len(own) / count) ** 3)  # of nearly as many draws as dimensions it must be much
    return (1.0 - shrunk) * covariance + np.diag(shrunk * own)


def windows(num_warmup: int) -> list[tuple[int, bool]]:
    """Warm-up in windows of (length, learns the preconditioner); lengths are multiples of 25 where they can be.

    A first one to find the typical set, doubling ones that learn, a last one for the step size (Stan reference
    manual, section 15.2).
    """
    if num_warmup < 4 * _FIRST_WINDOW:
        return [(num_warmup, False)] if num_warmup else []
    unit = _FIRST_WINDOW
    first = max(unit, int(num_warmup * _START_FRACTION) // unit * unit)
    last = max(unit, int(num_warmup * _END_FRACTION) // unit * unit) + num_warmup % unit
    left, size, slow = num_warmup - first - last, unit, []
    while left:
        size_now = left if left < 3 * size else size
        slow.append((size_now, True))
        left, size = left - size_now, 2 * size
    return [(first, False), *slow, (last, False)]
