"""Exact inference in discrete Markov chains: z_1, ..., z_T in K states, each step with a factor of its own.

The distribution of a chain, up to a constant, is p(z_1) prod_t p(z_t | z_{t-1}) prod_t e_t(z_t), where e_t may be any
factor, as the density of an observation. Everything is linear in T, in time and memory, exact where transitions are
structurally zero and where factors differ by any amount, and for batches along leading axes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from ppl_gen import markov_blocks, markov_logs
from ppl_gen.markov_layout import Chains, block_length, cut, join
from ppl_gen.markov_logs import LOG_ZERO
from ppl_gen.markov_paths import simulate, viterbi
from ppl_gen.winners import highest

__all__ = ["forward_backward", "log_marginal", "log_maximum", "simulate", "viterbi"]

_SMALL = 2**17  # entries of products of matrices, up to which plain array functions are the faster ones


def log_marginal(xp: Any, log_initial: Any, log_transition: Any, log_emission: Any) -> Any:
    """The logarithm of the sum over all paths, shape (...); its derivatives are the posterior marginals.

    Args:
        log_initial: (..., K).
        log_transition: (..., K, K), from row to column, or (..., T-1, K, K), one for each step. In a batch the latter
            has as many leading axes as ``log_emission``. The rows need not be normalised.
        log_emission: (..., T, K). Leading axes broadcast.
    """
    initial, transition, emission = _aligned(xp, log_initial, log_transition, log_emission)
    if math.prod(emission.shape) * emission.shape[-1] ** 2 <= _SMALL:
        return xp.jit(_halved, (xp,))(initial, transition, emission)
    flat = _flat(xp, initial, transition, emission)
    return xp.reshape(xp.routine(_with_gradients, (xp,), True)(*flat), tuple(emission.shape[:-2]))


def log_maximum(xp: Any, log_initial: Any, log_transition: Any, log_emission: Any) -> Any:
    """The logarithm of the most probable path's term (...); its derivatives by ``log_emission`` are 1 along that path.

    Arguments as for :func:`log_marginal`. :func:`viterbi` is faster, where all chains have the same transitions.
    """
    return _halved(xp, *_aligned(xp, log_initial, log_transition, log_emission), functools.partial(highest, xp))


def forward_backward(xp: Any, log_initial: Any, log_transition: Any, log_emission: Any) -> tuple[Any, Any, Any]:
    """The log marginal (...), the posterior of each step (..., T, K) and expected transitions (..., K, K).

    Arguments as for :func:`log_marginal`. Nothing of size T K^2 is made. An impossible chain has log marginal -inf and
    posterior 0.
    """
    initial, transition, emission = _aligned(xp, log_initial, log_transition, log_emission)
    lead, k = tuple(emission.shape[:-2]), emission.shape[-1]
    value, gamma, pairs = xp.routine(_marginals, (xp,))(*_flat(xp, initial, transition, emission))
    return xp.reshape(value, lead), xp.reshape(gamma, tuple(emission.shape)), xp.reshape(pairs, (*lead, k, k))


# Shapes -----------------------------------------------------------------------------------------------------------


def _aligned(xp: Any, initial: Any, transition: Any, emission: Any) -> tuple[Any, Any, Any]:
    """With all leading axes in full; transitions that are the same at each step have an axis of size 1 for it."""
    num_steps, k = emission.shape[-2:]
    if transition.ndim < emission.ndim + 1:
        transition = transition[..., None, :, :]
    fits = initial.shape[-1] == k and tuple(transition.shape[-2:]) == (k, k)
    if not fits or transition.shape[-3] not in (1, num_steps - 1):
        raise ValueError(
            "a chain has log_initial (..., K), log_transition (..., K, K) or (..., T-1, K, K) and log_emission "
            f"(..., T, K), got {tuple(initial.shape)}, {tuple(transition.shape)} and {tuple(emission.shape)}"
        )
    return _in_full(xp, initial, transition, emission)


def _in_full(xp: Any, initial: Any, transition: Any, emission: Any) -> tuple[Any, Any, Any]:
    """With the leading axes of all."""
    lead = xp.broadcast_shapes(tuple(initial.shape[:-1]), tuple(transition.shape[:-3]), tuple(emission.shape[:-2]))
    return (
        xp.broadcast_to(initial, (*lead, *initial.shape[-1:])),
        xp.broadcast_to(transition, (*lead, *transition.shape[-3:])),
        xp.broadcast_to(emission, (*lead, *emission.shape[-2:])),
    )


def _flat(xp: Any, initial: Any, transition: Any, emission: Any) -> tuple[Any, Any, Any]:
    """With one leading axis."""
    num_steps, k = emission.shape[-2:]
    return (
        xp.reshape(initial, (-1, k)),
        xp.reshape(transition, (-1, transition.shape[-3], k, k)),
        xp.reshape(emission, (-1, num_steps, k)),
    )


# Short chains -----------------------------------------------------------------------------------------------------


def _halved(xp: Any, initial: Any, transition: Any, emission: Any, over: Any = None) -> Any:
    """The log marginal by products of neighbouring matrices, which may be differentiated any number of times.

    Args:
        over: what goes over the states of a step; logsumexp where None.
    """
    over = over or xp.logsumexp
    initial, transition, emission = (xp.maximum(x, LOG_ZERO) for x in (initial, transition, emission))
    first, links = initial + emission[..., 0, :], transition + emission[..., 1:, None, :]
    while (n := links.shape[-3]) > 1:
        left, right = links[..., 0 : n - 1 : 2, :, :], links[..., 1:n:2, :, :]
        joined = over(left[..., None] + right[..., None, :, :], axis=-2)
        links = xp.concatenate([joined, links[..., n - n % 2 :, :, :]], axis=-3)
    last = over(first[..., None] + links[..., 0, :, :], axis=-2) if links.shape[-3] else first
    total = over(last, axis=-1)
    return xp.where(total > 0.5 * LOG_ZERO, total, -xp.inf)


# Long chains ------------------------------------------------------------------------------------------------------


def _with_gradients(flow: Any, xp: Any, *chain: Any) -> tuple[Any, Any]:
    """The log marginal and its gradients; a routine."""
    value, gamma, pairs = _posterior(flow, xp, *chain)
    return value, (gamma[..., 0, :], pairs, gamma)


def _marginals(flow: Any, xp: Any, *chain: Any) -> tuple[Any, Any, Any]:
    """The log marginal, posterior and summed transitions; a routine."""
    value, gamma, pairs = _posterior(flow, xp, *chain)
    return value, gamma, xp.sum(pairs, axis=-3)


def _posterior(flow: Any, xp: Any, initial: Any, transition: Any, emission: Any) -> tuple[Any, Any, Any]:
    """Log marginals (...), posteriors (..., T, K), transitions (..., 1 or T-1, K, K)."""
    initial, transition, emission = _in_full(xp, initial, transition, emission)
    *lead, num_steps, k = emission.shape
    counted = xp.where(xp.arange(num_steps) < num_steps - 1, 1.0, 0.0)[None, None, :, None]
    infer = _constant if transition.shape[-3] == 1 else _changing
    value, gamma, pairs = infer(flow, xp, *_flat(xp, initial, transition, emission), counted)
    gamma, pairs = xp.reshape(gamma, (*lead, num_steps, k)), xp.reshape(pairs, (*lead, *pairs.shape[1:]))
    return xp.reshape(value, tuple(lead)), gamma, pairs


def _constant(flow: Any, xp: Any, initial: Any, links: Any, emission: Any, counted: Any) -> tuple[Any, Any, Any]:
    """The same transitions at each step. What their rows lack to 1 goes into the emissions before the last."""
    _, num_steps, k = emission.shape
    transition = links[:, 0]
    lacking = xp.maximum(xp.logsumexp(transition, axis=-1, keepdims=True), LOG_ZERO)
    rows = xp.where(lacking > LOG_ZERO, xp.exp(transition - lacking), 1.0 / k)
    emission = emission + counted[0] * lacking[..., 0][:, None]
    scale = xp.maximum(xp.logsumexp(initial, axis=-1, keepdims=True), LOG_ZERO)
    length = block_length(len(emission), num_steps)
    x = {"q": cut(xp, emission[:, None], length)}
    if num_steps % length:
        x["live"] = cut(xp, xp.ones_like(counted), length) > 0
    chains = Chains(x, cut(xp, counted, length), xp.ones((1, 1, 1)))
    sums = markov_blocks.posterior(flow, xp, _Given(), True, xp.exp(initial - scale), rows, (), chains)
    gamma = join(xp, sums.gamma, 1, num_steps)[:, 0]
    return sums.log_marginal[:, 0] + scale[:, 0], gamma, sums.pairs[:, None]


@dataclass(frozen=True)
class _Given:
    """Log emissions that are given as they are."""

    def log_density(self, xp: Any, params: Any, x: dict[str, Any]) -> Any:
        return x["q"]

    def statistics(self, xp: Any, params: Any, x: dict[str, Any], gamma: Any) -> tuple[()]:
        return ()


def _changing(flow: Any, xp: Any, initial: Any, transition: Any, emission: Any, counted: Any) -> tuple[Any, Any, Any]:
    """Transitions of each step's own."""
    k = emission.shape[-1]
    links = xp.concatenate([transition, xp.full_like(transition[:, :1], -math.log(k))], axis=1)
    value, pairs, _, gamma = markov_logs.posterior(
        flow, xp, lambda x: x["q"], lambda x, gamma: (), True, initial[..., None],
        xp.moveaxis(links, 1, 0)[..., None], {"q": xp.moveaxis(emission, 1, 0)[..., None]}, xp.moveaxis(counted, 2, 0),
    )  # fmt: skip
    return value[:, 0], xp.moveaxis(gamma[..., 0], 0, 1), xp.moveaxis(pairs[:-1, ..., 0], 0, 1)
