"""Forward-backward for long chains: blocks of time side by side, in linear space, steps that stay in cache.

A chain is cut into blocks of equal length. All blocks of all chains take a step at once, as the columns of a matrix:
a step is one matrix product and some elementwise work, however few states there are. What a block starts from is
guessed from the last steps of the one before it, since chains forget; the guess is verified afterwards, improved where
it was not good enough, and where a chain does not forget computed from the blocks' transfer matrices.

Linear space underflows where a path falls behind by e^700 and wins in the end. That no such path was lost is verified
too (:class:`_Limits`); else everything is done again in log space.

Layout as in :mod:`ppl_gen.markov_layout`. Symbols: p predicted and a filtered probabilities of the state; e emission,
divided by the evidence of the step; v and u = e v as in the backward recursion in the same scale, so that a v is the
posterior (Rabiner 1989, section III and V.A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ppl_gen import markov_logs
from ppl_gen.markov_layout import Chains, Emission, Sums, tree_map
from ppl_gen.markov_logs import add

_GUESSES = 3  # passes before transfer matrices, which cost as much as K of them
_BUSY = 2**15  # numbers in a step, from which groups are better done one after the other
_WARM_UP = 256  # steps of a block that the border of its neighbour is guessed from


class _Limits(NamedTuple):
    """Of a floating type.

    A forward step loses entries that underflow. It costs the evidence at most the smallest number times v, and nothing
    in the working precision while v stays below ``largest``; v is an upper bound because it never falls below
    ``floor``. ``gap`` is by how much the posterior may change at the border of two blocks.
    """

    floor: float
    largest: float
    gap: float


def _limits(xp: Any, dtype: Any) -> _Limits:
    return _Limits(1e-300, 1e250, 1e-13) if dtype == xp.float64 else _Limits(1e-36, 1e24, 1e-5)


# Inference --------------------------------------------------------------------------------------------------------


def sums(
    flow: Any, xp: Any, emission: Emission, initial: Any, transition: Any, params: Any, chains: Chains
) -> Sums:  # fmt: skip
    """The sums of one group of chains, without an axis of groups; a routine, which gives each parameter set its own.

    Args:
        initial, transition: probabilities (K,) and (K, K), each row of sum 1.
        params: of ``emission``, a dict.
    """
    extra = initial.ndim - 1
    lead = xp.broadcast_shapes(*(tuple(x.shape[:extra]) for x in (initial, transition, *params.values())))

    def grouped(x: Any) -> Any:
        x = xp.broadcast_to(x, (*lead, *x.shape[extra:]))
        return xp.reshape(x, (-1, *x.shape[extra:]))

    own = initial, transition, params
    initial, transition, params = tree_map(grouped, own)
    chains = tree_map(lambda x: xp.reshape(x, tuple(x.shape[extra:])), chains)
    busy = len(initial) > 1 and len(initial) * initial.shape[1] * chains.pairs.shape[-1] > _BUSY

    def one(_: Any, group: Any) -> Any:
        initial, transition, params = tree_map(lambda x: x[None], group)
        found = posterior(flow, xp, emission, False, initial, transition, params, chains)
        return (), tree_map(lambda x: x[0], found)

    if busy:
        found = flow.scan(one, (), (initial, transition, params))[1]
    else:
        found = posterior(flow, xp, emission, False, initial, transition, params, chains)
    return tree_map(lambda x: xp.reshape(x, (*lead, *x.shape[1:])), found)


def posterior(
    flow: Any,
    xp: Any,
    emission: Emission,
    keep: bool,
    initial: Any,
    transition: Any,
    params: Any,
    chains: Chains,
) -> Sums:
    """Exact sums over the posterior; to be called as ``xp.routine``.

    Args:
        keep: whether ``gamma`` is wanted.
        initial: probabilities (groups, K), of sum 1.
        transition: (groups, K, K), rows of sum 1.
        params: of ``emission``, with a leading axis of groups.
    """
    run = _Run(flow, xp, emission, keep, initial, transition, params, chains)
    sums, sound = run.settled() if run.blocks > 1 else run.sweep(run.starts(), xp.ones_like(run.starts()))[0]
    return flow.cond(sound, lambda sums: sums, lambda _: run.in_logs(), sums)


@dataclass(frozen=True, eq=False)
class _Run:
    """The arguments of :func:`posterior`, and its parts."""

    flow: Any
    xp: Any
    emission: Emission
    keep: bool
    initial: Any
    transition: Any
    params: Any
    chains: Chains

    @property
    def num_chains(self) -> int:
        return self.chains.first.shape[-1]

    @property
    def blocks(self) -> int:
        return self.chains.pairs.shape[-1] // self.num_chains

    @property
    def limits(self) -> _Limits:
        return _limits(self.xp, self.initial.dtype)

    def by_block(self, x: Any) -> Any:
        """(..., columns) as (..., chains, blocks)."""
        return self.xp.reshape(x, (*x.shape[:-1], self.num_chains, self.blocks))

    def by_column(self, x: Any) -> Any:
        """The inverse of :meth:`by_block`."""
        return self.xp.reshape(x, (*x.shape[:-2], self.num_chains * self.blocks))

    def log_emission(self, x: dict[str, Any]) -> Any:
        """(groups, K, columns); 0 after the end of a chain."""
        found = self.emission.log_density(self.xp, self.params, x)
        return self.xp.where(x["live"], found, 0.0) if "live" in x else found

    def scaled_emission(self, x: dict[str, Any]) -> tuple[Any, Any]:
        """Emissions divided by the largest of each column, and its logarithm."""
        q = self.log_emission(x)
        top = self.xp.max(q, axis=1, keepdims=True)
        return self.xp.exp(q - top), top

    def statistics(self, x: dict[str, Any], gamma: Any) -> Any:
        """Of the emissions of one step."""
        gamma = gamma * x["counts"] if "counts" in x else gamma
        return self.emission.statistics(self.xp, self.params, x, gamma)

    # Passes ---------------------------------------------------------------------------------------------------

    def forward(self, p: Any, x: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        """From p at the first step: p after the last one, the log evidence, and a and e of each step."""
        xp, across = self.xp, self.xp.swapaxes(self.transition, -1, -2)

        def step(carry: Any, x: Any) -> Any:
            p, total = carry
            e, top = self.scaled_emission(x)
            a = p * e
            evidence = xp.sum(a, axis=1, keepdims=True)
            scale = 1.0 / evidence
            a = a * scale
            return (across @ a, total + (xp.log(evidence) + top)), (a, e * scale)

        (p, total), (a, e) = self.flow.scan(step, (p, xp.zeros_like(p[:, :1])), x)
        return p, total, a, e

    def backward(self, u: Any, a: Any, e: Any) -> tuple[Any, Any, Sums]:
        """From u behind the last step: u at the first one, the largest u, and the sums."""
        xp, chains = self.xp, self.chains
        floor = xp.full((), self.limits.floor, dtype=u.dtype)

        def step(carry: Any, inputs: Any) -> Any:
            u, largest, pairs, statistics, _ = carry
            a, e, weight, x = inputs
            pairs = pairs + (a * weight) @ xp.swapaxes(u, -1, -2)
            v = xp.maximum(self.transition @ u, floor)
            gamma = a * v
            statistics = add(statistics, self.statistics(x, gamma))
            u = e * v
            return (u, xp.maximum(largest, u), pairs, statistics, gamma), (gamma if self.keep else ())

        start = u, u, *self.nothing(), u
        steps = a, e, chains.pairs, chains.x
        (u, largest, pairs, statistics, gamma), kept = self.flow.scan(step, start, steps, reverse=True)
        first = xp.sum(self.by_block(gamma)[..., 0] * chains.first, axis=-1)
        return u, xp.max(largest), Sums((), first, self.transition * pairs, statistics, kept)

    def nothing(self) -> tuple[Any, Any]:
        """Pairs and statistics before any step."""
        xp, x = self.xp, {name: part[0] for name, part in self.chains.x.items()}
        gamma = xp.zeros((*self.initial.shape, self.chains.pairs.shape[-1]))
        return xp.zeros_like(self.transition), self.statistics(x, gamma)

    def sweep(self, p: Any, u: Any, first: Any = False) -> tuple[tuple[Sums, Any], Any, Any, Any]:
        """Forward from p at the first step of each block, and backward from u behind it.

        Returns the sums and whether they are sound; by how much borders of blocks move the posterior; better p and u.
        In the ``first`` sweep u is not yet known, and guessed.
        """
        xp = self.xp
        after, total, a, e = self.forward(p, self.chains.x)
        if self.blocks > 1:
            u = xp.where(first, self.guessed_ends(e), u)
        u = u / xp.sum(after * u, axis=1, keepdims=True)
        first_u, largest, sums = self.backward(u, a, e)
        sums = sums._replace(log_marginal=xp.sum(self.by_block(total)[:, 0], axis=-1))
        sound = xp.all(xp.isfinite(total)) & (largest <= self.limits.largest)
        if self.blocks == 1:
            return (sums, sound), (), (), ()
        better_p, better_u = self.starts(after), self.ends(first_u)
        gap = xp.max(xp.sum(xp.abs(better_p - p) * first_u, axis=1))
        gap = gap + xp.max(xp.sum(xp.abs(better_u - u) * after, axis=1))
        return (sums, sound), gap, better_p, better_u

    # Borders of blocks ----------------------------------------------------------------------------------------

    def settled(self) -> tuple[Sums, Any]:
        """Sums, and whether they are sound, from borders that no longer move."""
        xp, flow, limits = self.xp, self.flow, self.limits

        def open_(state: Any) -> Any:
            index, gap, *_ = state
            return (index == 0) | ((gap > limits.gap) & (index <= _GUESSES))

        def body(state: Any) -> Any:
            index, _, p, u, _ = state
            p, u = flow.cond(index == _GUESSES, lambda _: self.exact_borders(), lambda found: found, (p, u))
            result, gap, p, u = self.sweep(p, u, index == 0)
            return index + 1, gap, p, u, result

        p = self.guessed_starts()
        pairs, statistics = self.nothing()
        zero = xp.zeros_like(pairs[0, 0, 0])
        kept = xp.zeros((len(self.chains.pairs), *p.shape)) if self.keep else ()
        log_marginal = xp.zeros((len(p), self.num_chains))
        nothing = Sums(log_marginal, xp.zeros_like(self.initial), pairs, statistics, kept), zero > 0
        return flow.while_loop(open_, body, (xp.zeros((), dtype=xp.int32), zero, p, p, nothing))[-1]

    def starts(self, after: Any = None) -> Any:
        """p at the first step of each block: what the one before it predicts; uniform where that is not known."""
        xp, shape = self.xp, (*self.initial.shape, self.num_chains)
        first = xp.broadcast_to(self.initial[:, :, None], shape)[..., None]
        if after is None:
            rest = xp.full((*shape, self.blocks - 1), 1.0 / shape[1], dtype=first.dtype)
        else:
            rest = self.by_block(after)[..., :-1]
        return self.by_column(xp.concatenate([first, rest], axis=-1))

    def ends(self, u: Any) -> Any:
        """u behind the last step of each block: that at the next block's first step, 1 at the end of a chain."""
        u = self.by_block(u)
        return self.by_column(self.xp.concatenate([u[..., 1:], self.xp.ones_like(u[..., :1])], axis=-1))

    def guessed_starts(self) -> Any:
        """p at the first step of each block, from the last steps of the one before."""
        tail = {name: part[-_WARM_UP:] for name, part in self.chains.x.items()}
        return self.starts(self.forward(self.starts(), tail)[0])

    def guessed_ends(self, e: Any) -> Any:
        """u behind each block, from the first steps of the next one."""
        xp = self.xp

        def step(u: Any, e: Any) -> Any:
            u = e * (self.transition @ u)
            return u / xp.max(u, axis=1, keepdims=True), ()

        return self.ends(self.flow.scan(step, xp.ones_like(e[0]), e[:_WARM_UP], reverse=True)[0])

    def exact_borders(self) -> tuple[Any, Any]:
        """p at the first step of each block and u behind it, from the blocks' transfer matrices."""
        xp, through = self.xp, self.transfer()

        def forth(p: Any, through: Any) -> Any:
            after = xp.sum(through * p[:, None], axis=2)
            return after / xp.sum(after, axis=1, keepdims=True), p

        def back(u: Any, through: Any) -> Any:
            before = xp.sum(through * u[:, :, None], axis=1)
            return before / xp.max(before, axis=1, keepdims=True), u

        p = self.by_block(self.starts())[..., 0]
        starts = self.flow.scan(forth, p, through)[1]
        ends = self.flow.scan(back, xp.ones_like(p), through, reverse=True)[1]
        return self.by_column(xp.moveaxis(starts, 0, -1)), self.by_column(xp.moveaxis(ends, 0, -1))

    def transfer(self) -> Any:
        """From p at the first step of each block to p after it, up to a factor: (blocks, groups, K, from K, chains)."""
        xp, across = self.xp, self.xp.swapaxes(self.transition, -1, -2)
        groups, k = self.initial.shape
        shape = groups, k, k, self.chains.pairs.shape[-1]

        def step(carry: Any, x: Any) -> Any:
            m, log_scale = carry
            m = m * self.scaled_emission(x)[0][:, :, None]
            scale = xp.maximum(xp.sum(m, axis=1, keepdims=True), self.limits.floor)
            m = xp.reshape(across @ xp.reshape(m / scale, (groups, k, k * shape[-1])), shape)
            return (m, log_scale + xp.log(scale)), ()

        m = xp.broadcast_to(xp.eye(k)[None, :, :, None], shape)
        (m, log_scale), _ = self.flow.scan(step, (m, xp.zeros_like(m[:, :1])), self.chains.x)
        m = m * xp.exp(log_scale - xp.max(log_scale, axis=2, keepdims=True))
        return xp.moveaxis(self.by_block(m), -1, 0)

    def in_logs(self) -> Sums:
        """The same sums, step after step in log space."""
        xp, chains, size = self.xp, self.chains, self.num_chains
        length, columns = chains.pairs.shape[0], chains.pairs.shape[-1]

        def in_time(x: Any) -> Any:
            x = xp.reshape(x, (*x.shape[:3], size, self.blocks))
            return xp.reshape(xp.moveaxis(x, -1, 0), (length * self.blocks, *x.shape[1:4]))

        x = {name: in_time(part) for name, part in chains.x.items()}
        log_marginal, pairs, statistics, gamma = markov_logs.posterior(
            self.flow, xp, self.log_emission, self.statistics, self.keep,
            xp.log(self.initial)[..., None], xp.log(self.transition)[..., None], x, in_time(chains.pairs),
        )  # fmt: skip
        first = xp.sum(gamma[0] * chains.first, axis=-1)
        if not self.keep:
            return Sums(log_marginal, first, pairs, statistics, ())
        gamma = xp.reshape(gamma, (self.blocks, length, *gamma.shape[1:]))
        gamma = xp.reshape(xp.moveaxis(gamma, 0, -1), (length, *self.initial.shape, columns))
        return Sums(log_marginal, first, pairs, statistics, gamma)
