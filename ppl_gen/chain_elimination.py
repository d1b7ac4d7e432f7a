"""Summing out a Markov chain whose states are laid out along one dimension and whose steps are a plate's."""

from __future__ import annotations

from typing import Any

from ppl_gen import markov


def sum_chain(
    xp: Any, first: Any, links: Any, steps: Any, state: int, previous: int, time: int, best: bool = False
) -> Any:
    """log sum over all paths, or the maximum where the ``best`` is wanted.

    Dimensions ``state``, ``previous`` and ``time`` are then of size 1.

    Args:
        first: log probabilities of the first state, along ``state``.
        links: log transition probabilities, from ``previous`` to ``state``.
        steps: log factors of each state at each step, along ``state`` and ``time``.
        state, previous, time: negative dimensions. All tensors broadcast in the others, which are a batch of chains.
    """
    rank = max(-previous, *(len(x.shape) for x in (first, links, steps)))
    first, links, steps = (_of_rank(x, rank) for x in (first, links, steps))
    batch = [d for d in range(-rank, 0) if d not in (state, previous, time)]
    order = [rank + d for d in (*batch, time, previous, state)]
    first, links, steps = (xp.transpose(x, order) for x in (first, links, steps))
    lead, k = len(batch), steps.shape[-1]
    value = (markov.log_maximum if best else markov.log_marginal)(
        xp,
        first.reshape((*first.shape[:lead], k)),
        links.reshape((*links.shape[:lead], k, k)),
        steps.reshape((*steps.shape[:lead], -1, k)),
    )
    back = sorted(range(rank), key=lambda i: order[i])
    return xp.transpose(value.reshape((*value.shape, 1, 1, 1)), back)


def _of_rank(x: Any, rank: int) -> Any:
    return x.reshape((1,) * (rank - len(x.shape)) + tuple(x.shape))
