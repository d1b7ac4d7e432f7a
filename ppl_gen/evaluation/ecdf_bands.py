"""Simultaneous bands of the empirical distribution of uniform ranks."""

from functools import lru_cache

import numpy as np

from ._ranks import checked, coverage, places, tails


def ecdf_bands(num_ranks: int, num_draws: int, prob: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bands in which the empirical distribution of uniform ranks lies with probability ``prob``, everywhere at once.

    Säilynoja, Bürkner & Vehtari (2022), Statistics and Computing 32:32: at each place a central interval of the
    binomial count, all of one level gamma, which is found so that the probability of leaving any of them is 1 - prob.
    That probability is computed by their recursion (section 2.2), not simulated.

    Args:
        num_ranks: how many ranks, each in 0, ..., num_draws.
        num_draws: how many draws each rank is among.
        prob: probability of the band. Counts are discrete: the band has this probability or a little more.

    Returns:
        places z in (0, 1), lower and upper limit of the share of ranks below z (num_draws + 1), all of one length.

    Raises:
        ValueError: fewer than one rank or draw, ``prob`` not between 0 and 1.
    """
    checked(num_ranks, num_draws)
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    inside = tails(num_ranks, num_draws) > _level(num_ranks, num_draws, prob)
    low, high = inside.argmax(axis=1), num_ranks - inside[:, ::-1].argmax(axis=1)
    return places(num_draws) / (num_draws + 1), low / num_ranks, high / num_ranks


@lru_cache(maxsize=64)
def _level(num_ranks: int, num_draws: int, prob: float) -> float:
    """The largest gamma whose intervals hold with probability ``prob``, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if coverage(num_ranks, num_draws, middle) >= prob else (low, middle)
    return low
