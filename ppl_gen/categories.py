"""Categories from given noise."""

from __future__ import annotations

from typing import Any


def category(xp: Any, masses: Any, u: Any) -> Any:
    """The first category (...) whose cumulative probability exceeds u (...) in [0, 1), of those that have any.

    Args:
        masses: (..., K), probabilities or what is proportional to them.
    """
    below = xp.cumsum(masses, axis=-1)
    return xp.sum(xp.astype(u[..., None] * below[..., -1:] >= below[..., :-1], xp.int64), axis=-1)
