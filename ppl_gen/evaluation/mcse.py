"""Monte Carlo standard error."""

from typing import Literal

import numpy as np

from ._chains import constant, per_variable
from .ess import ess


def mcse(draws: np.ndarray, kind: Literal["mean", "sd"] = "mean") -> np.ndarray:
    """Monte Carlo standard error: how far the mean (or sd) of the draws may be from that of the posterior.

    Mean: sd / sqrt(ESS), Vehtari et al. (2021), Bayesian Analysis 16(2), section 3.2. Standard deviation: the
    variance is the mean of the squared deviations, so its error is theirs; the delta method carries it to the
    square root. ArviZ and the R package posterior compute the same.

    Args:
        draws: (chain, draw, *shape).
        kind: "mean" or "sd". The mean needs a finite variance, the sd a finite fourth moment.

    Returns:
        (*shape), in the unit of the draws. 0 where a variable is constant; nan where a draw is not finite.

    Raises:
        ValueError: unknown kind; draws not (chain, draw, ...), not real numbers, or fewer than 4 per chain.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}; choose one of these")
    return per_variable(_KINDS[kind], draws)


def _ess_mean(rows: np.ndarray) -> np.ndarray:
    return ess(np.moveaxis(rows, 0, -1), kind="mean")


def _mean(rows: np.ndarray) -> np.ndarray:
    error = rows.std(axis=(1, 2), ddof=1) / np.sqrt(_ess_mean(rows))
    return np.where(constant(rows), 0.0, error)  # the std of equal numbers may be their rounding


def _sd(rows: np.ndarray) -> np.ndarray:
    squares = np.square(rows - rows.mean(axis=(1, 2), keepdims=True))
    variance = squares.mean(axis=(1, 2))
    variance_of_variance = squares.var(axis=(1, 2)) / _ess_mean(squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(variance_of_variance / variance) / 2.0  # d sd = d variance / (2 sd)
    return np.where(constant(rows), 0.0, error)


_KINDS = {"mean": _mean, "sd": _sd}
