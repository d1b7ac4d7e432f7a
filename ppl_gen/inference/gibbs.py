"""Metropolis within Gibbs: discrete latents without a finite set of values around a Hamiltonian kernel for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ppl_gen.inference import adaptation, count_blocks, count_moves, count_starts, trajectory
from ppl_gen.inference.adaptation import StepSize
from ppl_gen.inference.chains import Learned, stream
from ppl_gen.inference.chees import ChEES
from ppl_gen.inference.count_blocks import Blocks
from ppl_gen.inference.driver import Driver
from ppl_gen.inference.engine import Outcome, one_of, positive
from ppl_gen.inference.ladder import Begun
from ppl_gen.inference.starts import check_init
from ppl_gen.inference.trajectory import Length
from ppl_gen.target import Target

_ROUNDING = 1e4  # in units of the precision


class State(NamedTuple):
    """Carried from transition to transition; chains along the leading axis.

    Attributes:
        position, log_density, gradient, step_size, scale, length: as of any path; of the continuous latents.
        counts: the discrete values, (chains, counts).
        width: of jumps, (counts,); ``rate`` the acceptance probability that the last transition had, (counts,).
    """

    position: Any
    log_density: Any
    gradient: Any
    step_size: Any
    scale: Any
    length: Any
    counts: Any
    width: Any
    rate: Any


class Info(NamedTuple):
    """Reported of each transition, all (chains,) but the number of steps."""

    acceptance_rate: Any
    energy: Any
    energy_error: Any
    diverging: Any
    n_steps: Any
    acceptance_rate_discrete: Any
    mismatch: Any  # of what rows gained, each by itself, and what the log density did; 0 but for rounding


class Own(NamedTuple):
    """What is adapted besides the step size: the length of paths, and the widths of jumps."""

    length: Length
    width: StepSize


@dataclass(frozen=True)
class _Given:
    """The density of the continuous latents, discrete values given (chains, counts)."""

    dim: int
    batched: Callable[..., tuple[Any, Any]]
    arrays: Mapping[str, Any]
    counts: Any

    def log_density_and_grad(self, position: Any) -> tuple[Any, Any]:
        return self.batched(position, self.counts, self.arrays)


class _Mixed(Target):
    """A target whose discrete values are carried along, with how they move and where all begins."""

    def __init__(self, target: Target, blocks: Blocks, begun: Begun):
        vars(self).update(vars(target))
        self.blocks, self.begun, self._digest = blocks, begun, blocks.digest

    def compiled(self, name: Any, build: Callable[[], Any]) -> Any:
        return super().compiled((name, self._digest), build)

    def density(self, arrays: Mapping[str, Any], counts: Any = None) -> _Given:
        """The density at these values; for use inside a compiled step."""
        return _Given(self.layout.dim, batched(self), arrays, counts)

    def moves(self, arrays: Mapping[str, Any], position: Any) -> count_moves.At:
        """The density of the discrete values, positions (chains, dim) given; for use inside a compiled step."""
        xp, vmap = self.backend.xp, self.backend.vmap

        def at(u: Any, z: Any) -> Any:
            return count_blocks.entries(self, xp.concatenate([u, z]), arrays)

        def inside(u: Any, z: Any, proposed: Any) -> Any:
            return count_blocks.inside(self, xp.concatenate([u, z]), proposed, arrays)

        return count_moves.At(lambda z: vmap(at)(position, z), lambda z, new: vmap(inside)(position, z, new))


def batched(target: Target) -> Callable[..., tuple[Any, Any]]:
    """``(positions (chains, dim), counts (chains, counts), arrays) -> (log density, gradient by the position)``."""
    xp, backend = target.backend.xp, target.backend

    def log_density(u: Any, z: Any, arrays: Mapping[str, Any]) -> Any:
        return target.log_density(xp.concatenate([u, z]), arrays)

    if target.layout.dim:
        return backend.vmap(backend.value_and_grad(log_density), in_axes=(0, 0, None))
    alone = backend.vmap(log_density, in_axes=(0, 0, None))
    return lambda position, counts, arrays: (alone(position, counts, arrays), position)


@dataclass(frozen=True, kw_only=True)
class MetropolisWithinGibbs(ChEES):
    """Hamiltonian Monte Carlo of continuous latents in turn with Metropolis moves of counts (Tierney 1994).

    Discrete latents with finitely many values are summed out; those without (Poisson, Geometric, a Binomial whose count
    is a latent, ...) jump by whole numbers, by widths that warm-up learns for each of them. The rows of a plate move at
    once where they are independent given the rest, which is found by test; values that depend on each other move one
    or two at a time. Exact. Programs without continuous latents are taken, too.

    Attributes:
        num_warmup, num_samples: transitions per chain, adapting and kept.
        num_chains: run together, batched.
        thinning: every how many-th sample is kept.
        num_sweeps: over all counts, in a transition.
        vectorised: False moves all counts one or two at a time, whether the rows of plates are independent or not.
        target_accept_prob: of the continuous latents; harmonic mean over chains.
        preconditioner, step_size, max_steps: of the continuous latents, as of ``chees``.
        init: site -> starting value, constrained; of counts whole numbers.
        start: "uniform", the only one: an approximation has no counts.
    """

    name: ClassVar[str] = "gibbs"
    needs: ClassVar[str] = "discrete latents without a finite set of values"

    num_warmup: int = 500
    num_samples: int = 1000
    num_sweeps: int = 2
    vectorised: bool = True
    start: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_sweeps")
        one_of(self, "vectorised", (True, False))
        if self.start != "uniform":
            raise ValueError(f"start of gibbs must be 'uniform', got {self.start!r}: an approximation has no counts")

    def check(self, target: Target) -> None:
        target.require_counts(self.name)
        init = self.init if isinstance(self.init, Mapping) else None
        names = target.counts.names
        unknown = [n for n in init or {} if n not in (*names, *target.layout.names)]
        if unknown:
            raise ValueError(f"init names {unknown[0]!r}, which is no latent that {self.name} draws: expected among "
                             f"{[*target.layout.names, *names]}")
        rest = self.init if init is None else {n: v for n, v in init.items() if n not in names}
        check_init(target, rest, target.layout)
        count_starts.check_counts(target, init or {})

    def run(self, target: Target, driver: Driver, seed: int) -> Outcome:
        if not target.layout.dim and self.step_size is None:  # no path to tune
            return replace(self, step_size=1.0, preconditioner="identity").run(target, driver, seed)
        mixed = target if isinstance(target, _Mixed) else self._mixed(target, seed)
        return super().run(mixed, driver, seed)

    def _mixed(self, target: Target, seed: int) -> _Mixed:
        """How the counts move by what is seen at draws of the prior, and then where the chains start too."""
        pool, init = count_starts.prior_points(target, seed), self.init or {}
        changed = count_blocks.dependence(target, pool, seed, grow=True)
        first = count_blocks.blocks(target, changed)
        density = target.compiled("density given counts", lambda: target.backend.compile(batched(target)))
        seeking = count_starts.Seeking(target, first, pool, density, init)
        position, warnings = count_starts.begin(seeking, self.num_chains, seed, init)
        few = position[: len(pool)]
        changed = [a | b for a, b in zip(changed, count_blocks.dependence(target, few, seed), strict=True)]
        return _Mixed(target, count_blocks.blocks(target, changed, self.vectorised), Begun(position, warnings))

    def starting(self, target: Target, driver: Driver, seed: int) -> Begun:
        assert isinstance(target, _Mixed)
        return target.begun

    def extra(self, target: Target) -> Blocks:
        assert isinstance(target, _Mixed)
        return target.blocks

    def received(self, target: Target, extra: Blocks | None) -> Target:
        return target if extra is None else _Mixed(target, extra, Begun(np.zeros((0, 0))))

    # The kernel -----------------------------------------------------------------------------------------------

    def make_state(self, xp: Any, density: Any, position: Any, scale: Any) -> Any:
        """The state of chains at ``position`` (chains, dim + counts); ``density`` is that of a :class:`_Mixed`."""
        u, counts = position[:, : density.dim], position[:, density.dim :]
        kernel = super().make_state(xp, replace(density, counts=counts), u, scale)
        none = xp.zeros(counts.shape[1:])
        return State(**kernel._asdict(), counts=counts, width=none + 1.0, rate=none)

    def vector(self, xp: Any, state: State) -> Any:
        return xp.concatenate([state.position, state.counts], axis=1)

    def key(self) -> tuple[Any, ...]:
        return (*super().key(), self.num_sweeps)

    def doubts(self, target: Target, state: Any, stats: Mapping[str, np.ndarray]) -> list[str]:
        """Rows that moved at once although they depend on each other."""
        seen = np.asarray(stats["mismatch"])
        if (seen <= _ROUNDING * np.finfo(seen.dtype).eps).all():
            return []
        return [
            f"rows of {', '.join(map(repr, target.counts.names))} that were found independent depend on each other at "
            "some of the draws, which are wrong: run again with vectorised=False"
        ]

    def noise(self, target: Target, seed: int, start: int, count: int, phase: str) -> dict[str, Any]:
        """Of paths, and of the sweeps over counts."""
        assert isinstance(target, _Mixed)
        walks = count_moves.noise(target.blocks, self.num_chains, self.num_sweeps)
        spec, backend = {**self.spec(target.layout.dim), **walks}, target.backend
        drawn = backend.noise(stream(seed, phase), start, spec, count)
        return {**drawn, "jitter": backend.asarray(trajectory.halton(start, count))}

    def scan(self, target: Target, before: Callable[[Any], Any], after: Callable[..., Any], calls: int) -> Any:
        """As of any path, with the sweeps at its end."""
        assert isinstance(target, _Mixed)
        xp, most = target.backend.xp, self.max_steps

        def start(carry: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            path, count = self.begin(xp, before(carry), noise, most)
            return (path, carry), count

        def repeat(both: Any, arrays: Any) -> Any:
            return self.leap(xp, target.density(arrays, both[0].now.counts), both[0]), both[1]

        def finish(both: Any, noise: Any, arrays: Any) -> tuple[Any, Any]:
            path, carry = both
            state: Any
            state, info = self.end(xp, path, noise)
            state, rate, mismatch = walked(xp, target, arrays, state, noise)
            return after(carry, path, state, Info(*info, rate, mismatch), noise)

        return target.backend.scan_loops(start, repeat, finish, calls=calls)

    # Warm-up --------------------------------------------------------------------------------------------------

    def untaught(self, target: Target, rescaled: bool) -> Learned:
        learned, xp = super().untaught(target, rescaled), target.backend.xp
        width = adaptation.start_step_size(xp, 1.0, (target.counts.dim,))
        return learned._replace(own=Own(learned.own, width))

    def anew(self, target: Target, learned: Learned) -> Learned:
        """The widths stay: they are whole numbers', in no coordinates."""
        again = super().anew(target, learned)
        return again._replace(own=again.own._replace(width=learned.own.width))

    def adapt_own(self, xp: Any, own: Any, seen: Any, state: Any, info: Any, noise: Any) -> Any:
        """The length of paths, and widths by the acceptance that they had."""
        length = super().adapt_own(xp, own.length, seen, state, info, noise)
        return Own(length, adaptation.adapt_step_size(xp, own.width, state.rate, count_moves.GOAL))

    def use(self, xp: Any, state: Any, learned: Learned) -> Any:
        used: Any = super().use(xp, state, learned._replace(own=learned.own.length))
        return used._replace(width=_width(xp, learned.own.width.log_step))

    def settle(self, xp: Any, state: Any, learned: Learned) -> Any:
        settled: Any = super().settle(xp, state, learned._replace(own=learned.own.length))
        return settled._replace(width=_width(xp, learned.own.width.log_average))


def walked(xp: Any, target: _Mixed, arrays: Mapping[str, Any], state: State, noise: Any) -> tuple[State, Any, Any]:
    """The state after the sweeps, the mean acceptance probability of their proposals, and the mismatch, (chains,)."""
    at = target.moves(arrays, state.position)
    walk, gained = count_moves.sweeps(xp, at, target.blocks, state.width, state.counts, noise["walk"])
    value, gradient = target.density(arrays, walk.counts).log_density_and_grad(state.position)
    tried = xp.sum(walk.tried, axis=0)
    rate = xp.where(tried > 0, xp.sum(walk.rate, axis=0) / xp.maximum(tried, 1.0), count_moves.GOAL)
    moved = state._replace(log_density=value, gradient=gradient, counts=walk.counts, rate=rate)
    mismatch = xp.abs(value - state.log_density - gained) / (1.0 + xp.abs(value) + xp.abs(gained))
    return moved, xp.sum(walk.rate, axis=-1) / xp.sum(walk.tried, axis=-1), mismatch


def _width(xp: Any, log_width: Any) -> Any:
    return xp.clip(xp.exp(log_width), count_moves.LEAST, count_moves.MOST)
