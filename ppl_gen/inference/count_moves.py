"""Metropolis moves of discrete values: symmetric jumps of whole numbers, of all independent rows at once.

The moves are of a sweep: of each block of independent rows one proposal a row, then of values that depend on each other
some proposals one after the other, of one value or of two at a time. All leave the density as it is, so that their
succession does (Tierney 1994).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ppl_gen.inference.count_blocks import Blocks, Rows, change

GOAL = 0.44  # acceptance of moves of one number (Roberts & Rosenthal 2001, section 5)
LEAST, MOST = 0.1, 1e6  # widths
_FAR, _OFTEN = 10.0, 0.1  # times the width, and how often: for modes that lie apart
_PAIRS, _OPPOSED = 0.5, 0.75  # picks that move two values, and those of them that keep their sum, the likelier tie
_JOINT = 4  # values that depend on each other are picked so often in a sweep, at most


class Walk(NamedTuple):
    """Discrete values under way.

    Attributes:
        counts: (chains, counts).
        entries: of the log density there, (chains, entries).
        rate: sums of acceptance probabilities of the proposals so far, (chains, counts); ``tried`` their number.
    """

    counts: Any
    entries: Any
    rate: Any
    tried: Any


class At(NamedTuple):
    """The density of discrete values, the rest given: ``entries(counts)``, and ``inside(counts, proposed)``."""

    entries: Callable[[Any], Any]
    inside: Callable[[Any, Any], Any]


def noise(blocks: Blocks, num_chains: int, num_sweeps: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What randomness the sweeps of one transition take: of each, four rows for every count and eight for a pick."""
    return {"walk": ("uniform", (num_chains, num_sweeps, 4 * blocks.dim + 8 * _picks(blocks)))}


def _picks(blocks: Blocks) -> int:
    return min(_JOINT, len(blocks.joint))


def sweeps(xp: Any, at: At, blocks: Blocks, width: Any, counts: Any, uniform: Any) -> tuple[Walk, Any]:
    """Sweeps over all counts, as many as there are ``uniform`` numbers for (chains, sweeps, ...); widths (counts,).

    Returns:
        where they end; what the log density gained by what was seen of it (chains,).
    """
    none, picks = xp.zeros(counts.shape), _picks(blocks)
    begun = Walk(counts, at.entries(counts), none, none)

    def sweep(walk: Walk, drawn: Any) -> tuple[Walk, Any]:
        jumps = drawn[: 4 * blocks.dim].reshape((4, blocks.dim, -1))
        for rows in blocks.rows:
            walk = _move_rows(xp, at, rows, width, walk, xp.swapaxes(jumps[:, rows.start : rows.stop], 1, 2))
        picked = drawn[4 * blocks.dim :].reshape((picks, 8, -1)) if picks else ()
        for one in picked:
            walk = _move_joint(xp, at, blocks.joint, width, walk, one)
        return walk, xp.zeros(())

    walk = xp.scan(sweep, begun, xp.moveaxis(uniform, 0, -1))[0]
    return walk, xp.sum(change(xp, walk.entries, begun.entries), axis=-1)


def jump(xp: Any, width: Any, size: Any, far: Any, sign: Any) -> Any:
    """Whole numbers from -inf to inf, but for 0, of a symmetric distribution, of uniform numbers.

    Their size less 1 is geometric with a mean of about ``width``, now and then ten times as wide.
    """
    width = width * xp.where(far < _OFTEN, _FAR, 1.0)
    return xp.where(sign < 0.5, -1.0, 1.0) * (1.0 + xp.floor(-xp.log1p(-size) * width))


def _move_rows(xp: Any, at: At, rows: Rows, width: Any, walk: Walk, uniform: Any) -> Walk:
    """One proposal to each row of a block; what an entry gains counts for the row that it depends on."""
    size, far, sign, accepting = (uniform[i] for i in range(4))
    step = jump(xp, width[rows.start : rows.stop], size, far, sign)
    possible = at.inside(walk.counts, _add(xp, walk.counts, rows, step))[:, rows.start : rows.stop]
    step = xp.where(possible, step, 0.0)  # nothing is evaluated outside of a support
    proposed = _add(xp, walk.counts, rows, step)
    new = at.entries(proposed)
    none = xp.zeros(new[:, :1].shape)
    gain = xp.take(xp.concatenate([change(xp, new, walk.entries), none], axis=1), rows.own.reshape(-1), axis=1)
    log_ratio = xp.sum(gain.reshape((-1, *rows.own.shape)), axis=-1)
    log_ratio = xp.where(possible & ~xp.isnan(log_ratio), log_ratio, -xp.inf)
    accept = xp.log(accepting) < log_ratio
    counts = _add(xp, walk.counts, rows, xp.where(accept, step, 0.0))
    moved = xp.take(xp.concatenate([accept, none > 0], axis=1), rows.owner, axis=1)
    one = xp.ones(step.shape)
    rate = _add(xp, walk.rate, rows, xp.exp(xp.minimum(log_ratio, 0.0)))
    return Walk(counts, xp.where(moved, new, walk.entries), rate, _add(xp, walk.tried, rows, one))


def _add(xp: Any, x: Any, rows: Rows, more: Any) -> Any:
    """x (chains, counts) with ``more`` (chains, rows) added to a block."""
    return xp.concatenate([x[:, : rows.start], x[:, rows.start : rows.stop] + more, x[:, rows.stop :]], axis=1)


def _move_joint(xp: Any, at: At, joint: Any, width: Any, walk: Walk, uniform: Any) -> Walk:
    """One proposal to one of the values that depend on each other, or to two by the same jump, alike or opposed."""
    first, second, pair, opposed, size, far, sign, accepting = (uniform[i] for i in range(8))
    count = len(joint)
    i = xp.floor(first * count)
    j = xp.mod(i + 1.0 + xp.floor(second * (count - 1)), float(count)) if count > 1 else i
    one, other = (_one_hot(xp, joint, k, walk.counts.shape[1]) for k in (i, j))
    both = xp.where((pair < _PAIRS) & (i != j), xp.where(opposed < _OPPOSED, -1.0, 1.0), 0.0)
    step = jump(xp, xp.sum(one * width, axis=-1), size, far, sign)[:, None] * (one + both[:, None] * other)
    possible = xp.all(at.inside(walk.counts, walk.counts + step) | (step == 0), axis=-1)
    step = xp.where(possible[:, None], step, 0.0)
    # Where one of the two bounds the other, the way back must be as open as the way there.
    back = xp.all(at.inside(walk.counts + step, walk.counts) | (step == 0), axis=-1)
    new = at.entries(walk.counts + step)
    log_ratio = xp.sum(change(xp, new, walk.entries), axis=-1)
    log_ratio = xp.where(possible & back & ~xp.isnan(log_ratio), log_ratio, -xp.inf)
    accept = (xp.log(accepting) < log_ratio)[:, None]
    rate = walk.rate + one * xp.exp(xp.minimum(log_ratio, 0.0))[:, None]
    counts = walk.counts + xp.where(accept, step, 0.0)
    return Walk(counts, xp.where(accept, new, walk.entries), rate, walk.tried + one)


def _one_hot(xp: Any, joint: Any, index: Any, dim: int) -> Any:
    """(chains, counts), 1 at the coordinate ``joint[index]``."""
    at = xp.take(xp.asarray(joint), xp.astype(index, xp.int64), axis=0)
    return xp.where(at[:, None] == xp.arange(dim), 1.0, 0.0)
