"""How much EM has yet to gain, told from noisy iterations: Aitken's extrapolation of steps seen by fresh draws."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

_WINDOW = 5
_SLOWEST, _FASTEST, _USUAL = 0.99, 0.5, 0.9
_TIMES = 3


class Left(NamedTuple):
    """What is left to gain, in nats: as estimated, and at most with the certainty asked for."""

    estimate: float
    bound: float


class GainLeft:
    """What is left to gain in the log likelihood, from the slope of Q along the last step at draws made after it.

    Draws that a step was not fitted to see what is systematic in it and no noise: where EM contracts at a rate r, the
    slope S(u_t) . (u_t - u_{t-1}) falls by r^2 from one iteration to the next, and r / (2 - 2 r) times it is left to
    gain (Aitken's extrapolation; Boehning et al. 1994). The rate is that between the averages of two windows of five
    iterations, as long as both stand out of their error; a rate once found is kept where steps are no more than noise.

    Args:
        num_chains: independent estimates of a slope, whose spread is its error.
        certainty: of a bound, by Student's t.
    """

    def __init__(self, num_chains: int, certainty: float):
        self.quantile = float(stdtrit(num_chains - 1, certainty))
        self._slopes: list[float] = []
        self._errors: list[float] = []
        self._rate = _USUAL
        self._small = 0

    def add(self, slopes: np.ndarray) -> bool:
        """Take in the slopes of one step (num_chains,); whether they stand out of their error."""
        slope, error = self.moments(slopes)
        self._slopes.append(slope)
        self._errors.append(error)
        return slope - self.quantile * error > 0

    def moments(self, x: np.ndarray) -> tuple[float, float]:
        """Mean over chains and its standard error."""
        return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x)))

    def _window(self, start: int, stop: int | None) -> tuple[float, float]:
        slopes, errors = np.array(self._slopes[start:stop]), np.array(self._errors[start:stop])
        return float(slopes.mean()), float(np.sqrt((errors**2).sum()) / len(errors))

    def left(self) -> Left:
        """NaN before there were two windows."""
        if len(self._slopes) < 2 * _WINDOW:
            return Left(math.nan, math.nan)
        (first, its_error), (slope, error) = self._window(-2 * _WINDOW, -_WINDOW), self._window(-_WINDOW, None)
        if first > self.quantile * its_error and slope > self.quantile * error:
            self._rate = min(max((slope / first) ** (0.5 / _WINDOW), _FASTEST), _SLOWEST)
        times = 0.5 * self._rate / (1.0 - self._rate)
        return Left(times * max(slope, 0.0), times * (max(slope, 0.0) + self.quantile * error))

    def settled(self, tolerance: float) -> bool:
        """Whether the bound was below ``tolerance`` three times in a row; called once an iteration."""
        self._small = self._small + 1 if self.left().bound < tolerance else 0
        return self._small >= _TIMES

    def invisible(self) -> bool:
        """Whether the last steps together do not stand out of their error."""
        if len(self._slopes) < 2 * _WINDOW:
            return False
        slope, error = self._window(-_WINDOW, None)
        return slope < self.quantile * error
