"""What all samplers with our own kernels share: options, warm-up, the compiled chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ppl_gen.inference import adaptation, chain_axis, langevin, preconditioning
from ppl_gen.inference.adaptation import Moments, StepSize
from ppl_gen.inference.chain_axis import All, Chosen, Some
from ppl_gen.inference.driver import Driver, chunk_size
from ppl_gen.inference.engine import Outcome, between, one_of
from ppl_gen.inference.journal import Report
from ppl_gen.inference.progress import Watched
from ppl_gen.inference.sampler import Sampler
from ppl_gen.target import Target

_WARMUP_CHUNK, _CHUNK = 25, 250
_MOST_NUMBERS = 2_000_000  # of the positions of a chunk: larger arrays are had from the system anew each time
_FIRST_STEP, _NEXT_STEP = 0.1, 0.5  # before and after a preconditioner is known: then in standard deviations


class Learned(NamedTuple):
    """What is learned in warm-up.

    Attributes:
        step_size: one for each chain (chains, 1), or one for all of them.
        draws, gradients: moments of both, pooled over chains.
        own: what else a kernel adapts.
    """

    step_size: StepSize
    draws: Moments
    gradients: Moments
    own: Any = ()


@dataclass(frozen=True, kw_only=True)
class Chains(Sampler):
    """A sampler with a kernel of ours.

    A kernel of one step says ``step(xp, target, state, noise) -> (state, info)``; one with a loop inside overrides
    ``scan``. Its state has ``position, log_density, gradient, step_size, scale`` among others; its info is a named
    tuple of (chains,) or scalars and has ``acceptance_rate`` and ``diverging``.

    Attributes:
        num_warmup, num_samples: steps per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        target_accept_prob: that dual averaging steers the step size to.
        preconditioner: "diagonal", "dense" or "low_rank", from the pooled warm-up draws and their gradients;
            "identity" for none; "auto" for dense in up to 100 dimensions and diagonal in more.
        step_size: fixes the step size and turns its adaptation off.
        init, start: where chains start, as of every sampler.
    """

    exact: ClassVar[bool] = True
    unbiased: ClassVar[str] = "engine='mala'"  # what to take instead, where this is not exact

    num_warmup: int = 1000
    num_samples: int = 10_000
    num_chains: int = 4
    thinning: int = 10
    target_accept_prob: float = 0.574
    preconditioner: str = "diagonal"
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "preconditioner", preconditioning.KINDS)
        if self.step_size is not None:
            between(self, 0, math.inf, "step_size")

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        kind = preconditioning.chosen(self.preconditioner, target.layout.dim)
        engine = self if kind == self.preconditioner else replace(self, preconditioner=kind)
        begun = self.starting(target, driver, seed)
        state = engine.init_state(target, target.backend.asarray(begun.position))
        state = begun.scaled(target, state, kind)
        wait = engine._ahead(target, seed, state) if not driver.spread else lambda: None
        free, scaled = self.preconditioner == "auto", begun.mixture is not None
        engine, state = engine.warm_up(target, driver, seed, state, scaled=scaled, free=free)
        wait()
        if driver.spread:
            state, report = driver.spread(engine, target, target.backend.to_numpy(state))
        else:
            state, report = engine._draw(target, driver, seed, state, self._all(target))
        stats = {name: np.swapaxes(x, 0, 1) for name, x in report.items()}
        positions = stats.pop("position")
        attrs = {**self.attrs(target, state), "biased": not self.exact, "preconditioner": engine.preconditioner}
        found = begun.warnings + self.doubts(target, state, stats)
        return Outcome(positions=positions, stats=stats, exact=self.exact, attrs=attrs, warnings=found)

    def _ahead(self, target: Target, seed: int, state: Any) -> Callable[[], None]:
        """Compile what draws while the chains warm up; what comes back waits for it."""
        which, count = self._all(target), chunk_size(self.num_samples, self._chunk(target))

        def args() -> tuple[Any, ...]:
            noise = which.noise(self.noise(target, seed, 0, count, "draws"))
            return which.state(state), noise, which.shared(target.arrays)

        return target.backend.ahead(self.advance(target), args)

    def _draw(self, target: Target, driver: Driver, seed: int, state: Any, which: Chosen) -> tuple[Any, Report]:
        """The state of some chains after their draws, and the draws."""
        advance, arrays = self.advance(target), which.shared(target.arrays)

        def chunk(state: Any, start: int, count: int) -> tuple[Any, Any]:
            noise = which.noise(self.noise(target, seed, start, count, "draws"))
            return advance(which.state(state), noise, arrays)

        state, report, _ = driver.run(
            chunk, state, self.num_samples, label=self.name, chunk=self._chunk(target), thinning=self.thinning,
            describe=Watched(_describe),
        )  # fmt: skip
        return state, report

    def _chunk(self, target: Target) -> int:
        numbers = self.num_chains * max(target.layout.dim, 1)
        return max(min(_CHUNK, _MOST_NUMBERS // numbers), _WARMUP_CHUNK)

    def _all(self, target: Target) -> All:
        return All(target.backend.spread(self.num_chains))

    # In groups ------------------------------------------------------------------------------------------------

    def undivided(self, target: Target) -> str:
        return ""

    def group(self, target: Target, driver: Driver, seed: int, held: Any, rows: slice) -> tuple[Any, Report]:
        return self._draw(target, driver, seed, target.backend.from_numpy(held), Some(rows))

    def part(self, held: Any, rows: slice) -> Any:
        return chain_axis.some(held, rows)

    def joined(self, held: list[Any]) -> Any:
        return chain_axis.joined(held)

    # A kernel's part ------------------------------------------------------------------------------------------

    @staticmethod
    def step(xp: Any, target: Any, state: Any, noise: Any) -> tuple[Any, Any]:
        raise TypeError("a sampler defines step(xp, target, state, noise), or scan")

    def kernel(self) -> Callable[..., Any]:
        """The step, where options choose among several."""
        return type(self).step

    def make_state(self, xp: Any, density: Any, position: Any, scale: Any) -> Any:
        """The state of chains at ``position`` (chains, dim)."""
        return langevin.init(density, position, xp.zeros(()) + (self.step_size or _FIRST_STEP), scale)

    def spec(self, dim: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What randomness one step takes."""
        return langevin.noise(self.num_chains, dim, tested=self.exact)

    def noise(self, target: Target, seed: int, start: int, count: int, phase: str) -> dict[str, Any]:
        """Of ``count`` steps, along a leading axis; warm-up and draws have a stream each."""
        return target.backend.noise(stream(seed, phase), start, self.spec(target.layout.dim), count)

    def scan(self, target: Target, before: Callable[[Any], Any], after: Callable[..., Any], calls: int) -> Any:
        """Compiled ``(carry, noise, arrays) -> (carry, reports)`` of a step for each row of noise.

        Args:
            before: ``carry -> state``.
            after: ``(carry, seen, state, info, noise) -> (carry, report)``, where ``seen`` is the state before the
                step, or what else the kernel shows to :meth:`adapt_own`.
        """
        xp, step = target.backend.xp, self.kernel()

        def transition(carry: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            state = before(carry)
            moved, info = step(xp, self.density(target, arrays, noise), state, noise)
            return after(carry, state, moved, info, noise)

        return target.backend.scan(transition, calls=calls)

    def density(self, target: Target, arrays: Mapping[str, Any], noise: Mapping[str, Any]) -> Any:
        """What a step with this noise sees."""
        return target.density(arrays)

    def vector(self, xp: Any, state: Any) -> Any:
        """What is kept of a state as a draw, (chains, ...)."""
        return state.position

    def key(self) -> tuple[Any, ...]:
        """What the kernel is compiled for, besides its class."""
        return ()

    def step_shape(self) -> tuple[int, ...]:
        """Each chain adapts a step size of its own: with one for all, three chains that accept and one that never moves
        have the acceptance rate asked for. The draws share their geometric mean.
        """
        return (self.num_chains, 1)

    def shown(self, xp: Any, state: Any, info: Any) -> Any:
        """What dual averaging sees of a step, in the shape of the step sizes: acceptance rates."""
        return info.acceptance_rate[:, None]

    def goal(self) -> float:
        """What dual averaging steers :meth:`shown` to."""
        return self.target_accept_prob

    def own(self, xp: Any, dim: int, rescaled: bool) -> Any:
        """What else is adapted, at the start, and after the coordinates have been rescaled."""
        return ()

    def adapt_own(self, xp: Any, own: Any, seen: Any, state: Any, info: Any, noise: Any) -> Any:
        """What else is adapted, after a step."""
        return own

    def use(self, xp: Any, state: Any, learned: Learned) -> Any:
        """The state with what the next step of warm-up shall use."""
        return state if self.step_size else state._replace(step_size=xp.exp(learned.step_size.log_step))

    def settle(self, xp: Any, state: Any, learned: Learned) -> Any:
        """The state with what the draws shall use."""
        return state if self.step_size else state._replace(step_size=_mean_step(xp, learned))

    def laborious(self, target: Target, state: Any, positions: np.ndarray) -> bool:
        """Whether draws, of which some are ``positions``, ask for so many gradients that a matrix would pay."""
        return False

    def attrs(self, target: Target, state: Any) -> dict[str, Any]:
        """What a result should say of the kernel."""
        return {}

    def doubts(self, target: Target, state: Any, stats: Mapping[str, np.ndarray]) -> list[str]:
        """Warnings of the kernel's own."""
        if self.exact:
            return []
        rate = float(stats["acceptance_rate"].mean())
        return [
            f"{self.name} takes every proposal, so that its draws are biased by the step size: a Metropolis test would "
            f"have accepted {rate:.1%} of them. Use {self.unbiased} for draws without this bias"
        ]

    # Compiled -------------------------------------------------------------------------------------------------

    def init_state(self, target: Target, position: Any) -> Any:
        """The state of chains that start at ``position`` (chains, dim), unit scale."""
        xp, kind = target.backend.xp, self.preconditioner

        def build(position: Any, arrays: Any) -> Any:
            scale = preconditioning.start(xp, kind, target.layout.dim)
            return self.make_state(xp, target.density(arrays), position, scale)

        key = (self.name, "init", kind, self.step_size, *self.key())
        made = target.compiled(key, lambda: target.backend.compile(build))
        return made(position, target.arrays)

    def advance(self, target: Target) -> Any:
        """Compiled ``(state, noise, arrays) -> (state, report)``; noise has a leading axis of steps."""
        xp = target.backend.xp

        def after(carry: Any, seen: Any, state: Any, info: Any, noise: Any) -> tuple[Any, Any]:
            return state, {**_reported(xp, state, info), "position": self.vector(xp, state)}

        key = (self.name, "advance", *self.key())
        return target.compiled(key, lambda: self.scan(target, lambda state: state, after, self.num_samples))

    def warming(self, target: Target) -> Any:
        """Compiled ``((state, learned), noise, arrays) -> ((state, learned), report)``."""
        xp, goal, gradients = target.backend.xp, self.goal(), self.preconditioner == "low_rank"

        def after(carry: Any, seen: Any, state: Any, info: Any, noise: Any) -> tuple[Any, Any]:
            learned, rate = carry[1], self.shown(xp, state, info)
            learned = Learned(
                adaptation.adapt_step_size(xp, learned.step_size, rate, goal),
                adaptation.add_draws(xp, learned.draws, state.position),
                adaptation.add_draws(xp, learned.gradients, state.gradient),
                self.adapt_own(xp, learned.own, seen, state, info, noise),
            )
            report = _reported(xp, state, info)
            return (state, learned), {**report, "gradient": state.gradient} if gradients else report

        def build() -> Any:
            return self.scan(target, lambda both: self.use(xp, *both), after, self.num_warmup)

        key = (self.name, "warming", self.step_size, goal, self.preconditioner, *self.key())
        return target.compiled(key, build)

    # Warm-up --------------------------------------------------------------------------------------------------

    def warm_up(
        self, target: Target, driver: Driver, seed: int, state: Any, *, scaled: bool, free: bool
    ) -> tuple[Self, Any]:
        """In windows, as Stan's; after each that learns the preconditioner, what else is adapted begins anew.

        Args:
            scaled: the state has a preconditioner to begin with.
            free: the windows may show that another preconditioner is needed.

        Returns:
            the engine with the preconditioner that it has come to, and the state.
        """
        engine, done, chains = self, 0, self._all(target)
        arrays, learned = chains.shared(target.arrays), self.untaught(target, scaled)
        state = self.use(target.backend.xp, state, learned) if self.num_warmup else state
        windows = adaptation.windows(self.num_warmup, trial=free and self.preconditioner == "diagonal")
        for i, (length, learns) in enumerate(windows):
            advance = engine.warming(target)

            def chunk(both: Any, start: int, count: int, done: int = done, advance: Any = advance) -> tuple[Any, Any]:
                noise = chains.noise(self.noise(target, seed, done + start, count, "warm-up"))
                return advance((chains.state(both[0]), chains.shared(both[1])), noise, arrays)

            trial = free and engine.preconditioner == "diagonal" and windows[i - 1][1]
            (state, learned), report, _ = driver.run(
                chunk, (state, learned), length, label=f"{self.name} warm-up", chunk=_WARMUP_CHUNK,
                keep=learns and (trial or engine.preconditioner == "low_rank"), describe=_describe,
            )  # fmt: skip
            done += length
            if learns and engine.preconditioner != "identity":
                to_come = self.num_chains * sum(n for n, teaches in windows[i + 1 :] if teaches)
                dense = trial and preconditioning.learnable(target.layout.dim, to_come)
                dense = dense and engine.laborious(target, state, report["position"])
                state = state._replace(scale=engine._scale(target, learned, report))
                if dense:
                    engine = replace(engine, preconditioner="dense")
                    state = state._replace(scale=preconditioning.as_dense(target.backend, state.scale))
                learned = engine.anew(target, learned)
        return engine, self.settle(target.backend.xp, state, learned) if self.num_warmup else state

    def untaught(self, target: Target, rescaled: bool) -> Learned:
        """Adaptation that has seen no draws, in coordinates of standard deviations or as they came."""
        xp, step_size = target.backend.xp, self.step_size or (_NEXT_STEP if rescaled else _FIRST_STEP)
        none = adaptation.start_moments(xp, target.layout.dim, self.preconditioner == "dense")
        start = adaptation.start_step_size(xp, step_size, self.step_shape())
        return Learned(start, none, none, self.own(xp, target.layout.dim, rescaled))

    def anew(self, target: Target, learned: Learned) -> Learned:
        """Adaptation that begins again, in the coordinates of a new preconditioner."""
        return self.untaught(target, True)

    def _scale(self, target: Target, learned: Learned, report: Mapping[str, np.ndarray]) -> Any:
        """The preconditioner that the last window taught."""
        backend = target.backend
        held = (Moments(*backend.to_numpy(tuple(m))) for m in (learned.draws, learned.gradients))
        scale = preconditioning.from_moments(*held)
        if self.preconditioner != "low_rank":
            return backend.asarray(scale)
        draws, gradients = (report[name].reshape(-1, target.layout.dim) for name in ("position", "gradient"))
        found = preconditioning.from_draws(draws, gradients, scale)
        return type(found)(*map(backend.asarray, found))


def stream(seed: int, phase: str) -> int:
    """The seed of the noise of a phase, "warm-up" or "draws"."""
    return 2 * seed + (phase == "draws")


def _mean_step(xp: Any, learned: Learned) -> Any:
    """Geometric mean over chains of the adapted step sizes; scalar."""
    return xp.exp(xp.mean(learned.step_size.log_average))


def _reported(xp: Any, state: Any, info: Any) -> dict[str, Any]:
    """Sample statistics, all (chains, ...)."""
    none = xp.zeros(state.log_density.shape)
    each = {name: v if getattr(v, "shape", ()) else v + xp.astype(none, v.dtype) for name, v in info._asdict().items()}
    step_size = none + (state.step_size[:, 0] if state.step_size.ndim == 2 else state.step_size)
    return {"position": state.position, "lp": state.log_density, "step_size": step_size, **each}


def _describe(report: Mapping[str, np.ndarray]) -> str:
    steps = f", {report['n_steps'].mean():.0f} steps" if "n_steps" in report else ""
    return f"acceptance {report['acceptance_rate'].mean():.2f}{steps}"
