"""Forward-backward in log space, step after step: for chains in which linear space loses what counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LOG_ZERO = -1e30  # finite, so that nothing impossible becomes NaN


def posterior(
    flow: Any, xp: Any, log_emission: Callable[..., Any], statistics: Callable[..., Any], keep: bool,
    log_initial: Any, log_transition: Any, x: Any, pairs: Any,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Sums over the posterior of chains, a column each, in groups.

    Args:
        log_emission: ``x of one step -> log e(x | state)`` (groups, K, chains).
        statistics: ``(x of one step, its posterior) -> a tree of sums over chains``.
        keep: whether the posterior of all steps is wanted, and not of the first alone.
        log_initial: (groups, K, 1 or chains).
        log_transition: (groups, K, K, 1 or chains), or with an axis of steps in front: out of each step.
        x: arrays with steps first, name -> array.
        pairs: (T, groups or 1, 1, chains), how often the transition out of a step counts.

    Returns:
        log marginals (groups, chains); pairs (groups, K, K), or with an axis of steps in front and (K, K, chains) where
        the transitions have one; summed statistics; the posterior (T or 1, groups, K, chains). An
        impossible chain has log marginal -inf and posterior 0.
    """
    log_transition = xp.maximum(log_transition, LOG_ZERO)
    each = log_transition.ndim == 5
    links = log_transition if each else ()

    def forward(carry: Any, inputs: Any) -> Any:
        p, total = carry
        x, link = inputs
        q = xp.maximum(log_emission(x), LOG_ZERO)
        evidence = xp.logsumexp(p + q, axis=1, keepdims=True)
        q = q - evidence
        a = p + q
        p = xp.logsumexp(a[:, :, None] + (link if each else log_transition), axis=1)
        return (p, total + evidence), (a, q)

    def backward(carry: Any, inputs: Any) -> Any:
        u, summed, found, _ = carry
        a, q, weight, x, link = inputs
        out = (link if each else log_transition) + u[:, None]
        v = xp.logsumexp(out, axis=2)
        gamma = probability(a + v)
        taken = probability(a[:, :, None] + out) * weight[:, :, None]
        summed = summed if each else summed + xp.sum(taken, axis=-1)
        return (q + v, summed, add(found, statistics(x, gamma)), gamma), (gamma if keep else (), taken if each else ())

    def probability(logarithm: Any) -> Any:
        found = xp.reshape(possible, (len(possible), *(1,) * (logarithm.ndim - 2), -1))
        return xp.where(found, xp.exp(xp.minimum(logarithm, 0.0)), 0.0)

    start = xp.maximum(log_initial, LOG_ZERO) + xp.zeros_like(pairs[0])
    (_, total), (a, q) = flow.scan(forward, (start, xp.zeros_like(start[:, :1])), (x, links))
    possible = total[:, 0] > 0.5 * LOG_ZERO
    zeros, k = xp.zeros_like(a[0]), a.shape[2]
    nothing = xp.zeros((a.shape[1], k, k)), statistics({name: part[0] for name, part in x.items()}, zeros)
    last, (gamma, taken) = flow.scan(backward, (zeros, *nothing, zeros), (a, q, pairs, x, links), reverse=True)
    _, summed, found, first = last
    log_marginal = xp.where(possible, total[:, 0], -xp.inf)
    return log_marginal, taken if each else summed, found, gamma if keep else first[None]


def add(a: Any, b: Any) -> Any:
    """The sum of two equal trees of dicts and tuples of arrays."""
    if isinstance(a, dict):
        return {name: add(part, b[name]) for name, part in a.items()}
    return tuple(map(add, a, b)) if isinstance(a, tuple) else a + b
