"""The reverse stochastic equation, dx = (f x - g^2 score) dt + g dw, time running back (Anderson 1982)."""

from __future__ import annotations

from typing import Any

from ppl_gen.diffusion.field import Field


def reverse(xp: Any, field: Field, x: Any, t: Any) -> tuple[Any, Any]:
    """Its drift at x and its diffusion g at times t (Song et al. 2021, equation 6)."""
    at = field.at(xp, t)
    squared = xp.maximum(at.diffusion, xp.zeros_like(at.diffusion))
    return at.drift * x - squared * field(xp, "score", x, t), xp.sqrt(squared)
