"""What all samplers with our own kernels share: options, warm-up, the compiled chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.inference import adaptation, langevin
from ppl_gen.inference.adaptation import Adaptation, Moments
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, between, one_of
from ppl_gen.inference.sampler import Sampler
from ppl_gen.inference.starts import starts
from ppl_gen.target import Target

_WARMUP_CHUNK, _CHUNK = 25, 250
_START_STEP = 0.1


@dataclass(frozen=True, kw_only=True)
class Chains(Sampler):
    """A sampler whose kernel is a pure step; subclasses say ``step(xp, target, state, noise) -> (state, info)``.

    Attributes:
        num_warmup, num_samples: steps per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        target_accept_prob: that dual averaging steers the step size to.
        preconditioner: "diagonal" or "dense", from the pooled warm-up draws; "identity" for none.
        step_size: fixes the step size and turns its adaptation off.
        init: site -> starting value, constrained.
    """

    exact: ClassVar[bool] = True

    num_warmup: int = 1000
    num_samples: int = 10_000
    num_chains: int = 4
    thinning: int = 10
    target_accept_prob: float = 0.574
    preconditioner: str = "diagonal"
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "preconditioner", ("diagonal", "dense", "identity"))
        if self.step_size is not None:
            between(self, 0, math.inf, "step_size")

    @staticmethod
    def step(xp: Any, target: Any, state: Any, noise: Any) -> tuple[Any, Any]:
        raise TypeError("a sampler defines step(xp, target, state, noise)")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        position = starts(target, self.num_chains, seed, self.init)
        state = self._warm_up(target, driver, seed, self.init_state(target, position))
        advance = self.advance(target)

        def chunk(state: Any, start: int, count: int) -> tuple[Any, Any]:
            return advance(state, self._noise(target, seed, start, count, "draws"), target.arrays)

        state, report, _ = driver.run(
            chunk, state, self.num_samples, label=self.name, chunk=_CHUNK, thinning=self.thinning, describe=_describe
        )
        return self._outcome(report)

    def init_state(self, target: Target, position: Any) -> langevin.State:
        """The state of chains that start at ``position`` (chains, dim), unit scale."""
        xp, dim = target.backend.xp, target.layout.dim
        scale = xp.eye(dim) if self.preconditioner == "dense" else xp.ones((dim,))
        step_size = xp.zeros(()) + (self.step_size or _START_STEP)
        build = target.compiled(
            "langevin init",
            lambda: target.backend.compile(lambda x, h, s, arrays: langevin.init(target.density(arrays), x, h, s)),
        )
        return build(position, step_size, scale, target.arrays)

    def advance(self, target: Target) -> Any:
        """Compiled ``(state, noise, arrays) -> (state, report)``; noise has a leading axis of steps."""
        xp, step = target.backend.xp, type(self).step

        def transition(state: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            state, info = step(xp, target.density(arrays), state, noise)
            return state, {"position": state.position, "lp": state.log_density, **_reported(xp, state, info)}

        key = (self.name, "advance")
        return target.compiled(key, lambda: target.backend.scan(transition, calls=self.num_samples))

    def _noise(self, target: Target, seed: int, start: int, count: int, phase: str) -> Any:
        """Its own stream for warm-up and draws."""
        stream = 2 * seed + (phase == "draws")
        return target.backend.noise(stream, start, langevin.noise(self.num_chains, target.layout.dim), count)

    # Warm-up --------------------------------------------------------------------------------------------------

    def _warm_up(self, target: Target, driver: Driver, seed: int, state: Any) -> Any:
        """Each chain adapts a step size of its own: with one for all, three chains that accept and one that never moves
        have the acceptance rate asked for. The draws share their geometric mean.
        """
        xp, backend = target.backend.xp, target.backend
        advance, done = self._warming(target), 0
        learned = self._untaught(target, self.step_size or _START_STEP)
        if self.step_size is None and self.num_warmup:
            state = state._replace(step_size=xp.exp(learned.step_size.log_step))
        for length, learns in adaptation.windows(self.num_warmup):

            def chunk(both: Any, start: int, count: int, done: int = done) -> tuple[Any, Any]:
                return advance(both, self._noise(target, seed, done + start, count, "warm-up"), target.arrays)

            both, _, _ = driver.run(
                chunk, (state, learned), length, label=f"{self.name} warm-up", chunk=_WARMUP_CHUNK, keep=False
            )
            (state, learned), done = both, done + length
            if learns and self.preconditioner != "identity":
                scale = adaptation.preconditioner(Moments(*backend.to_numpy(tuple(learned.moments))))
                state = state._replace(scale=backend.asarray(scale))
            if learns:
                step_size = float(backend.to_numpy(_mean_step(xp, learned)))
                learned = self._untaught(target, _restart(step_size, self.preconditioner))
        if self.step_size is None and self.num_warmup:
            state = state._replace(step_size=_mean_step(xp, learned))
        return state

    def _untaught(self, target: Target, step_size: float) -> Adaptation:
        """Adaptation that has seen no draws."""
        xp = target.backend.xp
        return Adaptation(
            adaptation.start_step_size(xp, step_size, (self.num_chains, 1)),
            adaptation.start_moments(xp, target.layout.dim, self.preconditioner == "dense"),
        )

    def _warming(self, target: Target) -> Any:
        xp, step, fixed, goal = target.backend.xp, type(self).step, self.step_size, self.target_accept_prob

        def transition(both: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            state, learned = both
            state, info = step(xp, target.density(arrays), state, noise)
            rate = info.acceptance_rate
            step_size = adaptation.adapt_step_size(xp, learned.step_size, rate[:, None], goal)
            if fixed is None:
                state = state._replace(step_size=xp.exp(step_size.log_step))
            moments = adaptation.add_draws(xp, learned.moments, state.position)
            return (state, Adaptation(step_size, moments)), {"acceptance_rate": rate}

        key = (self.name, "warming", fixed, goal, self.preconditioner)
        return target.compiled(key, lambda: target.backend.scan(transition, calls=self.num_warmup))

    def _outcome(self, report: Mapping[str, np.ndarray]) -> Outcome:
        stats = {name: np.swapaxes(x, 0, 1) for name, x in report.items()}
        positions = stats.pop("position")
        found = []
        if not self.exact:
            rate = float(stats["acceptance_rate"].mean())
            found = [
                f"{self.name} takes every proposal, so that its draws are biased by the step size: a Metropolis "
                "test would "
                f"have accepted {rate:.1%} of them. Use engine='mala' for draws without this bias"
            ]
        return Outcome(
            positions=positions, stats=stats, exact=self.exact, attrs={"biased": not self.exact}, warnings=found
        )


def _mean_step(xp: Any, learned: Adaptation) -> Any:
    """Geometric mean over chains of the adapted step sizes; scalar."""
    return xp.exp(xp.mean(learned.step_size.log_average))


def _restart(step_size: float, preconditioner: str) -> float:
    """A first step size for the next window: with a preconditioner it is in units of standard deviations."""
    return step_size if preconditioner == "identity" else 0.5


def _reported(xp: Any, state: Any, info: Any) -> dict[str, Any]:
    step_size = state.step_size + xp.zeros(state.log_density.shape)
    return {
        "acceptance_rate": info.acceptance_rate,
        "energy": -state.log_density,
        "energy_error": info.energy_error,
        "diverging": info.diverging,
        "step_size": step_size,
    }


def _describe(report: Mapping[str, np.ndarray]) -> str:
    return f"acceptance {report['acceptance_rate'].mean():.2f}"
