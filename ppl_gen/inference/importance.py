"""Importance weights of an approximation's draws: what they say of it, and draws that follow them."""

from __future__ import annotations

import math

import numpy as np

from ppl_gen.evaluation.pareto_khat import pareto_khat, pareto_smooth
from ppl_gen.inference.engine import Outcome

_KHAT, _FEWEST_WEIGHTS = 0.7, 25  # fewer have no tail to fit
_EQUAL = 2.0  # times the mean weight: where none is larger, the tail is of no account, whatever its shape


def judge(outcome: Outcome, log_weights: np.ndarray, remedy: str, what: str = "the guide") -> None:
    """Put Pareto k-hat of the importance weights, and a warning where it is high, into an outcome.

    Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling", JMLR 25(72).

    Args:
        log_weights: log p - log q of draws of the approximation (draw,).
        remedy: what to do where k-hat is high.
    """
    if log_weights.size < _FEWEST_WEIGHTS:
        return
    usable = not np.isnan(log_weights).any() and math.isfinite(log_weights.max())
    khat = float(pareto_khat(log_weights)) if usable else math.inf
    outcome.attrs["pareto_k"] = khat
    if khat > _KHAT and not (usable and _nearly_equal(log_weights)):
        outcome.warnings.append(
            f"{what} is far from the posterior: Pareto k-hat {khat:.2f}, expected below {_KHAT}; means may be off and "
            f"spreads too small. {remedy}"
        )


def _nearly_equal(log_weights: np.ndarray) -> bool:
    """Whether no weight stands out: k-hat is the shape of the tail alone, which weights all about the mean have too."""
    mean = np.exp(log_weights - log_weights.max()).mean()  # of weights over the largest
    return bool(mean * _EQUAL > 1.0)


def smoothed(log_weights: np.ndarray) -> np.ndarray:
    """Weights (draw,) that add up to one, the largest of them smoothed; too few to smooth as they are."""
    held = np.where(np.isnan(log_weights), -np.inf, log_weights)
    if held.size >= _FEWEST_WEIGHTS:
        held = pareto_smooth(held)[0]
    weights = np.exp(held - held.max())
    return weights / weights.sum()


def resample(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (count,) drawn by weight, in random order; each comes within one of ``count`` times its weight.

    Systematic resampling (Kitagawa 1996): less noise than independent draws.
    """
    marks = (rng.random() + np.arange(count)) / count
    found = np.searchsorted(np.cumsum(weights), marks * weights.sum(), side="right")
    return rng.permutation(np.minimum(found, len(weights) - 1))
