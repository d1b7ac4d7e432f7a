"""The Langevin proposal, shared by its adjusted and unadjusted samplers."""

from __future__ import annotations

from typing import Any, NamedTuple

from ppl_gen.inference.preconditioning import times, transposed
from ppl_gen.target import Density


class State(NamedTuple):
    """Carried from step to step; chains along the leading axis.

    Attributes:
        position: (chains, dim), unconstrained.
        log_density: (chains,).
        gradient: of the log density, (chains, dim).
        step_size: scalar, or (chains, 1) in warm-up.
        scale: preconditioner S with S S^T a covariance, in a form of :mod:`preconditioning`.
    """

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any


class Info(NamedTuple):
    """Reported of each step, all (chains,)."""

    acceptance_rate: Any
    energy: Any
    energy_error: Any
    diverging: Any


def init(target: Density, position: Any, step_size: Any, scale: Any) -> State:
    """The state of chains at ``position``."""
    return State(position, *target.log_density_and_grad(position), step_size, scale)


def noise(num_chains: int, dim: int, tested: bool = True) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What randomness one step takes; the uniform numbers are for the test of what it proposes."""
    uniform: dict[str, tuple[str, tuple[int, ...]]] = {"uniform": ("uniform", (num_chains,))}
    return {"normal": ("normal", (num_chains, dim)), **(uniform if tested else {})}


def propose(xp: Any, target: Density, state: State, xi: Any) -> tuple[State, Any]:
    """x' = x + h^2/2 S S^T grad log p(x) + h S xi, and the log of its Metropolis-Hastings ratio.

    With s = h/2 S^T (g + g') and the reverse noise xi' = -(xi + s), the proposals' ratio q(x | x') / q(x' | x) is
    exp((|xi|^2 - |xi'|^2) / 2) = exp(-s . (xi + s/2)), so that S is never inverted (Roberts & Tweedie 1996; Titsias
    2023 for the preconditioned form).
    """
    h = state.step_size
    drift = transposed(state.scale, state.gradient)
    position = state.position + h * times(state.scale, xi + 0.5 * h * drift)
    log_density, gradient = target.log_density_and_grad(position)
    s = 0.5 * h * (drift + transposed(state.scale, gradient))
    log_ratio = log_density - state.log_density - xp.sum(s * (xi + 0.5 * s), axis=-1)
    log_ratio = xp.where(xp.isnan(log_ratio), -xp.inf, log_ratio)
    return State(position, log_density, gradient, h, state.scale), log_ratio


def choose(xp: Any, accept: Any, state: Any, **proposed: Any) -> Any:
    """The state with what is ``proposed``, name -> (chains,) or (chains, dim), for the chains that ``accept``."""
    held = {n: xp.where(accept if x.ndim == 1 else accept[:, None], x, getattr(state, n)) for n, x in proposed.items()}
    return state._replace(**held)


def finite(xp: Any, log_density: Any, gradient: Any) -> Any:
    """Of which chains both are numbers; a sum with something else in it is none, nor is one that overflows."""
    return xp.isfinite(log_density + xp.sum(gradient, axis=-1))


def info(xp: Any, moved: State, log_ratio: Any) -> Info:
    """What a step to ``moved`` with this log ratio reports; it diverged where the density proposed is not finite.

    A long overshoot with a finite density is a rejected proposal like any other: no trajectory has been lost.
    """
    return Info(xp.exp(xp.minimum(log_ratio, 0.0)), -moved.log_density, -log_ratio, ~xp.isfinite(log_ratio))
