"""The length of trajectories that all chains share, adapted to the change of their squared distance from the mean.

Hoffman, Radul & Sountsov (2021), "An adaptive MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Adam without a first moment, as in their section 4.1.
_RATE, _DECAY, _TINY = 0.025, 0.95, 1e-12
_AVERAGED = 0.9  # of the average that the draws use


class Length(NamedTuple):
    """Logarithm of the trajectory length, scalars all."""

    log_length: Any
    log_average: Any
    square: Any  # running mean of the squared slope
    weight: Any  # what the running mean is of


def start_length(xp: Any, length: float) -> Length:
    """Adaptation that begins at ``length``."""
    zero = xp.zeros(())
    return Length(zero + float(np.log(length)), zero + float(np.log(length)), zero, zero)


def slope(xp: Any, before: Any, after: Any, velocity: Any, fraction: Any, rate: Any) -> Any:
    """The derivative of the criterion ChEES by the logarithm of the length, over the length; their equation 13.

    Args:
        before, after: where trajectories start and end, (chains, dim).
        velocity: at the end, (chains, dim).
        fraction: of the full length that these trajectories have.
        rate: probabilities of acceptance (chains,), by which chains count.
    """
    start, end = before - xp.mean(before, axis=0), after - xp.mean(after, axis=0)
    gain = xp.sum(end * end, axis=-1) - xp.sum(start * start, axis=-1)
    each = fraction * gain * xp.sum(end * velocity, axis=-1)
    fine = xp.isfinite(each) & (rate > 0)
    weight = xp.where(fine, rate, 0.0)
    return xp.sum(weight * xp.where(fine, each, 0.0)) / xp.maximum(xp.sum(weight), _TINY)


def adapt_length(xp: Any, s: Length, slope: Any, shortest: Any, longest: Any) -> Length:
    """One step of Adam up the criterion, between two bounds."""
    square = _DECAY * s.square + (1 - _DECAY) * slope * slope
    weight = _DECAY * s.weight + (1 - _DECAY)
    step = _RATE * slope / (xp.sqrt(square / weight) + _TINY)
    log_length = xp.minimum(xp.maximum(s.log_length + step, xp.log(shortest)), xp.log(longest))
    return Length(log_length, _AVERAGED * s.log_average + (1 - _AVERAGED) * log_length, square, weight)


def halton(start: int, count: int) -> np.ndarray:
    """Entries ``start`` to ``start + count`` of van der Corput's sequence in base 2: well-spread numbers in (0, 1)."""
    left, found, unit = np.arange(start + 1, start + count + 1), np.zeros(count), 0.5
    while left.any():
        found += unit * (left % 2)
        left, unit = left // 2, unit / 2
    return found
