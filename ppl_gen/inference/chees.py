"""Hamiltonian Monte Carlo of many chains, whose trajectories all have one adapted, jittered length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.inference import adaptation, langevin, trajectory
from ppl_gen.inference.adaptation import Moments, StepSize
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, one_of, positive
from ppl_gen.inference.sampler import Sampler
from ppl_gen.inference.starts import starts
from ppl_gen.inference.trajectory import Length
from ppl_gen.target import Density, Target

_WARMUP_CHUNK, _CHUNK = 25, 100
_START_STEP, _START_LENGTH = 0.1, math.pi / 2  # in units of standard deviations: a quarter of a Gaussian's period
_DIVERGED = 1000.0  # energy error
_LEAST_RATE = 0.1  # of a chain in the harmonic mean, or one that is stuck would set the step of all


class State(NamedTuple):
    """Carried from transition to transition; chains along the leading axis, one step size and length for all.

    Attributes:
        position, gradient: (chains, dim); ``log_density`` (chains,).
        step_size, length: scalars, in coordinates in which ``scale`` is the identity.
        scale: preconditioner S with S S^T a covariance: (dim,) of a diagonal, or (dim, dim) lower triangular.
    """

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    length: Any
    scale: Any


class Path(NamedTuple):
    """A trajectory under way, of all chains: where it started, where it is, and its momentum (chains, dim)."""

    start: State
    now: State
    momentum: Any
    first_momentum: Any
    num_steps: Any


class Info(NamedTuple):
    """Reported of each transition, all (chains,) but the number of steps."""

    acceptance_rate: Any
    energy: Any
    energy_error: Any
    diverging: Any
    num_steps: Any


def begin(xp: Any, state: State, noise: Mapping[str, Any], most: int) -> tuple[Path, Any]:
    """A new momentum; as many steps as the jittered length takes."""
    count = xp.ceil(noise["jitter"] * state.length / state.step_size)
    count = xp.astype(xp.minimum(xp.maximum(count, 1.0), float(most)), xp.int64)
    return Path(state, state, noise["normal"], noise["normal"], count), count


def leapfrog(xp: Any, target: Density, path: Path) -> Path:
    """One step of the leapfrog scheme in whitened coordinates (Neal 2011, equations 5.18 to 5.20)."""
    now, h = path.now, path.now.step_size
    half = path.momentum + 0.5 * h * langevin.transposed(now.scale, now.gradient)
    position = now.position + h * langevin.times(now.scale, half)
    log_density, gradient = target.log_density_and_grad(position)
    momentum = half + 0.5 * h * langevin.transposed(now.scale, gradient)
    moved = now._replace(position=position, log_density=log_density, gradient=gradient)
    return path._replace(now=moved, momentum=momentum)


def end(xp: Any, path: Path, noise: Mapping[str, Any]) -> tuple[State, Info]:
    """Accept where log u < minus the energy error."""
    before, after = path.start, path.now
    kinetic = 0.5 * xp.sum(path.first_momentum**2, axis=-1), 0.5 * xp.sum(path.momentum**2, axis=-1)
    energy = kinetic[0] - before.log_density
    error = kinetic[1] - after.log_density - energy
    error = xp.where(xp.isnan(error), xp.inf, error)
    accept = xp.log(noise["uniform"]) < -error
    moved = before._replace(
        position=xp.where(accept[:, None], after.position, before.position),
        log_density=xp.where(accept, after.log_density, before.log_density),
        gradient=xp.where(accept[:, None], after.gradient, before.gradient),
    )
    rate = xp.exp(xp.minimum(-error, 0.0))
    return moved, Info(rate, energy, error, error > _DIVERGED, path.num_steps)


class _Learned(NamedTuple):
    step_size: StepSize
    length: Length
    draws: Moments
    gradients: Moments


@dataclass(frozen=True, kw_only=True)
class ChEES(Sampler):
    """Hamiltonian Monte Carlo of many chains, all trajectories of one adapted length (Hoffman, Radul & Sountsov 2021).

    All chains take the same number of leapfrog steps, so that they run side by side without waiting for each other,
    where the trees of NUTS differ. The length is drawn anew for each transition, evenly up to a greatest one, which
    climbs the expected change of the squared distance from the mean; step size, length and preconditioner are learned
    from all chains together. Exact; made for tens to thousands of chains.

    Attributes:
        num_warmup, num_samples: transitions per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        target_accept_prob: harmonic mean over chains that dual averaging steers the step size to.
        preconditioner: "diagonal" or "dense", from the pooled warm-up draws and their gradients; "identity" for none.
        max_steps: leapfrog steps of a transition at most.
        init: site -> starting value, constrained.
    """

    name: ClassVar[str] = "chees"
    needs: ClassVar[str] = "continuous latents"

    num_warmup: int = 500
    num_samples: int = 500
    num_chains: int = 64
    preconditioner: str = "diagonal"
    max_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "max_steps")
        one_of(self, "preconditioner", ("diagonal", "dense", "identity"))
        if self.num_chains < 2:
            raise ValueError("chees learns from the spread of its chains: num_chains must be at least 2")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        position = starts(target, self.num_chains, seed, self.init)
        state = self._warm_up(target, driver, seed, self.init_state(target, position))
        advance = self._drawing(target)

        def chunk(state: Any, start: int, count: int) -> tuple[Any, Any]:
            return advance(state, self._noise(target, seed, start, count, "draws"), target.arrays)

        state, report, _ = driver.run(
            chunk, state, self.num_samples, label=self.name, chunk=_CHUNK, thinning=self.thinning, describe=_describe
        )
        stats = {name: np.swapaxes(x, 0, 1) for name, x in report.items()}
        length = float(target.backend.to_numpy(state.length))
        return Outcome(positions=stats.pop("position"), stats=stats, attrs={"trajectory_length": length})

    def init_state(self, target: Target, position: Any) -> State:
        """The state of chains that start at ``position`` (chains, dim), unit scale."""
        backend, dim = target.backend, target.layout.dim
        xp, dense = backend.xp, self.preconditioner == "dense"

        def build(position: Any, arrays: Any) -> State:
            scale, one = xp.eye(dim) if dense else xp.ones((dim,)), xp.zeros(())
            density = target.density(arrays).log_density_and_grad(position)
            return State(position, *density, one + _START_STEP, one + _START_STEP, scale)

        made = target.compiled(("chees", "init", dense), lambda: backend.compile(build))
        return made(position, target.arrays)

    def _noise(self, target: Target, seed: int, start: int, count: int, phase: str) -> dict[str, Any]:
        """Its own stream for warm-up and draws."""
        spec = langevin.noise(self.num_chains, target.layout.dim)
        drawn = target.backend.noise(2 * seed + (phase == "draws"), start, spec, count)
        return {**drawn, "jitter": target.backend.asarray(trajectory.halton(start, count))}

    def _drawing(self, target: Target) -> Any:
        """Compiled ``(state, noise, arrays) -> (state, report)``; noise has a leading axis of transitions."""
        xp = target.backend.xp

        def finish(path: Path, noise: Any, arrays: Any) -> tuple[State, dict[str, Any]]:
            state, info = end(xp, path, noise)
            return state, _reported(xp, state, info)

        def build() -> Any:
            return target.backend.scan_loops(self._begin(xp), _repeat(xp, target), finish, calls=self.num_samples)

        return target.compiled(("chees", "advance", self.max_steps), build)

    def _begin(self, xp: Any) -> Any:
        most = self.max_steps
        return lambda state, noise, arrays: begin(xp, state, noise, most)

    # Warm-up --------------------------------------------------------------------------------------------------

    def _warm_up(self, target: Target, driver: Driver, seed: int, state: State) -> State:
        """In windows, as Stan's; after each that learns the preconditioner, step size and length begin anew."""
        xp, done = target.backend.xp, 0
        learned, advance = self._untaught(target, _START_STEP, 1.0), self._warming(target)
        for window, learns in adaptation.windows(self.num_warmup):

            def chunk(both: Any, start: int, count: int, done: int = done) -> tuple[Any, Any]:
                return advance(both, self._noise(target, seed, done + start, count, "warm-up"), target.arrays)

            both, _, _ = driver.run(
                chunk, (state, learned), window, label=f"{self.name} warm-up", chunk=_WARMUP_CHUNK, keep=False,
                describe=_describe,
            )  # fmt: skip
            (state, learned), done = both, done + window
            if learns:
                state, learned = self._rescaled(target, state, learned)
        step_size, length = xp.exp(learned.step_size.log_average), xp.exp(learned.length.log_average)
        return state._replace(step_size=step_size, length=length) if self.num_warmup else state

    def _rescaled(self, target: Target, state: State, learned: _Learned) -> tuple[State, _Learned]:
        backend = target.backend
        if self.preconditioner == "identity":
            return state, learned
        held = (Moments(*backend.to_numpy(tuple(m))) for m in (learned.draws, learned.gradients))
        state = state._replace(scale=backend.asarray(adaptation.fisher_preconditioner(*held)))
        return state, self._untaught(target, 0.5, _START_LENGTH)

    def _untaught(self, target: Target, step_size: float, length: float) -> _Learned:
        """Adaptation that has seen no draws."""
        xp = target.backend.xp
        none = adaptation.start_moments(xp, target.layout.dim, self.preconditioner == "dense")
        return _Learned(
            adaptation.start_step_size(xp, step_size), trajectory.start_length(xp, length), none, none
        )

    def _warming(self, target: Target) -> Any:
        xp, goal, most = target.backend.xp, self.target_accept_prob, float(self.max_steps)

        def start(both: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            state, learned = both
            h, length = xp.exp(learned.step_size.log_step), xp.exp(learned.length.log_length)
            path, count = begin(xp, state._replace(step_size=h, length=length), noise, self.max_steps)
            return (path, learned), count

        def repeat(both: Any, arrays: Any) -> Any:
            return leapfrog(xp, target.density(arrays), both[0]), both[1]

        def finish(both: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            path, learned = both
            state, info = end(xp, path, noise)
            rate, before, after = info.acceptance_rate, path.start, path.now
            mean = 1.0 / xp.mean(1.0 / xp.maximum(rate, _LEAST_RATE))
            step_size = adaptation.adapt_step_size(xp, learned.step_size, mean, goal)
            old, new = (_whitened(xp, x.position, state.scale) for x in (before, after))
            up = trajectory.slope(xp, old, new, path.momentum, noise["jitter"], rate)
            length = trajectory.adapt_length(xp, learned.length, up, state.step_size, most * state.step_size)
            draws = adaptation.add_draws(xp, learned.draws, state.position)
            gradients = adaptation.add_draws(xp, learned.gradients, state.gradient)
            return (state, _Learned(step_size, length, draws, gradients)), _reported(xp, state, info)

        key = ("chees", "warming", goal, self.preconditioner, self.max_steps)
        return target.compiled(key, lambda: target.backend.scan_loops(start, repeat, finish, calls=self.num_warmup))


def _repeat(xp: Any, target: Target) -> Any:
    return lambda path, arrays: leapfrog(xp, target.density(arrays), path)


def _whitened(xp: Any, x: Any, scale: Any) -> Any:
    """S^-1 x for each row of x."""
    return xp.linalg.solve_triangular(scale, x.T, lower=True).T if scale.ndim == 2 else x / scale


def _reported(xp: Any, state: State, info: Info) -> dict[str, Any]:
    each = xp.zeros(state.log_density.shape)
    return {
        "position": state.position,
        "lp": state.log_density,
        "acceptance_rate": info.acceptance_rate,
        "energy": info.energy,
        "energy_error": info.energy_error,
        "diverging": info.diverging,
        "step_size": state.step_size + each,
        "n_steps": info.num_steps + xp.astype(each, xp.int64),
    }


def _describe(report: Mapping[str, np.ndarray]) -> str:
    rate, steps = report["acceptance_rate"].mean(), report["n_steps"].mean()
    return f"divergences {int(report['diverging'].sum())}, acceptance {rate:.2f}, {steps:.0f} steps"
