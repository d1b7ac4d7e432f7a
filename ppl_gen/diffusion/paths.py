"""Paths from data to noise: x_t = alpha_t x + sigma_t e with e ~ N(0, I), x_0 near the data and x_end near the noise.

Each is a table of two functions of time and their slopes, from which everything else follows: the drift and diffusion
of the stochastic differential equation (Song et al. 2021), the velocity of the ordinary one, the signal-to-noise ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.options import count, is_number, not_below


class Point(NamedTuple):
    """A path at times t, each of their shape: x_t = alpha x + sigma e, and the slopes of both in t."""

    alpha: Any
    sigma: Any
    d_alpha: Any
    d_sigma: Any

    @property
    def drift(self) -> Any:
        """f of dx = f x dt + g dw: d log alpha / dt."""
        return self.d_alpha / self.alpha

    @property
    def diffusion(self) -> Any:
        """g^2 = d sigma^2 / dt - 2 f sigma^2 (Kingma et al. 2021, equation 9)."""
        return 2.0 * self.sigma * (self.d_sigma - self.drift * self.sigma)


@dataclass(frozen=True)
class Path:
    """A path; ``at`` takes array functions, NumPy's too, and times from ``start`` to ``end`` of any shape.

    Attributes:
        singular: whether no signal is left at the end, so that drift and diffusion have no bound there. Where they are
            asked for, times keep ``margin`` of the span away from there, and from the start, where the score has none.
        looked_at: the times that networks are trained at, see :mod:`ppl_gen.diffusion.times`.
    """

    start: ClassVar[float] = 0.0
    end: ClassVar[float] = 1.0
    singular: ClassVar[bool] = False
    margin: ClassVar[float] = 1e-3
    name: ClassVar[str] = ""
    looked_at: ClassVar[str] = "uniform"

    def at(self, xp: Any, t: Any) -> Point:
        """alpha, sigma and their slopes."""
        raise TypeError(f"{type(self).__name__} defines no path")

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        """Times at which sigma / alpha is ``ratio``."""
        raise TypeError(f"{type(self).__name__} defines no times")

    def clock(self, xp: Any, t: Any) -> Any:
        """What a network is told of the time, about from 0 to 1 or so."""
        return t

    def ratio(self, t: Any) -> Any:
        """sigma / alpha at times t, on the host."""
        at = self.at(np, np.asarray(t, float))
        with np.errstate(divide="ignore"):
            return at.sigma / at.alpha

    def inside(self, t: np.ndarray) -> np.ndarray:
        """Times away from where drift, diffusion and score have no bound."""
        gap = self.margin * (self.end - self.start)
        return np.clip(t, self.start + gap, self.end - gap if self.singular else self.end)


@dataclass(frozen=True)
class _FromBetas(Path):
    """alpha_t^2 = exp(-B_t) with B_t = beta_min t + (beta_max - beta_min) t^2 / 2."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _increasing("beta_min", self.beta_min, "beta_max", self.beta_max)

    def _betas(self, t: Any) -> tuple[Any, Any]:
        """beta and its integral."""
        rise = self.beta_max - self.beta_min
        return self.beta_min + rise * t, self.beta_min * t + 0.5 * rise * t * t

    def _time_of_integral(self, xp: Any, integral: Any) -> Any:
        rise = self.beta_max - self.beta_min
        return 2.0 * integral / (self.beta_min + xp.sqrt(self.beta_min**2 + 2.0 * rise * integral))


@dataclass(frozen=True)
class VP(_FromBetas):
    """Variance preserving, beta linear in time (Ho et al. 2020; Song et al. 2021, equation 32)."""

    name: ClassVar[str] = "vp"

    def at(self, xp: Any, t: Any) -> Point:
        beta, integral = self._betas(t)
        alpha, sigma = xp.exp(-0.5 * integral), xp.sqrt(-xp.expm1(-integral))
        return Point(alpha, sigma, -0.5 * beta * alpha, 0.5 * beta * alpha * alpha / _above_zero(xp, sigma))

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        return self._time_of_integral(xp, xp.log1p(xp.square(ratio)))


@dataclass(frozen=True)
class SubVP(_FromBetas):
    """alpha as of ``VP``, sigma = 1 - alpha^2, never more than that of ``VP`` (Song et al. 2021, equation 34)."""

    name: ClassVar[str] = "sub_vp"

    def at(self, xp: Any, t: Any) -> Point:
        beta, integral = self._betas(t)
        alpha = xp.exp(-0.5 * integral)
        return Point(alpha, -xp.expm1(-integral), -0.5 * beta * alpha, beta * alpha * alpha)

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        return self._time_of_integral(xp, 2.0 * xp.arcsinh(0.5 * ratio))  # alpha^2 + ratio alpha = 1


