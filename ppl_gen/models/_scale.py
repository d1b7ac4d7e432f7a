"""Location and spread of data, which scale the weak priors of models."""

from __future__ import annotations

from typing import Any

from ppl_gen.missing import Missing
from ppl_gen.primitives import xp


def data_scale(x: Any, num_features: int) -> tuple[Any, Any]:
    """Mean (D,) and standard deviation (D,) of x (N, D), constant columns given 1; standard ones without data.

    Of x with missing entries, those of what was observed.
    """
    if x is None:
        return xp.zeros((num_features,)), xp.ones((num_features,))
    mean, spread = _observed(x) if isinstance(x, Missing) else (xp.mean(x, axis=0), xp.std(x, axis=0))
    return mean, xp.where(spread > 0, spread, 1.0)


def _observed(x: Missing) -> tuple[Any, Any]:
    number = xp.maximum(xp.sum(x.observed, axis=0), 1.0)
    mean = xp.sum(x.values, axis=0) / number
    return mean, xp.sqrt(xp.sum(x.observed * (x.values - mean) ** 2, axis=0) / number)
