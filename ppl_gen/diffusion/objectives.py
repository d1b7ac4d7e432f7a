"""What a network is trained on: regression onto the noise that was put on each row, weighted over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_gen.diffusion.paths import EDM, Path, Point
from ppl_gen.diffusion.predictions import coefficients
from ppl_gen.options import one_of

_EDGE = 1e-6  # of quantiles

# When rows are looked at: ``(xp, path, u)``, u in (0, 1) evenly spread over a batch, to times.
Times = Callable[[Any, Path, Any], Any]
# What a squared error counts for: ``(xp, path, at, kind, sigma_data)``, of the network's own kind of prediction.
Weighting = Callable[[Any, Point, str, float], Any]


def _uniform(xp: Any, path: Path, u: Any) -> Any:
    low, high = path.inside(np.asarray([path.start, path.end]))
    return float(low) + (float(high) - float(low)) * u


def _log_normal(xp: Any, path: Path, u: Any) -> Any:
    """log sigma ~ N(-1.2, 1.2^2) (Karras et al. 2022, table 1); of paths whose time is sigma."""
    sigma = xp.exp(-1.2 + 1.2 * xp.ndtri(xp.clip(u, _EDGE, 1.0 - _EDGE)))
    return xp.clip(sigma, path.start, path.end)


def _logit_normal(xp: Any, path: Path, u: Any) -> Any:
    """Times about the middle of the path (Esser et al. 2024, equation 19 at m = 0, s = 1)."""
    return _uniform(xp, path, xp.sigmoid(xp.ndtri(xp.clip(u, _EDGE, 1.0 - _EDGE))))


TIMES: dict[str, Times] = {"uniform": _uniform, "log_normal": _log_normal, "logit_normal": _logit_normal}


def _likelihood(xp: Any, at: Point, kind: str, sigma_data: float) -> Any:
    """g^2 / 2 of the squared error of the score: the bound of Song et al. (2021b), theorem 1."""
    _, by_says = coefficients(xp, at, kind, "score", sigma_data)
    return 0.5 * at.diffusion * by_says * by_says


def _noise(xp: Any, at: Point, kind: str, sigma_data: float) -> Any:
    """The squared error of the noise, whatever the network says (Ho et al. 2020, equation 14)."""
    _, by_says = coefficients(xp, at, kind, "noise", sigma_data)
    return by_says * by_says


WEIGHTINGS: dict[str, Weighting] = {
    "simple": lambda xp, at, kind, sigma_data: xp.ones_like(at.alpha),
    "noise": _noise,
    "likelihood": _likelihood,
}


@dataclass(frozen=True)
class Denoising:
    """E_t E_(x, e) w_t |f(x_t, t) - target|^2, the mean over the entries of a row (Vincent 2011; Ho et al. 2020).

    Attributes:
        weighting: "simple", the network's own error; "noise", that of the noise; "likelihood", whose minimum bounds
            -log p(x), of the whole row.
        times: "uniform"; "log_normal", of ``EDM``; "logit_normal". By what the path is where None.
    """

    weighting: str = "simple"
    times: str | None = None

    def __post_init__(self) -> None:
        one_of("weighting", self.weighting, tuple(WEIGHTINGS))
        one_of("times", self.times, (None, *TIMES))

    def at(self, xp: Any, path: Path, u: Any) -> Any:
        """Times of quantiles u."""
        name = self.times or ("log_normal" if isinstance(path, EDM) else "uniform")
        return TIMES[name](xp, path, u)

    def weight(self, xp: Any, at: Point, kind: str, sigma_data: float) -> Any:
        return WEIGHTINGS[self.weighting](xp, at, kind, sigma_data)
