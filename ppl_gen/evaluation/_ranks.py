"""Ranks that ought to be uniform: how far their empirical distribution may stray, exactly.

Of N ranks in 0, ..., L the number that lie below i is binomial with probability z_i = i / (L + 1). These counts form a
Markov chain along i, so that the probability that they stay within any limits is a sum over paths: Säilynoja, Bürkner &
Vehtari (2022), "Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation and multiple
sample comparison", Statistics and Computing 32:32, section 2.2.
"""

from functools import lru_cache

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom

_MOST_POINTS = 100  # where the distribution is looked at
_EQUAL = 1 + 1e-9  # the two tails of a count are computed apart, and their rounding is no difference


def checked(num_ranks: int, num_draws: int) -> None:
    """Raises ValueError: fewer than one rank or draw."""
    for name, value in (("num_ranks", num_ranks), ("num_draws", num_draws)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def places(num_draws: int) -> np.ndarray:
    """The i at which the counts of ranks below i are looked at, evenly spread over 1, ..., num_draws."""
    return np.unique(np.linspace(1, num_draws, min(num_draws, _MOST_POINTS)).astype(int))


@lru_cache(maxsize=16)
def tails(num_ranks: int, num_draws: int) -> np.ndarray:
    """Two-sided tail probability of each count 0, ..., num_ranks at each place: (place, num_ranks + 1)."""
    z = (places(num_draws) / (num_draws + 1))[:, None]
    counts = np.arange(num_ranks + 1)
    both = 2 * np.minimum(binom.cdf(counts, num_ranks, z), binom.sf(counts - 1, num_ranks, z))
    both.flags.writeable = False
    return both


@lru_cache(maxsize=4096)
def coverage(num_ranks: int, num_draws: int, tail: float) -> float:
    """Probability that at every place the two-sided tail probability of the count is above ``tail``."""
    inside = tails(num_ranks, num_draws) > tail * _EQUAL
    if not inside.any(axis=1).all():
        return 0.0
    z = places(num_draws) / (num_draws + 1)
    low, high = inside.argmax(axis=1), num_ranks - inside[:, ::-1].argmax(axis=1)
    log_factorial = gammaln(np.arange(num_ranks + 1) + 1.0)
    before, counts, mass = 0.0, np.zeros(1, int), np.ones(1)
    for i, at in enumerate(z):
        share, now = (at - before) / (1 - before), np.arange(low[i], high[i] + 1)
        more = now - counts[:, None]  # ranks that fall between the places, of those that are left
        left, some = (num_ranks - counts)[:, None], np.maximum(more, 0)
        log_mass = log_factorial[left] - log_factorial[some] - log_factorial[np.maximum(left - some, 0)]
        log_mass = log_mass + some * np.log(share) + (left - some) * np.log1p(-share)
        mass = mass @ np.where(more >= 0, np.exp(log_mass), 0.0)
        before, counts = at, now
    return float(mass.sum())
