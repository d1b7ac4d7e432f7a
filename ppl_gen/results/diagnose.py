"""What a user should be told about draws: warnings with the remedy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppl_gen import evaluation

_RHAT = 1.01
_ESS_PER_CHAIN = 100


def diagnose(draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray]) -> list[str]:
    """Warnings about the draws of a sampler.

    Args:
        draws: name -> (chain, draw, ...), latents only.
        stats: name -> (chain, draw).
    """
    found = [_divergences(stats), _saturated(stats), *_frozen(draws, stats), _unmixed(draws)]
    return [message for message in found if message]


def _divergences(stats: Mapping[str, np.ndarray]) -> str | None:
    diverging = np.asarray(stats.get("diverging", np.zeros((1, 1))))
    count = int(diverging.sum())
    if not count:
        return None
    return (
        f"{count} of {diverging.size} transitions diverged: the posterior has regions that the sampler cannot "
        "enter, and "
        "estimates are biased. Reparameterise (e.g. non-centred: theta = mu + tau * z), or raise target_accept_prob"
    )


def _saturated(stats: Mapping[str, np.ndarray]) -> str | None:
    full = np.asarray(stats.get("reached_max_treedepth", np.zeros((1, 1))))
    if full.mean() <= 0.05:
        return None
    return (
        f"{full.mean():.0%} of the trajectories reached the maximum tree depth: the posterior is "
        "ill-conditioned for this "
        "step size. Rescale the latents, set dense_mass=True, or raise max_tree_depth"
    )


def _frozen(draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray]) -> list[str]:
    """A chain that hardly moves, or whose log density is far below that of the others, is stuck."""
    messages = []
    lp = stats.get("lp")
    moves = [np.asarray(x).reshape(*x.shape[:2], -1) for x in draws.values() if x.shape[1] > 1]
    for chain in range(len(moves[0]) if moves else 0):
        moved = max(float((np.diff(m[chain], axis=0) != 0).any(-1).mean()) for m in moves)
        if moved < 0.02:
            messages.append(f"chain {chain} hardly moved ({moved:.1%} of its transitions): {_RESTART}")
    if lp is not None and len(lp) > 1:
        centre, spread = np.median(lp, 1), np.median(np.std(lp, 1)) + 1e-12
        for stuck in np.flatnonzero(np.median(centre) - centre > 20 * spread + 10):
            messages.append(
                f"chain {stuck} is stuck at a log density of {centre[stuck]:.6g}, where the others have "
                f"{np.median(centre):.6g}: {_RESTART}"
            )
    return messages


_RESTART = "leave it out of any summary; run again with another seed, more num_warmup, or init near the others"


def _unmixed(draws: Mapping[str, np.ndarray]) -> str | None:
    worst_rhat, worst_ess, at = 1.0, np.inf, ("", "")
    for name, x in draws.items():
        if x.shape[1] < 4 or not np.isfinite(x).all() or x.dtype.kind != "f" or not x.size:
            continue
        rhat, ess = _varying(evaluation.rhat(x)), _varying(evaluation.ess(x))
        if rhat.size and rhat.max() > worst_rhat:
            worst_rhat, at = float(rhat.max()), (name, at[1])
        if ess.size and ess.min() < worst_ess:
            worst_ess, at = float(ess.min()), (at[0], name)
    chains = max((len(x) for x in draws.values()), default=1)
    if worst_rhat <= _RHAT and worst_ess >= _ESS_PER_CHAIN * chains:
        return None
    return (
        f"the chains have not mixed enough: worst R-hat {worst_rhat:.3f} ({at[0] or 'none'}), smallest bulk ESS "
        f"{worst_ess:.0f} ({at[1]}); expected at most {_RHAT} and at least {_ESS_PER_CHAIN} a chain. Draw more "
        "samples, "
        "warm up longer, or reparameterise"
    )


def _varying(values: np.ndarray) -> np.ndarray:
    """Without the entries that are constant by construction, e.g. the diagonal of a correlation matrix."""
    values = np.ravel(np.asarray(values))
    return values[np.isfinite(values)]
