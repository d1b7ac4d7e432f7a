"""Levels of pixels: mixtures of logistic distributions cut into bins, one for each level.

Salimans, Karpathy, Chen & Kingma (2017), "PixelCNN++". Levels 0 to L - 1 lie evenly on [-1, 1]; a level has what the
logistic has within half a step of it, the first also all that lies below, the last all above, so that probabilities sum
to 1.
"""

from __future__ import annotations

from typing import Any

from ppl_gen.categories import category
from ppl_gen.primitives import dist, xp

_LEAST = -7.0  # of a log scale, as in the authors' code


def discretised_logistic_mixture(logits: Any, means: Any, log_scales: Any, num_levels: int = 256) -> Any:
    """The distribution of levels 0, 1, ..., num_levels - 1, of single numbers (section 2.1, equation 2).

    Args:
        logits, means, log_scales: (..., K) for K components; means and scales in units in which levels go from -1 to 1.
            Log scales below -7 count as -7.
        num_levels: L, at least 2.

    Returns:
        a distribution of batch shape (...,).
    """

    def log_prob(x: Any) -> Any:
        of_each = log_mass((1.0 * x)[..., None], means, log_scales, num_levels)
        return xp.logsumexp(xp.log_softmax(logits, axis=-1) + of_each, axis=-1)

    def generate(e: Any) -> Any:
        chosen = drawn_component(e[..., 0], logits)
        return level_at(e[..., 1], picked(means, chosen), picked(log_scales, chosen), num_levels)

    batch = xp.broadcast_shapes(*(tuple(x.shape[:-1]) for x in (logits, means, log_scales)))
    noise = dist.Normal(0.0, 1.0).expand([*batch, 2]).to_event(1)
    return dist.FromFunctions(noise, generate, log_prob, support=levels(num_levels))


def levels(num_levels: int) -> Any:
    """The support: whole numbers from 0."""
    return dist.constraints.integer_interval(0, num_levels - 1)


def scaled(x: Any, num_levels: int) -> Any:
    """Where levels lie on [-1, 1]."""
    return 2.0 * x / (num_levels - 1) - 1.0


def log_mass(x: Any, mean: Any, log_scale: Any, num_levels: int) -> Any:
    """log P(x) of levels x under one logistic, all of a shape.

    With F the distribution function and a, b the ends of the bin, in scales from the mean,
    F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), where no digit is lost however far the mean is.
    """
    inverse = xp.exp(-xp.maximum(log_scale, _LEAST))
    half = inverse / (num_levels - 1)
    centre = (scaled(x, num_levels) - mean) * inverse
    first, last = x < 0.5, x > num_levels - 1.5
    below_end = xp.where(last, 0.0, xp.log_sigmoid(centre + half))
    above_start = xp.where(first, 0.0, xp.log_sigmoid(half - centre))
    return below_end + above_start + xp.where(xp.logical_or(first, last), 0.0, xp.log(-xp.expm1(-2.0 * half)))


def level_at(e: Any, mean: Any, log_scale: Any, num_levels: int) -> Any:
    """The level that a standard normal number makes a draw of, by the inverse distribution function."""
    y = mean + xp.exp(xp.maximum(log_scale, _LEAST)) * (xp.log_ndtr(e) - xp.log_ndtr(-e))
    return xp.clip(xp.round(0.5 * (y + 1.0) * (num_levels - 1)), 0.0, num_levels - 1.0)


def drawn_component(e: Any, logits: Any) -> Any:
    """A component (...) by standard normal numbers e (...)."""
    return category(xp, xp.softmax(logits, axis=-1), xp.ndtr(e))


def picked(of_each: Any, chosen: Any) -> Any:
    """What belongs to the component ``chosen`` (...) of (..., K)."""
    hot = chosen[..., None] == xp.arange(of_each.shape[-1])
    return xp.sum(xp.where(hot, of_each, 0.0), axis=-1)
