"""Microcanonical Langevin Monte Carlo without a Metropolis test."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from ppl_gen.inference import langevin
from ppl_gen.inference.chains import Chains
from ppl_gen.inference.engine import between
from ppl_gen.inference.langevin import Info
from ppl_gen.inference.mclmc import require_directions, turn, unit
from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.target import Density, Target

_GOAL = 0.5  # of 1 / (1 + variance / wanted), which is this where they are equal


class State(NamedTuple):
    """As of any Langevin kernel, and the direction, (chains, dim) on the sphere; ``length`` in which it is lost."""

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any
    direction: Any
    length: Any


@dataclass(frozen=True, kw_only=True)
class UMCLMC(Chains):
    """Unadjusted microcanonical Langevin: one path that slowly forgets its direction (Robnik & Seljak 2024).

    One gradient a step, each taken, so that draws are biased by the step size; it is steered to a given variance of the
    energy error, which bounds the bias. A direction is lost along sqrt(dim) standard deviations (their section 4).

    Attributes:
        num_warmup, num_samples: steps per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        energy_variance: of the energy error of a step, over the dimension.
        preconditioner: "diagonal", "dense" or "low_rank", from the pooled warm-up draws and their gradients;
            "identity" for none; "auto" for dense in up to 100 dimensions and diagonal in more.
        step_size: fixes the step size and turns its adaptation off.
        init, start: where chains start, as of every sampler.
    """

    name: ClassVar[str] = "umclmc"
    needs: ClassVar[str] = "two or more continuous latents"
    exact: ClassVar[bool] = False
    unbiased: ClassVar[str] = "engine='mclmc'"

    num_chains: int = 16
    energy_variance: float = 5e-4
    target_accept_prob: float = field(init=False, repr=False, default=0.5)  # no option: nothing is accepted

    def __post_init__(self) -> None:
        super().__post_init__()
        between(self, 0, math.inf, "energy_variance")

    def key(self) -> tuple[Any, ...]:
        return (self.energy_variance,)

    def check(self, target: Target) -> None:
        super().check(target)
        require_directions(target, self.name)

    def make_state(self, xp: Any, density: Density, position: Any, scale: Any) -> State:
        """Each chain begins along the gradient; it is forgotten within warm-up."""
        start = super().make_state(xp, density, position, scale)
        drift = start.gradient + 1e-6 * (1.0 + 0.0 * position)
        return State(**start._asdict(), direction=unit(xp, drift), length=xp.zeros(()) + math.sqrt(position.shape[-1]))

    @staticmethod
    def step(xp: Any, target: Density, state: State, noise: Any) -> tuple[State, Info]:
        """Half a turn, a step along, half a turn, and a little of the direction lost."""
        h, dim = state.step_size, state.position.shape[-1]
        u, first = turn(xp, state.direction, transposed(state.scale, state.gradient), 0.5 * h)
        position = state.position + h * times(state.scale, u)
        log_density, gradient = target.log_density_and_grad(position)
        u, second = turn(xp, u, transposed(state.scale, gradient), 0.5 * h)
        u = unit(xp, u + xp.sqrt(xp.expm1(2.0 * h / state.length) / dim) * noise["normal"])
        error = state.log_density - log_density + first + second
        fine, stays = langevin.finite(xp, error, gradient), state._replace(direction=unit(xp, noise["normal"]))
        error = xp.where(fine, error, xp.inf)
        proposed = {"position": position, "log_density": log_density, "gradient": gradient, "direction": u}
        moved = langevin.choose(xp, fine, stays, **proposed)
        return moved, Info(xp.exp(xp.minimum(-error, 0.0)), -moved.log_density, error, ~fine)

    def step_shape(self) -> tuple[int, ...]:
        """One step size for all chains."""
        return ()

    def shown(self, xp: Any, state: State, info: Info) -> Any:
        """1 / (1 + variance of the energy error over the wanted one)."""
        variance = xp.mean(info.energy_error**2) / state.position.shape[-1]
        return 1.0 / (1.0 + variance / self.energy_variance)

    def goal(self) -> float:
        return _GOAL
