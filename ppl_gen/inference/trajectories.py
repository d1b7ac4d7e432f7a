"""What samplers share whose transition is a path of several steps: the loop, and the adapted length of paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.inference import langevin, preconditioning, trajectory
from ppl_gen.inference.chains import Chains, Learned
from ppl_gen.inference.engine import positive
from ppl_gen.inference.preconditioning import whitened
from ppl_gen.inference.trajectory import Length
from ppl_gen.target import Density, Target

# In standard deviations, before and once they are known: then where the criterion is highest for a standard normal and
# lengths jittered evenly, half the first positive root of tan x = x.
_FIRST_LENGTH, _NEXT_LENGTH = 1.0, 2.2467
_DENSE_STEPS = 8  # of a path in coordinates that a matrix has made round
_DIVERGED = 1000.0  # energy error
_LEAST_RATE = 0.1  # of a chain in the harmonic mean, or one that is stuck would set the step of all


class State(NamedTuple):
    """Carried from transition to transition; chains along the leading axis, one step size and length for all.

    Attributes:
        position, gradient: (chains, dim); ``log_density`` (chains,).
        step_size, length: scalars, in coordinates in which ``scale`` is the identity.
        scale: preconditioner S with S S^T a covariance, in a form of :mod:`preconditioning`.
    """

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any
    length: Any


class Path(NamedTuple):
    """A trajectory under way, of all chains.

    Attributes:
        start, now: where it started and where it is.
        momentum: or direction, (chains, dim); ``kinetic`` what it has gained in kinetic energy so far (chains,).
        n_steps: in all.
    """

    start: State
    now: State
    momentum: Any
    kinetic: Any
    n_steps: Any


class Info(NamedTuple):
    """Reported of each transition, all (chains,) but the number of steps."""

    acceptance_rate: Any
    energy: Any
    energy_error: Any
    diverging: Any
    n_steps: Any


def begin(xp: Any, state: State, momentum: Any, jitter: Any, most: int) -> tuple[Path, Any]:
    """A path with this momentum, of as many steps as the jittered length takes."""
    count = xp.ceil(jitter * state.length / state.step_size)
    count = xp.astype(xp.minimum(xp.maximum(count, 1.0), float(most)), xp.int32)
    return Path(state, state, momentum, xp.zeros(state.log_density.shape), count), count


def end(xp: Any, path: Path, kinetic: Any, uniform: Any) -> tuple[State, Info]:
    """Accept where log u < minus the energy error; ``kinetic`` (chains,) is that at the start."""
    before, after = path.start, path.now
    error = before.log_density - after.log_density + path.kinetic
    error = xp.where(xp.isnan(error), xp.inf, error)
    accept = xp.log(uniform) < -error
    position, log_density, gradient = after[:3]
    moved = langevin.choose(xp, accept, before, position=position, log_density=log_density, gradient=gradient)
    rate = xp.exp(xp.minimum(-error, 0.0))
    return moved, Info(rate, kinetic - before.log_density, error, error > _DIVERGED, path.n_steps)


def gradient_flops(target: Target, num_chains: int) -> float:
    """Floating-point operations of a gradient of so many chains, about; ten for each number where none are counted."""
    start = target.backend.xp.zeros((num_chains, target.layout.dim))
    counted = target.backend.flops(target.batched_density(), start, target.arrays)
    return max(counted, 10.0 * num_chains * target.layout.dim)


@dataclass(frozen=True, kw_only=True)
class Trajectories(Chains):
    """A sampler of many chains whose transitions are paths of equally many steps; subclasses say of which.

    Step size and length are shared by all chains and learned from all of them; the length of each transition is drawn
    anew, evenly up to a greatest one, which climbs the criterion ChEES (Hoffman, Radul & Sountsov 2021).
    """

    num_warmup: int = 150
    num_samples: int = 500
    num_chains: int = 64
    thinning: int = 1
    target_accept_prob: float = 0.8
    max_steps: int = 1000
    preconditioner: str = "auto"
    start: str = "pathfinder"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "max_steps")
        if self.num_chains < 2:
            raise ValueError(f"{self.name} learns from the spread of its chains: num_chains must be at least 2")

    # The path -------------------------------------------------------------------------------------------------

    @staticmethod
    def begin(xp: Any, state: State, noise: Any, most: int) -> tuple[Path, Any]:
        raise TypeError("a sampler of paths defines begin(xp, state, noise, most) -> (path, number of steps)")

    @staticmethod
    def leap(xp: Any, density: Density, path: Path) -> Path:
        raise TypeError("a sampler of paths defines leap(xp, density, path) -> path")

    @staticmethod
    def end(xp: Any, path: Path, noise: Any) -> tuple[State, Info]:
        raise TypeError("a sampler of paths defines end(xp, path, noise) -> (state, info)")

    def make_state(self, xp: Any, density: Any, position: Any, scale: Any) -> State:
        """The state of chains at ``position`` (chains, dim)."""
        start = super().make_state(xp, density, position, scale)
        return State(**start._asdict(), length=xp.zeros(()) + _FIRST_LENGTH * self.unit_time(position.shape[-1]))

    def noise(self, target: Target, seed: int, start: int, count: int, phase: str) -> dict[str, Any]:
        """Momenta, uniforms and lengths of ``count`` transitions."""
        drawn = super().noise(target, seed, start, count, phase)
        return {**drawn, "jitter": target.backend.asarray(trajectory.halton(start, count))}

    def scan(self, target: Target, before: Callable[[Any], Any], after: Callable[..., Any], calls: int) -> Any:
        """As of any kernel; the path at its end is what :meth:`adapt_own` sees."""
        xp, most = target.backend.xp, self.max_steps

        def start(carry: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            path, count = self.begin(xp, before(carry), noise, most)
            return (path, carry), count

        def repeat(both: Any, arrays: Any) -> Any:
            return self.leap(xp, target.density(arrays), both[0]), both[1]

        def finish(both: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            path, carry = both
            state, info = self.end(xp, path, noise)
            return after(carry, path, state, info, noise)

        return target.backend.scan_loops(start, repeat, finish, calls=calls)

    def key(self) -> tuple[Any, ...]:
        return (self.max_steps,)

    def attrs(self, target: Target, state: State) -> dict[str, Any]:
        return {"trajectory_length": float(target.backend.to_numpy(state.length))}

    # Warm-up --------------------------------------------------------------------------------------------------

    def laborious(self, target: Target, state: State, positions: np.ndarray) -> bool:
        """By the steps of a path that is long enough for the widest direction, and by what each costs."""
        scale, step_size = target.backend.to_numpy((state.scale, state.step_size))
        width = preconditioning.widest(positions.reshape(-1, target.layout.dim) / scale)
        steps = 0.5 * _NEXT_LENGTH * width / step_size
        gradient = gradient_flops(target, self.num_chains)
        products = 6.0 * self.num_chains * target.layout.dim**2  # three in a step
        return bool(steps * gradient > _DENSE_STEPS * (gradient + products))

    def unit_time(self, dim: int) -> float:
        """How long a coordinate takes to move by its standard deviation."""
        return 1.0

    def step_shape(self) -> tuple[int, ...]:
        """One step size for all chains."""
        return ()

    def shown(self, xp: Any, state: Any, info: Info) -> Any:
        """The harmonic mean over chains, which heeds those that accept little."""
        return 1.0 / xp.mean(1.0 / xp.maximum(info.acceptance_rate, _LEAST_RATE))

    def own(self, xp: Any, dim: int, rescaled: bool) -> Length:
        return trajectory.start_length(xp, self.unit_time(dim) * (_NEXT_LENGTH if rescaled else _FIRST_LENGTH))

    def adapt_own(self, xp: Any, own: Length, seen: Path, state: State, info: Info, noise: Any) -> Length:
        """The length, a step up the criterion."""
        before, after = (whitened(xp, state.scale, s.position) for s in (seen.start, seen.now))
        up = trajectory.slope(xp, before, after, seen.momentum, noise["jitter"], info.acceptance_rate)
        return trajectory.adapt_length(xp, own, up, state.step_size, float(self.max_steps) * state.step_size)

    def use(self, xp: Any, state: State, learned: Learned) -> State:
        return super().use(xp, state, learned)._replace(length=xp.exp(learned.own.log_length))

    def settle(self, xp: Any, state: State, learned: Learned) -> State:
        return super().settle(xp, state, learned)._replace(length=xp.exp(learned.own.log_average))
