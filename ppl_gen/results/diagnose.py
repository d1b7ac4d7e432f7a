"""What a user should be told about draws: warnings with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ppl_gen import evaluation

_RHAT = 1.01
_ESS_PER_CHAIN = 100


def diagnose(draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray], names: Iterable[str]) -> list[str]:
    """Warnings about the draws of a sampler; one variable after the other is asked for, so that they may be in a file.

    Args:
        draws: name -> (chain, draw, ...).
        stats: name -> (chain, draw).
        names: of the latents among the draws.
    """
    mixing, moved = _Mixing(), np.zeros(0)
    for name in names:
        x = np.asarray(draws[name])
        mixing.add(name, x)
        if x.shape[1] > 1:
            own = np.array([float(_changes(chain).mean()) for chain in x])
            moved = np.maximum(moved, own) if moved.size else own
    found = [_divergences(stats), _saturated(stats), *_frozen(moved, stats), mixing.message()]
    return [message for message in found if message]


def _changes(chain: np.ndarray) -> np.ndarray:
    """Whether each draw of a chain (draw, ...) differs from the one before."""
    flat = chain.reshape(len(chain), -1)
    return (flat[1:] != flat[:-1]).any(-1)


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


def _frozen(moved: np.ndarray, stats: Mapping[str, np.ndarray]) -> list[str]:
    """A chain that hardly moves, or whose log density is far below that of the others, is stuck."""
    messages = [
        f"chain {chain} hardly moved ({share:.1%} of its transitions): {_RESTART}"
        for chain, share in enumerate(moved)
        if share < 0.02
    ]
    lp = stats.get("lp")
    if lp is not None and len(lp) > 1:
        centre, spread = np.median(lp, 1), np.median(np.std(lp, 1)) + 1e-12
        for stuck in np.flatnonzero(np.median(centre) - centre > 20 * spread + 10):
            messages.append(
                f"chain {stuck} is stuck at a log density of {centre[stuck]:.6g}, where the others have "
                f"{np.median(centre):.6g}: {_RESTART}"
            )
    return messages


_RESTART = "leave it out of any summary; run again with another seed, more num_warmup, or init near the others"


class _Mixing:
    """The worst R-hat and the smallest effective sample size of the variables seen."""

    def __init__(self) -> None:
        self.rhat, self.ess, self.chains = 1.0, np.inf, 0
        self.rhat_at = self.ess_at = ""

    def add(self, name: str, x: np.ndarray) -> None:
        self.chains = max(self.chains, len(x))
        if x.shape[1] < 4 or not np.isfinite(x).all() or x.dtype.kind != "f" or not x.size:
            return
        rhat, ess = _varying(evaluation.rhat(x)), _varying(evaluation.ess(x))
        if rhat.size and rhat.max() > self.rhat:
            self.rhat, self.rhat_at = float(rhat.max()), name
        if ess.size and ess.min() < self.ess:
            self.ess, self.ess_at = float(ess.min()), name

    def message(self) -> str | None:
        if self.rhat <= _RHAT and self.ess >= _ESS_PER_CHAIN * (self.chains or 1):
            return None
        return (
            f"the chains have not mixed enough: worst R-hat {self.rhat:.3f} ({self.rhat_at or 'none'}), smallest bulk "
            f"ESS {self.ess:.0f} ({self.ess_at}); expected at most {_RHAT} and at least {_ESS_PER_CHAIN} a chain. Draw "
            "more samples, warm up longer, or reparameterise"
        )


def _varying(values: np.ndarray) -> np.ndarray:
    """Without the entries that are constant by construction, e.g. the diagonal of a correlation matrix."""
    values = np.ravel(np.asarray(values))
    return values[np.isfinite(values)]
