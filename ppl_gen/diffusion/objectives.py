"""What a network is trained on: its squared error on noisy rows, or what has the same minimum, weighted over time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ppl_gen import backends
from ppl_gen.diffusion import score_objectives
from ppl_gen.diffusion.field import Field
from ppl_gen.diffusion.paths import OptimalTransport, Path, Point
from ppl_gen.diffusion.predictions import coefficients, combined, converted
from ppl_gen.diffusion.times import TIMES, check_even, check_times
from ppl_gen.nets.net import home
from ppl_gen.options import is_number, one_of

# What a squared error counts for: ``(xp, at, kind, sigma_data)``, of the network's own kind of prediction.
Weighting = Callable[[Any, Point, str, float], Any]


def _error_of(into: str) -> Weighting:
    """The squared error of one kind of prediction, whatever the network says."""

    def weight(xp: Any, at: Point, kind: str, sigma_data: float) -> Any:
        _, by_says = coefficients(xp, at, kind, into, sigma_data)
        return by_says * by_says

    return weight


def _likelihood(xp: Any, at: Point, kind: str, sigma_data: float) -> Any:
    """g^2 / 2 of the squared error of the score: the bound of Song et al. (2021b), theorem 1."""
    return 0.5 * at.diffusion * _error_of("score")(xp, at, kind, sigma_data)


WEIGHTINGS: dict[str, Weighting] = {
    "simple": lambda xp, at, kind, sigma_data: xp.ones_like(at.alpha),
    "noise": _error_of("noise"),  # Ho et al. 2020, equation 14; sigma^2 of the score's, Song & Ermon 2019, section 4.2
    "velocity": _error_of("velocity"),
    "likelihood": _likelihood,
}


@dataclass(frozen=True)
class Objective:
    """E_t w_t E |f(x_t, t) - f*(x_t, t)|^2 up to a number that no network changes, f* the best that it could say.

    A new one is a subclass with ``squares``.

    Attributes:
        weighting: "simple", the network's own error; "noise", that of the noise; "velocity"; all these the mean over
            the entries of a row. "likelihood", of the whole row and integrated over time, whose minimum bounds
            -log p(x) up to a number.
        times: "uniform"; "log_snr"; "log_normal", of ``EDM``; "logit_normal"; "ladder". Where None "log_snr" for the
            likelihood, else by what the path is.
        noises: that rows take, each like the data.
    """

    weighting: str = "simple"
    times: str | None = None

    noises: ClassVar[tuple[str, ...]] = ("noise",)

    def __post_init__(self) -> None:
        one_of("weighting", self.weighting, tuple(WEIGHTINGS))
        one_of("times", self.times, (None, *TIMES))

    def check(self, path: Path, prediction: str) -> None:
        """Raises ValueError: times that the path does not have, or that leave some out of an integral."""
        name = self._times(path)
        check_times(name, path)
        if self.weighting == "likelihood":
            check_even(name)

    def _times(self, path: Path) -> str:
        return self.times or ("log_snr" if self.weighting == "likelihood" else path.looked_at)

    def loss(self, xp: Any, field: Field, x: Any, drawn: Mapping[str, Any], u: Any) -> Any:
        """Of rows x (rows, *event) at quantiles u (rows,) of the times: (rows,).

        Args:
            drawn: :attr:`noises`, standard normal, like x.
        """
        t, slope = TIMES[self._times(field.path)](xp, field.path, u)
        squares = self.squares(xp, field, t, x, drawn)
        weight = WEIGHTINGS[self.weighting](xp, field.path.at(xp, t), field.kind, field.sigma_data)
        if self.weighting == "likelihood":
            return weight * slope * squares
        return weight * squares / math.prod(x.shape[1:])

    def squares(self, xp: Any, field: Field, t: Any, x: Any, drawn: Mapping[str, Any]) -> Any:
        """|f - f*|^2 of each row (rows,), of the network's own kind, or what is as much but for a number on average."""
        raise TypeError(f"{type(self).__name__} defines no squares")


@dataclass(frozen=True)
class Denoising(Objective):
    """The error on the datum and noise that each noisy row was made of (Vincent 2011; Ho et al. 2020).

    Of the velocity it is flow matching (Lipman et al. 2023, equation 9), of "edm" what Karras et al. (2022) train on.
    """

    def squares(self, xp: Any, field: Field, t: Any, x: Any, drawn: Mapping[str, Any]) -> Any:
        at, e = field.at(xp, t), drawn["noise"]
        error = field.says(at.alpha * x + at.sigma * e, t) - combined(xp, at, field.kind, x, e, field.sigma_data)
        return _summed(xp, error * error)


