"""Stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ppl_gen.inference import langevin
from ppl_gen.inference.langevin import Info
from ppl_gen.inference.minibatches import MinibatchChains
from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.target import Density

_FRICTION = 0.1  # alpha: share of the velocity lost in a step (Chen, Fox & Guestrin 2014, section 4)


class State(NamedTuple):
    """As of any Langevin kernel, and the velocity (chains, dim) in whitened coordinates, a step long."""

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any
    velocity: Any


@dataclass(frozen=True, kw_only=True)
class SGHMC(MinibatchChains):
    """Hamiltonian dynamics with friction, on gradients from minibatches (Chen, Fox & Guestrin 2014).

    Options as of ``sgld``.
    """

    name: ClassVar[str] = "sghmc"

    def make_state(self, xp: Any, density: Density, position: Any, scale: Any) -> State:
        start = super().make_state(xp, density, position, scale)
        return State(**start._asdict(), velocity=0.0 * position)

    @staticmethod
    def step(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
        """v' = (1 - alpha) v + h^2 S^T g + sqrt(2 alpha) h xi, x' = x + S v' (their equation 15, beta = 0)."""
        h = state.step_size
        pushed = h * h * transposed(state.scale, state.gradient) + math.sqrt(2.0 * _FRICTION) * h * noise["normal"]
        v = (1.0 - _FRICTION) * state.velocity + pushed
        position = state.position + times(state.scale, v)
        log_density, gradient = target.log_density_and_grad(position)
        proposed = {"position": position, "log_density": log_density, "gradient": gradient, "velocity": v}
        fine, stays = langevin.finite(xp, log_density, gradient), state._replace(velocity=-state.velocity)
        moved = langevin.choose(xp, fine, stays, **proposed)
        return moved, langevin.info(xp, moved, xp.where(fine, 0.0, -xp.inf))  # type: ignore[arg-type]

    @staticmethod
    def bias_of(step_size: float, noise: float) -> float:
        """Stationary variance of the linear recursion on a Gaussian, less 1.

        With a = 1 - alpha, position and velocity follow (x, v)' = A (x, v) + e; its variance of x is
        (2 alpha h^2 + h^4 V) (1 + a) / ((1 - a) h^2 (2 (1 + a) - h^2)).
        """
        a, square = 1.0 - _FRICTION, step_size**2
        if square >= 2.0 * (1.0 + a):
            return math.inf  # it does not settle
        injected = 2.0 * _FRICTION * square + square**2 * noise
        return injected * (1.0 + a) / (_FRICTION * square * (2.0 * (1.0 + a) - square)) - 1.0

    @staticmethod
    def step_for(bias: float, noise: float) -> float:
        a = 1.0 - _FRICTION
        top, each = 2.0 * _FRICTION * (1.0 + a), noise * (1.0 + a)  # (top + each s) / (alpha (2 (1 + a) - s)) = 1 + b
        goal = (1.0 + bias) * _FRICTION
        return float(((goal * 2.0 * (1.0 + a) - top) / (each + goal)) ** 0.5)
