"""Observations of Markov chains cut into blocks of time, and what is summed up over them.

Layout: (steps of a block, groups of chains that share their parameters, states or features, columns), with a column for
each block of each chain, those of one chain together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

_STEPS = 4096  # of a block at most


class Chains(NamedTuple):
    """Observations of chains, cut into blocks by :func:`cut`.

    Attributes:
        x: what the emissions are computed from, name -> array. Where chains end early, with "live", one row that is
            False after the end; where steps do not all count once, with "counts", one row.
        pairs: one row, how often the transition out of a step counts: 0 at the end of a chain.
        first: (groups or 1, 1, chains), how often the first state counts.
    """

    x: dict[str, Any]
    pairs: Any
    first: Any


class Emission(Protocol):
    """What the chains are observed by: a value with a hash. ``x`` is that of one step."""

    def log_density(self, xp: Any, params: Any, x: dict[str, Any]) -> Any:
        """log p(x | state) (groups, K, columns)."""

    def statistics(self, xp: Any, params: Any, x: dict[str, Any], gamma: Any) -> Any:
        """Sums over columns of what ``gamma`` (groups, K, columns) weights, a tree; 0 where gamma is."""


class Sums(NamedTuple):
    """Sums over the posterior of the chains of each group.

    Attributes:
        log_marginal: (groups, chains), not summed.
        first: of the first state (groups, K).
        pairs: of transitions (groups, K, K).
        statistics: of the emissions.
        gamma: the posterior itself (length, groups, K, columns), or ().
    """

    log_marginal: Any
    first: Any
    pairs: Any
    statistics: Any
    gamma: Any


def block_length(num_chains: int, num_steps: int) -> int:
    """Steps of a block: enough columns to be busy, and few borders."""
    wanted = min(max(math.isqrt(num_chains * num_steps), 32), _STEPS)
    return -(-num_steps // max(1, round(num_steps / wanted)))


def cut(xp: Any, x: Any, length: int) -> Any:
    """(groups, chains, T, features) to (length, groups, features, columns), a chain's columns together, 0 after T."""
    groups, chains, num_steps, width = x.shape
    blocks = -(-num_steps // length)
    if blocks * length > num_steps:
        rest = xp.zeros((groups, chains, blocks * length - num_steps, width), dtype=x.dtype)
        x = xp.concatenate([x, rest], axis=2)
    return xp.transpose(xp.reshape(x, (groups, chains * blocks, length, width)), (2, 0, 3, 1))


def join(xp: Any, x: Any, chains: int, num_steps: int) -> Any:
    """The inverse of :func:`cut`."""
    length, groups, width, columns = x.shape
    x = xp.reshape(xp.transpose(x, (1, 3, 0, 2)), (groups, chains, columns // chains * length, width))
    return x[:, :, :num_steps]


def tree_map(f: Callable[[Any], Any], tree: Any) -> Any:
    """``f`` of each array of a tree of dicts, tuples and named tuples."""
    if isinstance(tree, dict):
        return {name: tree_map(f, x) for name, x in tree.items()}
    if isinstance(tree, tuple):
        parts = [tree_map(f, x) for x in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return f(tree)
