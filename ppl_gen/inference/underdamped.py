"""Underdamped (kinetic) Langevin dynamics by splitting, with and without a Metropolis test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ppl_gen.inference import langevin
from ppl_gen.inference.chains import Chains
from ppl_gen.inference.engine import between, one_of
from ppl_gen.inference.langevin import Info
from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.target import Density


class State(NamedTuple):
    """As of any Langevin kernel, and the velocity (chains, dim) in whitened coordinates; ``friction`` a scalar.

    ``gradient`` is that of the log density at the position, times the scale: of the whitened coordinates.
    """

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any
    velocity: Any
    friction: Any


def _forget(xp: Any, state: State, time: Any, xi: Any) -> Any:
    """O: the velocity after an Ornstein-Uhlenbeck process of this length."""
    kept = xp.exp(-state.friction * time)
    return kept * state.velocity + xp.sqrt(1.0 - kept * kept) * xi


def _kinetic(xp: Any, v: Any) -> Any:
    return 0.5 * xp.sum(v * v, axis=-1)


def _moved(xp: Any, state: State, position: Any, density: tuple[Any, Any], v: Any, error: Any) -> tuple[State, Info]:
    """Take the step, where it is finite; elsewhere stay, with the velocity turned round."""
    log_density, gradient = density
    fine = langevin.finite(xp, log_density, gradient) & xp.isfinite(error)
    return _taken(xp, state, position, density, v, xp.where(fine, error, xp.inf), fine)


def _taken(
    xp: Any, state: State, position: Any, density: tuple[Any, Any], v: Any, error: Any, accept: Any
) -> tuple[State, Info]:
    proposed = {"position": position, "log_density": density[0], "gradient": density[1], "velocity": v}
    moved = langevin.choose(xp, accept, state._replace(velocity=-state.velocity), **proposed)
    return moved, Info(xp.exp(xp.minimum(-error, 0.0)), -moved.log_density, error, ~xp.isfinite(error))


def baoab(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
    """Kick, drift, forget, drift, kick (Leimkuhler & Matthews 2013): positions of a Gaussian have no bias.

    The energy error is what the kicks do not balance: the bath's share is left out.
    """
    h, s = state.step_size, state.scale
    v = state.velocity + 0.5 * h * transposed(s, state.gradient)
    first = _kinetic(xp, v) - _kinetic(xp, state.velocity)
    middle = state._replace(velocity=v)
    forgot = _forget(xp, middle, h, noise["normal"])
    position = state.position + 0.5 * h * times(s, v + forgot)
    log_density, gradient = target.log_density_and_grad(position)
    last = forgot + 0.5 * h * transposed(s, gradient)
    error = state.log_density - log_density + first + _kinetic(xp, last) - _kinetic(xp, forgot)
    return _moved(xp, state, position, (log_density, gradient), last, error)


def ubu(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
    """Half of the free motion with friction, a kick, the other half (Sanz-Serna & Zygalakis 2021, section 7).

    The free motion U is exact in law, jointly for position and velocity. The density where the step ends is evaluated
    besides the gradient in its middle, to report it. The energy error is that of the midpoint rule for the work done.
    """
    h, s = state.step_size, state.scale
    half, v = _free(xp, state, 0.5 * h, noise["normal"], noise["normal_2"])
    middle = state.position + times(s, half)
    gradient = target.log_density_and_grad(middle)[1]
    kicked = state._replace(velocity=v + h * transposed(s, gradient))
    rest, last = _free(xp, kicked, 0.5 * h, noise["normal_3"], noise["normal_4"])
    position = middle + times(s, rest)
    density = target.log_density_and_grad(position)[0], gradient
    work = xp.sum(gradient * (position - state.position), axis=-1)
    return _moved(xp, state, position, density, last, state.log_density - density[0] + work)


def _free(xp: Any, state: State, time: Any, xi: Any, other: Any) -> tuple[Any, Any]:
    """U: displacement and velocity after free motion with friction, from two normals of each (chains, dim)."""
    gamma, passed = state.friction, state.friction * time
    kept, lost = xp.exp(-passed), -xp.expm1(-passed)
    spread = xp.sqrt(-xp.expm1(-2.0 * passed))
    shared = lost * lost / (gamma * spread)  # covariance of both over the velocity's deviation
    alone = xp.sqrt(_unshared(xp, passed)) / gamma
    return lost / gamma * state.velocity + shared * xi + alone * other, kept * state.velocity + spread * xi


def _unshared(xp: Any, a: Any) -> Any:
    """Variance of the displacement given the velocity, times the friction squared, after time ``a`` over the friction.

    2 (a - 2 tanh(a / 2)), whose terms cancel where a is small: there by its series.
    """
    square = a * a
    series = a * square * (1.0 / 6.0 - square * (1.0 / 60.0 - square * (17.0 / 10080.0 - square * (31.0 / 181440.0))))
    return xp.where(a < 0.1, series, 2.0 * (a - 2.0 * xp.tanh(0.5 * a)))


def obabo(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
    """Half of the forgetting, one leapfrog step accepted or turned round, the other half (Horowitz 1991).

    Exact: forgetting keeps the Gaussian of the velocity, and the step in between is a reversible proposal.
    """
    h, s = state.step_size, state.scale
    state = state._replace(velocity=_forget(xp, state, 0.5 * h, noise["normal"]))
    v = state.velocity + 0.5 * h * transposed(s, state.gradient)
    position = state.position + h * times(s, v)
    density = target.log_density_and_grad(position)
    v = v + 0.5 * h * transposed(s, density[1])
    error = state.log_density - density[0] + _kinetic(xp, v) - _kinetic(xp, state.velocity)
    error = xp.where(xp.isnan(error), xp.inf, error)
    accept = xp.log(noise["uniform"]) < -error
    moved, info = _taken(xp, state, position, density, v, error, accept)
    return moved._replace(velocity=_forget(xp, moved, 0.5 * h, noise["normal_2"])), info


_SCHEMES: dict[str, Callable[..., Any]] = {"baoab": baoab, "ubu": ubu, "obabo": obabo}


@dataclass(frozen=True, kw_only=True)
class Underdamped(Chains):
    """Underdamped Langevin dynamics: a velocity that friction slowly forgets, one gradient a step.

    ``baoab`` and ``ubu`` take every step and are biased by its size, at the second order or better; ``obabo`` has a
    Metropolis test and is exact. The step size is adapted so that such a test accepts ``target_accept_prob``.

    Attributes:
        scheme: "obabo", exact; "baoab" or "ubu", without a test.
        friction: per unit of time, in which one is a standard deviation's time at velocity 1.
        num_warmup, num_samples: steps per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        target_accept_prob: that dual averaging steers the step size to; near 1, for a rejection turns chains round.
        preconditioner: "diagonal", "dense" or "low_rank", from the pooled warm-up draws and their gradients;
            "identity" for none.
        step_size: fixes the step size and turns its adaptation off.
        init, start: where chains start, as of every sampler.
    """

    name: ClassVar[str] = "underdamped"
    needs: ClassVar[str] = "continuous latents"
    unbiased: ClassVar[str] = "scheme='obabo'"

    scheme: str = "obabo"
    friction: float = 1.0
    target_accept_prob: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "scheme", tuple(_SCHEMES))
        between(self, 0, math.inf, "friction")

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return self.scheme == "obabo"

    def kernel(self) -> Callable[..., Any]:
        return _SCHEMES[self.scheme]

    def key(self) -> tuple[Any, ...]:
        return (self.scheme, self.friction)

    def spec(self, dim: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Normals: one of BAOAB, two of OBABO, four of UBU."""
        count = {"baoab": 1, "obabo": 2, "ubu": 4}[self.scheme]
        more = {f"normal_{i}": ("normal", (self.num_chains, dim)) for i in range(2, count + 1)}
        return {**super().spec(dim), **more}

    def make_state(self, xp: Any, density: Density, position: Any, scale: Any) -> State:
        """Chains begin at rest."""
        start = super().make_state(xp, density, position, scale)
        return State(**start._asdict(), velocity=0.0 * position, friction=xp.zeros(()) + self.friction)
