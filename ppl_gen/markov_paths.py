"""Paths of Markov chains: the most probable one, and drawn ones."""

from __future__ import annotations

from typing import Any

from ppl_gen.categories import category
from ppl_gen.markov_layout import block_length, cut, join
from ppl_gen.markov_logs import LOG_ZERO

_GUESSES = 6
_TOLERANCE = 1e-12


def viterbi(xp: Any, log_initial: Any, log_transition: Any, log_emission: Any, lengths: Any = None) -> Any:
    """The most probable path of each chain, integers (..., T); Viterbi (1967), Rabiner (1989), section III.B.

    Blocks of time are run side by side, from guesses of the scores at their borders that are verified: the best paths
    into all states of a step soon have one path in common. Where they do not, one step is taken after the other.

    Args:
        log_initial, log_transition, log_emission: (K,), (K, K) and (..., T, K).
        lengths: (...), steps of each chain, behind which the last state is repeated; None for all of them.
    """
    lead, (num_steps, k) = tuple(log_emission.shape[:-2]), log_emission.shape[-2:]
    emission = xp.reshape(log_emission, (-1, num_steps, k))
    lengths = xp.full((len(emission),), num_steps) if lengths is None else xp.reshape(lengths, (-1,))
    path = xp.routine(_best_path, (xp,))(log_initial, log_transition, emission, lengths)
    return xp.reshape(path, (*lead, num_steps))


def simulate(xp: Any, initial: Any, transition: Any, uniform: Any) -> Any:
    """Paths by inverse cdf, integers (..., T): of probabilities (K,) and (K, K), and uniform numbers (..., T).

    Each step is a map from state to next state; they are composed by doubling.
    """
    num_steps = uniform.shape[-1]
    first = category(xp, initial, uniform[..., :1])
    maps = category(xp, transition, uniform[..., 1:, None])
    d = 1
    while d < num_steps - 1:
        later = xp.take_along_axis(maps[..., d:, :], maps[..., :-d, :], axis=-1)
        maps = xp.concatenate([maps[..., :d, :], later], axis=-2)
        d *= 2
    start = xp.broadcast_to(first[..., None], (*maps.shape[:-1], 1))
    return xp.concatenate([first, xp.take_along_axis(maps, start, axis=-1)[..., 0]], axis=-1)


# Viterbi ----------------------------------------------------------------------------------------------------------


def _best_path(flow: Any, xp: Any, initial: Any, transition: Any, emission: Any, lengths: Any) -> Any:
    """Paths (chains, T); a routine."""
    if initial.ndim > 1:  # mapped over
        args = initial, transition, emission, lengths
        each = (tuple(x[i if len(x) > 1 else 0] for x in args) for i in range(max(len(x) for x in args)))
        return xp.stack([_best_path(flow, xp, *one) for one in each])
    chains, num_steps, _ = emission.shape
    length, at = block_length(chains, num_steps), xp.arange(num_steps)
    alive, counts = at < lengths[:, None], at < lengths[:, None] - 1
    q = cut(xp, xp.where(alive[..., None], xp.maximum(emission, LOG_ZERO), 0.0)[None], length)[:, 0]
    moves = cut(xp, xp.where(counts[..., None], 1.0, 0.0)[None], length)[:, 0] > 0
    initial, transition = xp.maximum(initial, LOG_ZERO), xp.maximum(transition, LOG_ZERO)
    open_, after, pointers = _settled(flow, xp, initial, transition, q, moves, chains)

    def in_blocks(_: Any) -> Any:
        return join(xp, _trace(flow, xp, after, pointers, chains)[:, None], chains, num_steps)[0, :, :, 0]

    def in_order(_: Any) -> Any:
        steps = _ordered(xp, q, chains), _ordered(xp, moves, chains)
        _, after, pointers = _settled(flow, xp, initial, transition, *steps, chains)
        return xp.swapaxes(_trace(flow, xp, after, pointers, chains)[:num_steps, 0], 0, 1)

    return in_blocks(()) if q.shape[-1] == chains else flow.cond(open_, in_order, in_blocks, ())


def _ordered(xp: Any, x: Any, chains: int) -> Any:
    """Blocks of chains one after the other: (length, n, columns) to (length * blocks, n, chains)."""
    length, n, columns = x.shape
    x = xp.moveaxis(xp.reshape(x, (length, n, chains, columns // chains)), -1, 0)
    return xp.reshape(x, (-1, n, chains))


def _settled(
    flow: Any, xp: Any, initial: Any, transition: Any, q: Any, moves: Any, chains: int
) -> tuple[Any, Any, Any]:
    """Whether the scores at borders of blocks still moved, those behind each block, and its pointers back."""
    k, columns = q.shape[1:]
    blocks, stay = columns // chains, xp.arange(q.shape[1], dtype=xp.int32)[:, None]

    def starts(after: Any) -> Any:
        """Scores at the first step of each block (K, columns), the best of them 0."""
        after = xp.reshape(after - xp.max(after, axis=0), (k, chains, blocks))
        first = xp.broadcast_to(initial[:, None, None], (k, chains, 1))
        return xp.reshape(xp.concatenate([first, after[..., :-1]], axis=-1), (k, columns))

    def step(p: Any, inputs: Any) -> Any:
        q, moves = inputs
        d = p + q
        d = d - xp.max(d, axis=0)
        best, pointer = d[0] + transition[0][:, None], xp.zeros(d.shape, dtype=xp.int32)
        for i in range(1, k):  # faster than an argmax across rows
            reached = d[i] + transition[i][:, None]
            pointer = xp.where(reached > best, i, pointer)
            best = xp.maximum(best, reached)
        return xp.where(moves, best, d), xp.where(moves, pointer, stay)

    def body(state: Any) -> Any:
        index, _, start, *_ = state
        after, pointers = flow.scan(step, start, (q, moves))
        better = starts(after)
        gap = xp.max(xp.abs(better - start) / (1.0 + xp.abs(start)))
        return index + 1, gap, better, after, pointers

    zeros = xp.zeros_like(q[0])
    init = xp.zeros((), dtype=xp.int32), 1.0 + zeros[0, 0], starts(zeros), zeros, xp.zeros(q.shape, dtype=xp.int32)
    passes = _GUESSES if blocks > 1 else 1
    _, gap, _, after, pointers = flow.while_loop(lambda s: (s[1] > _TOLERANCE) & (s[0] < passes), body, init)
    return gap > _TOLERANCE, after, pointers


def _trace(flow: Any, xp: Any, after: Any, pointers: Any, chains: int) -> Any:
    """The states (length, 1, columns) on the best path that ends in the best state of each chain."""
    _, k, columns = pointers.shape

    def step(z: Any, pointer: Any) -> Any:
        z = xp.take_along_axis(xp.astype(pointer, xp.int64), z, axis=0)
        return z, z

    def by_block(x: Any) -> Any:
        return xp.moveaxis(xp.reshape(x, (x.shape[0], chains, columns // chains)), -1, 0)

    every = xp.astype(xp.broadcast_to(xp.arange(k)[:, None], (k, columns)), xp.int64)
    heads = flow.scan(lambda z, pointer: (step(z, pointer)[0], ()), every, pointers, reverse=True)[0]
    last = xp.astype(xp.argmax(by_block(after)[-1], axis=0)[None], xp.int64)
    behind = flow.scan(lambda z, head: (xp.take_along_axis(head, z, axis=0), z), last, by_block(heads), reverse=True)[1]
    return flow.scan(step, xp.reshape(xp.moveaxis(behind, 0, -1), (1, columns)), pointers, reverse=True)[1]
