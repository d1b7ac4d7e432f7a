"""The distribution of what an invertible map makes of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_gen.primitives import dist, xp


def pushed(base: Any, carry: Callable[..., Any], features: int, context: Any = None) -> Any:
    """The distribution of what a bijector makes of draws of ``base``."""

    def log_prob(x: Any) -> Any:
        x = xp.broadcast_to(x, xp.broadcast_shapes(tuple(x.shape), (*base.batch_shape, features)))
        noise, log_det = carry(x, context, inverse=True)
        return base.log_prob(noise) + log_det

    def both(noise: Any) -> tuple[Any, Any]:
        x, log_det = carry(noise, context)
        return x, base.log_prob(noise) - log_det

    return dist.FromFunctions(base, lambda noise: carry(noise, context)[0], log_prob, (features,), both=both)
