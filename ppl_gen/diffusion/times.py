"""When rows are looked at while a network is trained: quantiles to times of a path, and how densely these lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_gen.diffusion.paths import EDM, Ladder, Path

_EDGE = 1e-6  # of quantiles

# ``(xp, path, u)``, u in (0, 1) evenly spread over a batch, to times t and dt / du, which is None where it has no bound
Times = Callable[[Any, Path, Any], tuple[Any, Any]]


def _uniform(xp: Any, path: Path, u: Any) -> tuple[Any, Any]:
    low, high = _ends(path)
    return low + (high - low) * u, xp.zeros_like(u) + (high - low)


def _log_snr(xp: Any, path: Path, u: Any) -> tuple[Any, Any]:
    """Uniform in the logarithm of the signal-to-noise ratio (Kingma et al. 2021).

    So that every time counts the same in the likelihood: the importance sampling of Song et al. (2021b).
    """
    low, high = (math.log(path.ratio(t)) for t in _ends(path))
    t = path.time_of(xp.exp(low + (high - low) * u), xp)
    at = path.at(xp, t)
    return t, (high - low) * 2.0 * at.sigma * at.sigma / at.diffusion


def _log_normal(xp: Any, path: Path, u: Any) -> tuple[Any, Any]:
    """log sigma ~ N(-1.2, 1.2^2) (Karras et al. 2022, table 1); of ``EDM``, whose time is sigma."""
    sigma = xp.exp(-1.2 + 1.2 * _normal(xp, u))
    return xp.clip(sigma, path.start, path.end), None


def _logit_normal(xp: Any, path: Path, u: Any) -> tuple[Any, Any]:
    """Times about the middle of the path (Esser et al. 2024, equation 19 at m = 0, s = 1)."""
    return _uniform(xp, path, xp.sigmoid(_normal(xp, u)))[0], None


def _ladder(xp: Any, path: Any, u: Any) -> tuple[Any, Any]:
    """The noise levels of a ``Ladder``, each as often as any other."""
    rung = xp.clip(xp.floor(u * path.num_scales), 0.0, path.num_scales - 1.0)
    return path.start + (path.end - path.start) * rung / (path.num_scales - 1.0), None


TIMES: dict[str, Times] = {
    "uniform": _uniform,
    "log_snr": _log_snr,
    "log_normal": _log_normal,
    "logit_normal": _logit_normal,
    "ladder": _ladder,
}
_ONLY_OF: dict[str, type[Path]] = {"log_normal": EDM, "ladder": Ladder}


def check_times(name: str, path: Path) -> None:
    """Raises ValueError: times that this path does not have."""
    wanted = _ONLY_OF.get(name)
    if wanted is not None and not isinstance(path, wanted):
        raise ValueError(f"times={name!r} is of the path {wanted.__name__}, got {type(path).__name__}: use 'uniform'")


def check_even(name: str) -> None:
    """Raises ValueError: times that do not lie evenly enough for an integral over all of them."""
    if name not in ("uniform", "log_snr"):
        raise ValueError(
            f"weighting='likelihood' is an integral over all times, and times={name!r} leave some out: use 'log_snr' "
            "or 'uniform'"
        )


def _ends(path: Path) -> tuple[float, float]:
    low, high = path.inside(np.asarray([path.start, path.end]))
    return float(low), float(high)


def _normal(xp: Any, u: Any) -> Any:
    return xp.ndtri(xp.clip(u, _EDGE, 1.0 - _EDGE))
