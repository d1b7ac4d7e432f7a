"""Location and spread of data, which scale the weak priors of models."""

from __future__ import annotations

from typing import Any

from ppl_gen.primitives import xp


def data_scale(x: Any, num_features: int) -> tuple[Any, Any]:
    """Mean (D,) and standard deviation (D,) of x (N, D), constant columns given 1; standard ones without data."""
    if x is None:
        return xp.zeros((num_features,)), xp.ones((num_features,))
    spread = xp.std(x, axis=0)
    return xp.mean(x, axis=0), xp.where(spread > 0, spread, 1.0)
