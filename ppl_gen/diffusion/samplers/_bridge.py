"""What lies between two times of a path, given the datum at one of its ends."""

from __future__ import annotations

from typing import Any

from ppl_gen.diffusion.paths import Point


def added(xp: Any, at: Point, to: Point) -> Any:
    """Variance of x_t given x_s, where s is before t: sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2."""
    left = at.alpha / to.alpha
    gained = at.sigma * at.sigma - left * left * to.sigma * to.sigma
    return xp.maximum(gained, xp.zeros_like(gained))


def posterior_variance(xp: Any, at: Point, to: Point) -> Any:
    """Variance of x_s given x_t and the datum (Kingma et al. 2021, equation 25; Ho et al. 2020, equation 7)."""
    return added(xp, at, to) * xp.square(to.sigma / at.sigma)


def towards(xp: Any, to: Point, datum: Any, noise: Any, variance: Any) -> Any:
    """Mean of x_s given x_t, where ``variance`` of its noise is drawn anew (Song, Meng & Ermon 2021, equation 12)."""
    kept = to.sigma * to.sigma - variance
    return to.alpha * datum + xp.sqrt(xp.maximum(kept, xp.zeros_like(kept))) * noise
