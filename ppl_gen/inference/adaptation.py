"""Warm-up: dual-averaged step size, pooled moments of draws, windows; every kernel composes with it."""

from __future__ import annotations

from typing import Any, NamedTuple

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


def windows(num_warmup: int, *, trial: bool = False) -> list[tuple[int, bool]]:
    """Warm-up in windows of (length, learns the preconditioner); lengths are multiples of 25 where they can be.

    A first one to find the typical set, doubling ones that learn, a last one for the step size (Stan reference
    manual, section 15.2).

    Args:
        trial: with a second short one, in which to see how far what the first has taught will do.
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
        trial, left, size = False, left - size_now, size if trial else 2 * size
    return [(first, False), *slow, (last, False)]