@dataclass(frozen=True)
class Bridge(Objective):
    """Flow matching on Brownian bridges from datum to noise (Tong et al. 2024, SB-CFM).

    x_t = (1 - t) x + t e + s sqrt(t (1 - t)) z, whose velocity e - x + s (1 - 2 t) / (2 sqrt(t (1 - t))) z is regressed
    onto. With e coupled to x by entropic optimal transport of strength 2 s^2, x_t are the marginals of the Schroedinger
    bridge.

    Attributes:
        scale: s.
    """

    scale: float = 0.5

    noises: ClassVar[tuple[str, ...]] = ("noise", "bridge")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.scale) and self.scale > 0):
            raise ValueError(f"the scale of bridges must be a number above 0, got {self.scale!r}")

    def check(self, path: Path, prediction: str) -> None:
        super().check(path, prediction)
        if not isinstance(path, OptimalTransport) or prediction != "velocity":
            raise ValueError(
                f"bridges lie about straight lines and have a velocity alone, got path {type(path).__name__} and "
                f"prediction {prediction!r}: expected 'ot' and 'velocity'"
            )

    def squares(self, xp: Any, field: Field, t: Any, x: Any, drawn: Mapping[str, Any]) -> Any:
        at, e, z = field.at(xp, t), drawn["noise"], drawn["bridge"]
        width = self.scale * xp.sqrt(at.alpha * at.sigma)
        widening = 0.5 * self.scale * self.scale * (at.alpha - at.sigma) / width
        error = field.says(at.alpha * x + at.sigma * e + width * z, t) - (e - x + widening * z)
        return _summed(xp, error * error)


@dataclass(frozen=True)
class Explicit(Objective):
    """The error of the score where the true one is known (Hyvarinen 2005, equation 2): Fisher's divergence.

    Attributes:
        score: ``(x, t) -> like x``, the gradient of log p_t of noisy rows x (rows, *event) at times t (rows,), in
            the words of programs.
    """

    score: Callable[[Any, Any], Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.score):
            raise ValueError(f"objective='explicit' wants the true score, (x, t) -> like x, got {self.score!r}")

    def squares(self, xp: Any, field: Field, t: Any, x: Any, drawn: Mapping[str, Any]) -> Any:
        at = field.at(xp, t)
        noisy = at.alpha * x + at.sigma * drawn["noise"]
        score = score_objectives.score_of(lambda y: self.score(y, t), noisy)  # type: ignore[misc]
        error = field.says(noisy, t) - converted(xp, at, "score", field.kind, noisy, score, field.sigma_data)
        return _summed(xp, error * error)


@dataclass(frozen=True)
class Implicit(Objective):
    """|s|^2 + 2 tr ds/dx, which on average is the error of the score s but for a number (Hyvarinen 2005, theorem 1).

    The trace is exact, at the price of as many derivatives as a row has numbers.
    """

    def squares(self, xp: Any, field: Field, t: Any, x: Any, drawn: Mapping[str, Any]) -> Any:
        at = field.at(xp, t)
        noisy = at.alpha * x + at.sigma * drawn["noise"]
        _, by_says = coefficients(xp, field.path.at(xp, t), field.kind, "score", field.sigma_data)
        return 2.0 * self._half(lambda y: field(xp, "score", y, t), noisy) / (by_says * by_says)

    def _half(self, score: Callable[[Any], Any], x: Any) -> Any:
        return score_objectives.implicit(home(backends.active().array_library).Functions, score, x)


@dataclass(frozen=True)
class Sliced(Implicit):
    """The same with v^T (ds/dx) v in the place of the trace, v of random signs (Song et al. 2019).

    That is Hutchinson's estimate, of one derivative; where nothing is drawn, the trace itself.
    """

    def _half(self, score: Callable[[Any], Any], x: Any) -> Any:
        signs = backends.signs(tuple(x.shape))
        if signs is None:
            return super()._half(score, x)
        active = backends.active()
        directions = active.xp.astype(signs, x.dtype)[None]
        return score_objectives.sliced(home(active.array_library).Functions, score, x, directions)


def _summed(xp: Any, squares: Any) -> Any:
    """Over the entries of each row."""
    return xp.sum(squares.reshape((len(squares), -1)), axis=-1)
