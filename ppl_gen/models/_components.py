"""What mixtures share: responsibilities, and the order of their components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen.primitives import xp
from ppl_gen.program import DataError

_TINY = 1e-37  # above 0 in float32 too


def enough_rows(num_components: int, x: Any) -> None:
    """Every component starts from a row of its own at least."""
    if len(x) < num_components:
        raise DataError(f"{num_components} components need at least as many rows, got {len(x)}")


def log_weights(weights: Any) -> Any:
    """log pi (K,), finite at 0."""
    return xp.log(weights + _TINY)


def responsibilities(weights: Any, densities: Any, counts: Any) -> tuple[Any, Any]:
    """p(z_n = k | x_n) (K, N) and log p(x_n) (N,), each times how often the row counts; densities log p(x_n | k)."""
    joint = log_weights(weights)[:, None] + densities
    highest = xp.max(joint, axis=0)
    r = xp.exp(joint - highest)
    total = xp.sum(r, axis=0)
    r, evidence = r * (1.0 / total), highest + xp.log(total)
    return (r, evidence) if counts is None else (r * counts, evidence * counts)


def ordered(draws: Mapping[str, np.ndarray], own: tuple[str, ...], lead: int) -> dict[str, np.ndarray]:
    """Components of every draw in the order of the first coordinate of ``locs``.

    Args:
        own: names of what each component has one of.
        lead: leading axes of draws.
    """
    order = np.argsort(draws["locs"][..., 0], axis=lead, kind="stable")
    return {**draws, **{name: _take(draws[name], order, lead) for name in own if name in draws}}


def _take(x: np.ndarray, order: np.ndarray, lead: int) -> np.ndarray:
    return np.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - lead - 1)), axis=lead)
