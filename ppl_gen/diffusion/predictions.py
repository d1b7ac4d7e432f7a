"""What a network says of a noisy row, and how each of these is turned into any other.

All are linear in the datum x and the noise e of x_t = alpha x + sigma e: says = p x + q e, with p and q of a table. Two
such equations give x and e, and these whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_gen.diffusion.paths import Point

Weights = Callable[[Any, Point, float], tuple[Any, Any]]


def _edm(xp: Any, at: Point, sigma_data: float) -> tuple[Any, Any]:
    """The target of the raw network in Karras et al. (2022), equation 8, for x_t / alpha and sigma / alpha.

    With D = c_skip x_t / alpha + c_out F, F is to be (x - c_skip x_t / alpha) / c_out.
    """
    noise = at.sigma / at.alpha
    total = xp.sqrt(noise * noise + sigma_data**2)
    c_skip, c_out = sigma_data**2 / (total * total), noise * sigma_data / total
    return (1.0 - c_skip) / c_out, -c_skip * noise / c_out


PREDICTIONS: dict[str, Weights] = {
    "data": lambda xp, at, _: (xp.ones_like(at.alpha), xp.zeros_like(at.alpha)),
    "noise": lambda xp, at, _: (xp.zeros_like(at.alpha), xp.ones_like(at.alpha)),
    "score": lambda xp, at, _: (xp.zeros_like(at.alpha), -1.0 / at.sigma),
    "v": lambda xp, at, _: (-at.sigma, at.alpha),  # Salimans & Ho (2022), appendix D
    "velocity": lambda xp, at, _: (at.d_alpha, at.d_sigma),  # dx_t / dt of one datum and its noise
    "edm": _edm,
}


def check_prediction(name: str) -> None:
    """Raises ValueError: it is none of :data:`PREDICTIONS`."""
    if name not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {', '.join(map(repr, PREDICTIONS))}, got {name!r}")


def combined(xp: Any, at: Point, kind: str, x: Any, e: Any, sigma_data: float = 1.0) -> Any:
    """What a network of this kind is to say of the datum ``x`` with the noise ``e``; ``at`` broadcasts with both."""
    p, q = PREDICTIONS[kind](xp, at, sigma_data)
    return p * x + q * e


def converted(xp: Any, at: Point, kind: str, into: str, noisy: Any, says: Any, sigma_data: float = 1.0) -> Any:
    """What was said of ``noisy`` as one kind of prediction, as another kind."""
    if kind == into:
        return says
    by_noisy, by_says = coefficients(xp, at, kind, into, sigma_data)
    return by_noisy * noisy + by_says * says


def coefficients(xp: Any, at: Point, kind: str, into: str, sigma_data: float = 1.0) -> tuple[Any, Any]:
    """(a, b) such that the prediction ``into`` is a x_t + b says, where says is the prediction ``kind``.

    From x_t = alpha x + sigma e and says = p x + q e by Cramer's rule.
    """
    p, q = PREDICTIONS[kind](xp, at, sigma_data)
    wanted_p, wanted_q = PREDICTIONS[into](xp, at, sigma_data)
    det = at.alpha * q - at.sigma * p
    return (wanted_p * q - wanted_q * p) / det, (at.alpha * wanted_q - at.sigma * wanted_p) / det
