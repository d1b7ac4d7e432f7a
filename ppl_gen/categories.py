"""Categories from given noise, and from distributions made sharper."""

from __future__ import annotations

from typing import Any


def category(xp: Any, masses: Any, u: Any) -> Any:
    """The first category (...) whose cumulative probability exceeds u (...) in [0, 1), of those that have any.

    Args:
        masses: (..., K), probabilities or what is proportional to them.
    """
    below = xp.cumsum(masses, axis=-1)
    return xp.sum(xp.astype(u[..., None] * below[..., -1:] >= below[..., :-1], int), axis=-1)


def sharpened(xp: Any, logits: Any, temperature: Any, top_k: int | None) -> Any:
    """Probabilities (..., K) of logits / temperature, of the ``top_k`` largest alone (Fan, Lewis & Dauphin 2018)."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = xp.sort(logits, axis=-1)[..., -top_k, None]
        logits = xp.where(logits < least, -xp.inf, logits)
    return xp.softmax(logits / temperature, axis=-1)
