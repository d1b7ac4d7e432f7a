"""Exact inference in discrete Markov chains."""

from __future__ import annotations

from typing import Any

_LOG_ZERO = -1e30  # finite, so that derivatives of what is impossible are 0 and not NaN


def log_marginal(xp: Any, log_initial: Any, log_transition: Any, log_emission: Any) -> Any:
    """log sum over z of p(z_1) prod_t p(z_t | z_{t-1}) prod_t e_t(z_t), summed by halving: differentiable by all.

    Args:
        log_initial: (..., K).
        log_transition: (..., K, K), from row to column, or (..., T-1, K, K) for one matrix a step. A homogeneous
            matrix of a batched chain has the batch axes of ``log_emission``, or none.
        log_emission: (..., T, K).
    """
    lead = tuple(log_emission.shape[:-2])
    log_initial, log_transition, log_emission = (
        xp.maximum(x, _LOG_ZERO) for x in (log_initial, log_transition, log_emission)
    )
    if log_transition.ndim < len(lead) + 3:
        log_transition = log_transition[..., None, :, :]
    first = log_initial + log_emission[..., 0, :]
    links = log_transition + log_emission[..., 1:, None, :]
    while links.shape[-3] > 1:
        n = links.shape[-3] // 2 * 2
        left, right, rest = links[..., 0:n:2, :, :], links[..., 1:n:2, :, :], links[..., n:, :, :]
        links = xp.concatenate([xp.logsumexp(left[..., None] + right[..., None, :, :], axis=-2), rest], axis=-3)
    last = first if not links.shape[-3] else xp.logsumexp(first[..., None] + links[..., 0, :, :], axis=-2)
    total = xp.logsumexp(last, axis=-1)
    return xp.where(total > _LOG_ZERO / 2, total, -xp.inf)
