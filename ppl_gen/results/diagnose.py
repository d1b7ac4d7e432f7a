"""What a user should be told about draws: warnings with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ppl_gen import evaluation

_RHAT = 1.01
_ESS_PER_CHAIN, _ESS_ENOUGH = 100, 1000  # the second of all chains together, however many there are
_BFMI = 0.3
_SWITCHED, _SORTED = 1.05, 1.02  # R-hat of components as they come, and sorted
_MOST_COMPONENTS = 50
_HARDLY = 0.02  # of its transitions move a chain that is stuck
_FEW_DRAWS = 4
# Larger sites are screened: of all scalars by moments, of those that look worst and some others in full.
_ALL_OF, _WORST, _OTHERS, _BATCHES = 1_000_000, 12, 8, 10

Draws = Mapping[str, np.ndarray]


def diagnose(draws: Draws, stats: Draws, names: Iterable[str] | None = None) -> list[str]:
    """Warnings about the draws of a sampler; none is ever an error.

    Rank-normalised split R-hat, bulk and tail effective sample sizes (Vehtari et al. 2021, Bayesian Analysis 16(2)),
    divergences, E-BFMI (Betancourt 2016, arXiv:1604.00695), saturated trees, chains that are stuck, switched labels. Of
    large sites R-hat and effective sizes are computed for the scalars that moments find the worst, and for some others.

    Args:
        draws: name -> (chain, draw, ...); asked for one after the other, for they may be in a file.
        stats: name -> (chain, draw).
        names: of the latents among the draws; all where None.
    """
    stats, names = {name: np.asarray(x) for name, x in stats.items()}, list(draws if names is None else names)
    seen = _Seen(_ALL_OF // max(len(names), 1))
    for name in names:
        seen.add(name, np.asarray(draws[name]))
    found = [
        _not_finite(seen.not_finite),
        _divergences(stats),
        _saturated(stats),
        _low_energy(stats),
        *_stuck(seen.moved, stats),
        _switched(seen.switched),
        _unmixed(seen),
    ]
    return [message for message in found if message]


class _Seen:
    """What is kept of the draws, a site after the other.

    Attributes:
        rhats, bulk, tail: name -> R-hat and effective sizes of its scalars, of large sites of some.
        num_chains: of the sites that these are known of.
        not_finite, switched: what is to be said of sites.
        moved: of each chain the share of transitions that changed something.
    """

    def __init__(self, most: int):
        self._most = most
        self.rhats: dict[str, np.ndarray] = {}
        self.bulk: dict[str, np.ndarray] = {}
        self.tail: dict[str, np.ndarray] = {}
        self.num_chains = 0
        self.not_finite: list[str] = []
        self.switched: list[str] = []
        self.moved = np.zeros(0)

    def add(self, name: str, x: np.ndarray) -> None:
        if x.size and x.shape[1] > 1:
            moved = np.array([_moved(chain) for chain in x])
            self.moved = np.maximum(self.moved, moved) if self.moved.size else moved
        if x.dtype.kind not in "fiu" or not x.size or x.shape[1] < _FEW_DRAWS:
            return
        if not np.isfinite(x.sum()) and not np.isfinite(x).all():
            self.not_finite.append(repr(name))
        some = _screened(x, self._most)
        if not np.isfinite(some).all():
            return
        rhat, bulk, tail = evaluation.convergence(some)
        self.rhats[name], self.bulk[name], self.tail[name] = _varying(rhat), _varying(bulk), _varying(tail)
        self.num_chains = max(self.num_chains, len(x))
        self.switched += _suspect(name, x, self.rhats[name])


def _screened(x: np.ndarray, most: int = _ALL_OF) -> np.ndarray:
    """(chain, draw, scalars): all of them, or of a large site those that look worst by moments, and some others."""
    x = x.reshape(*x.shape[:2], -1)
    num_chains, num_draws, count = x.shape
    if x.size <= most or count <= _WORST + _OTHERS or num_draws < 2 * _BATCHES:
        return x
    length = num_draws // _BATCHES
    means, squares = np.empty((2, num_chains, _BATCHES, count))
    for chain in range(num_chains):  # a chain at a time stays in the cache
        batches = x[chain, -length * _BATCHES :].reshape(_BATCHES, length, count)
        means[chain] = batches.mean(1)
        squares[chain] = np.einsum("blv,blv->bv", batches, batches) / length
    centre = means.mean((0, 1))
    total = squares.mean((0, 1)) - centre**2
    with np.errstate(divide="ignore", invalid="ignore"):
        # Large where batches differ in location or in size from what independent draws would: slow, or unmixed.
        location = ((means - centre) ** 2).mean((0, 1)) / total
        size = squares - 2 * means * centre + centre**2
        spread = (np.sqrt(np.maximum(size, 0.0)) / np.sqrt(total)).var((0, 1))
    looks = [np.argsort(np.nan_to_num(v, nan=-1.0, posinf=np.inf))[-_WORST // 2 :] for v in (location, spread)]
    others = np.linspace(0, count - 1, _OTHERS).astype(int)
    not_finite = np.flatnonzero(~np.isfinite(total))[:1]
    return x[:, :, np.unique(np.concatenate([*looks, others, not_finite]))]


def _not_finite(bad: list[str]) -> str | None:
    if not bad:
        return None
    return (
        f"draws of {', '.join(bad)} are not finite, and nothing computed from them can be used: bound their support, "
        "give them narrower priors, or use precision='float64'"
    )


def _divergences(stats: Draws) -> str | None:
    diverging = stats.get("diverging", np.zeros((1, 1)))
    count = int(diverging.sum())
    if not count:
        return None
    return (
        f"{count} of {diverging.size} transitions diverged: the posterior has regions that the sampler cannot "
        "enter, and estimates are biased. Reparameterise (e.g. non-centred: theta = mu + tau * z), or take smaller "
        "steps (a higher target_accept_prob, or a lower step_size)"
    )


def _saturated(stats: Draws) -> str | None:
    full = stats.get("reached_max_treedepth", np.zeros((1, 1)))
    if full.mean() <= 0.05:
        return None
    return (
        f"{full.mean():.0%} of the trajectories reached the maximum tree depth: the posterior is ill-conditioned for "
        "this step size. Rescale the latents, set dense_mass=True, or raise max_tree_depth"
    )


def _low_energy(stats: Draws) -> str | None:
    """E-BFMI: mean squared change of the energy over its variance; of samplers whose energy is kinetic too."""
    energy = stats.get("energy", np.zeros((0, 0)))
    potential_only = "lp" not in stats or np.array_equal(energy, -stats["lp"])
    if potential_only or energy.shape[1] < 20 or not np.isfinite(energy).all():
        return None
    variance = energy.var(1)
    fraction = (np.diff(energy, axis=1) ** 2).mean(1) / np.where(variance > 0, variance, np.inf)
    low = np.flatnonzero((fraction < _BFMI) & (variance > 0))
    if not low.size:
        return None
    return (
        f"the energy changes too slowly in {_chains(low)} (E-BFMI {fraction[low].min():.2f}, expected at least "
        f"{_BFMI}): the momentum does not reach the tails of the posterior. Reparameterise heavy tails and funnels "
        "(non-centred), or warm up longer"
    )


# Chains that are stuck --------------------------------------------------------------------------------------------

_RESTART = "leave {it} out of any summary; run again with another seed, more num_warmup, or init near the others"


def _stuck(moved: np.ndarray, stats: Draws) -> list[str]:
    """Chains that hardly move, whose density is far below that of the others, or that alone saturate their trees."""
    found, known = [], np.zeros(0, int)
    for chains, say in (_still(moved), _far_below(stats), _alone_saturated(stats)):
        new = np.setdiff1d(chains, known)
        known = np.union1d(chains, known)
        if new.size:
            it = "it" if len(new) == 1 else "them"
            found.append(f"{_chains(new)} {say(new)}: {_RESTART.format(it=it)}")
    return found


_Found = tuple[np.ndarray, Callable[[np.ndarray], str]]  # chains, and what is to be said of some of them


def _still(moved: np.ndarray) -> _Found:
    def say(which: np.ndarray) -> str:
        return f"hardly moved ({'at most ' * (len(which) > 1)}{moved[which].max():.1%} of the transitions)"

    return np.flatnonzero(moved < _HARDLY), say


def _far_below(stats: Draws) -> _Found:
    lp = stats.get("lp", np.zeros((0, 0)))
    if len(lp) < 2:
        return np.zeros(0, int), str
    with np.errstate(invalid="ignore"):
        centre, sd = np.median(lp, 1), np.std(lp, 1)
    good = np.isfinite(sd)  # a chain without a number must not hide the others
    least = np.median(centre[good]) - 20 * np.median(sd[good]) - 10 if good.any() else -np.inf

    def say(which: np.ndarray) -> str:
        at = ", ".join(f"{v:.6g}" for v in centre[which[:3]]) + ", ..." * (len(which) > 3)
        rest = np.nanmedian(np.delete(centre, which)) if len(which) < len(centre) else np.nan
        return f"{_are(which)} stuck at a log density of {at}, where the others have {rest:.6g}"

    return np.flatnonzero(~(centre >= least)), say


def _alone_saturated(stats: Draws) -> _Found:
    full = stats.get("reached_max_treedepth", np.zeros((0, 0)))
    share = full.mean(1) if full.size else np.zeros(0)
    if len(share) < 2 or np.median(share) >= 0.5:
        return np.zeros(0, int), str

    def say(which: np.ndarray) -> str:
        return (
            f"{_are(which)} stuck: {share[which].min():.0%} of the trajectories reached the maximum tree depth, and "
            f"{np.median(share):.0%} of the others'"
        )

    return np.flatnonzero(share > 0.95), say


def _are(which: np.ndarray) -> str:
    return "is" if len(which) == 1 else "are"


def _moved(chain: np.ndarray) -> float:
    """The share of transitions that changed something; some scalars tell, all where those did not."""
    flat = chain.reshape(len(chain), -1)
    moved = _changes(flat[:, :: max(1, flat.shape[1] // 8)])
    return moved if moved >= _HARDLY else _changes(flat)


def _changes(x: np.ndarray) -> float:
    return float((x[1:] != x[:-1]).any(-1).mean())


def _chains(which: np.ndarray) -> str:
    return f"chain{'s' if len(which) > 1 else ''} {', '.join(map(str, which))}"


# Mixing -----------------------------------------------------------------------------------------------------------


def _suspect(name: str, x: np.ndarray, rhat: np.ndarray) -> list[str]:
    """A site whose components disagree between chains, and agree once they are sorted."""
    if x.ndim < 3 or not 2 <= x.shape[2] <= _MOST_COMPONENTS or len(x) < 2 or not (rhat > _SWITCHED).any():
        return []
    ordered = _varying(evaluation.rhat(_screened(np.sort(x, axis=2))))
    if not ordered.size or ordered.max() >= _SORTED:
        return []
    return [f"{name!r} (worst R-hat {rhat.max():.2f}, sorted {ordered.max():.3f})"]


def _switched(suspects: list[str]) -> str | None:
    if not suspects:
        return None
    return (
        f"the labels of components seem to be switched between chains in {', '.join(suspects)}: their means say "
        "nothing. Put an order on one of the latents (dist.Ordered), or summarise only what does not depend on labels"
    )


def _unmixed(seen: _Seen) -> str | None:
    if not seen.num_chains:
        return None
    rhat, at = _worst(seen.rhats, max, 1.0)
    (bulk, bulk_at), (tail, tail_at) = _worst(seen.bulk, min, np.inf), _worst(seen.tail, min, np.inf)
    needed = min(_ESS_PER_CHAIN * seen.num_chains, _ESS_ENOUGH)
    wrong = [f"worst R-hat {rhat:.3f} ({at}), expected at most {_RHAT}"] if rhat > _RHAT else []
    if min(bulk, tail) < needed:
        wrong.append(
            f"smallest ESS {bulk:.0f} in the bulk ({bulk_at}) and {tail:.0f} in the tails ({tail_at}), expected at "
            f"least {needed}"
        )
    if not wrong:
        return None
    return (
        f"the chains have not mixed enough: {'; '.join(wrong)}. Draw more samples, warm up longer, or reparameterise"
    )


def _worst(values: Draws, pick: Callable[..., float], start: float) -> tuple[float, str]:
    """The extreme of all values, and the site that has it."""
    extremes = [(float(pick(x)), n) for n, x in values.items() if x.size]
    return pick([(start, "none"), *extremes])  # type: ignore[return-value]


def _varying(values: np.ndarray) -> np.ndarray:
    """Without the entries that are constant by construction, e.g. the diagonal of a correlation matrix."""
    values = np.ravel(np.asarray(values))
    return values[~np.isnan(values)]