@dataclass(frozen=True)
class Cosine(Path):
    """Variance preserving with alpha = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)) (Nichol & Dhariwal 2021).

    It ends a little before t = 1, where no signal would be left; the paper bounds its betas for that reason.
    """

    s: float = 0.008

    name: ClassVar[str] = "cosine"
    end: ClassVar[float] = 0.995

    def __post_init__(self) -> None:
        not_below("s", self.s, 0)

    def at(self, xp: Any, t: Any) -> Point:
        rate, first = 0.5 * math.pi / (1.0 + self.s), math.cos(0.5 * math.pi * self.s / (1.0 + self.s))
        alpha, d_alpha = xp.cos(rate * (t + self.s)) / first, -rate * xp.sin(rate * (t + self.s)) / first
        sigma = xp.sqrt(xp.sin(rate * t) * xp.sin(rate * (t + 2.0 * self.s))) / first  # 1 - alpha^2, no cancellation
        return Point(alpha, sigma, d_alpha, -alpha * d_alpha / _above_zero(xp, sigma))

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        rate = 0.5 * math.pi / (1.0 + self.s)
        sine, cosine = math.sin(rate * self.s), math.cos(rate * self.s)
        return xp.arctan(xp.sqrt(xp.square(ratio) + sine * sine) / cosine) / rate - self.s


@dataclass(frozen=True)
class Trigonometric(Path):
    """Variance-preserving interpolant: alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Albergo & Vanden-Eijnden 2023)."""

    name: ClassVar[str] = "trigonometric"
    singular: ClassVar[bool] = True

    def at(self, xp: Any, t: Any) -> Point:
        rate = 0.5 * math.pi
        alpha, sigma = xp.cos(rate * t), xp.sin(rate * t)
        return Point(alpha, sigma, -rate * sigma, rate * alpha)

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        return xp.arctan(ratio) / (0.5 * math.pi)


@dataclass(frozen=True)
class OptimalTransport(Path):
    """Straight lines, alpha = 1 - t, sigma = t: flow matching's conditional optimal transport, rectified flow.

    Lipman et al. (2023), equation 20 with sigma_min = 0; Liu, Gong & Liu (2023). Time runs from data to noise here,
    against theirs.
    """

    name: ClassVar[str] = "ot"
    singular: ClassVar[bool] = True

    def at(self, xp: Any, t: Any) -> Point:
        return Point(1.0 - t, t, xp.zeros_like(t) - 1.0, xp.zeros_like(t) + 1.0)

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        return ratio / (1.0 + ratio)


@dataclass(frozen=True)
class _Exploding(Path):
    """alpha = 1."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _increasing("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def clock(self, xp: Any, t: Any) -> Any:
        return 0.25 * xp.log(self.at(xp, t).sigma)


@dataclass(frozen=True)
class VE(_Exploding):
    """Variance exploding: sigma = sigma_min (sigma_max / sigma_min)^t (Song & Ermon 2019; Song et al. 2021)."""

    name: ClassVar[str] = "ve"
    margin: ClassVar[float] = 0.0

    def at(self, xp: Any, t: Any) -> Point:
        rate = math.log(self.sigma_max / self.sigma_min)
        sigma = self.sigma_min * xp.exp(rate * t)
        return Point(xp.zeros_like(t) + 1.0, sigma, xp.zeros_like(t), rate * sigma)

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        return xp.log(ratio / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Ladder(VE):
    """``VE``, trained at ``num_scales`` noise levels alone, a geometric sequence (Song & Ermon 2019)."""

    sigma_max: float = 10.0
    num_scales: int = 20

    looked_at: ClassVar[str] = "ladder"

    def __post_init__(self) -> None:
        super().__post_init__()
        count("num_scales", self.num_scales, least=2)


@dataclass(frozen=True)
class EDM(_Exploding):
    """sigma = t, from ``sigma_min`` to ``sigma_max`` (Karras et al. 2022)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    name: ClassVar[str] = "edm"
    margin: ClassVar[float] = 0.0
    looked_at: ClassVar[str] = "log_normal"

    @property
    def start(self) -> float:  # type: ignore[override]
        return self.sigma_min

    @property
    def end(self) -> float:  # type: ignore[override]
        return self.sigma_max

    def at(self, xp: Any, t: Any) -> Point:
        return Point(xp.zeros_like(t) + 1.0, t, xp.zeros_like(t), xp.zeros_like(t) + 1.0)

    def time_of(self, ratio: Any, xp: Any = np) -> Any:
        return ratio


PATHS: dict[str, type[Path]] = {p.name: p for p in (VP, SubVP, Cosine, Trigonometric, OptimalTransport, VE, EDM)}


def path_of(given: str | Path) -> Path:
    """The path of a name, at its defaults, or the path itself.

    Raises:
        ValueError: an unknown name. TypeError: something that is no path.
    """
    if isinstance(given, Path):
        return given
    if not isinstance(given, str):
        raise TypeError(f"path must be a name or a path of ppl_gen.diffusion, got {type(given).__name__}")
    if given not in PATHS:
        raise ValueError(f"unknown path {given!r}: expected one of {', '.join(map(repr, PATHS))}, or a path itself")
    return PATHS[given]()


def _above_zero(xp: Any, sigma: Any) -> Any:
    """Where there is no noise its slope has no bound: finite, for what is multiplied by it."""
    return xp.maximum(sigma, xp.zeros_like(sigma) + 1e-12)


def _increasing(first: str, low: Any, second: str, high: Any) -> None:
    if not (is_number(low) and is_number(high) and 0 < low < high):
        raise ValueError(f"expected 0 < {first} < {second}, got {low!r} and {high!r}")
