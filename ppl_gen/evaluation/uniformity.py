"""Test of ranks for uniformity."""

import numpy as np

from ._ranks import checked, coverage, places, tails


def uniformity(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """p-values of ranks among draws: small where they are not uniform.

    The test that goes with :func:`ecdf_bands`: its statistic is the smallest two-sided tail probability of the counts
    of ranks below i, over i, and its distribution is computed exactly by the recursion of Säilynoja, Bürkner & Vehtari
    (2022), Statistics and Computing 32:32, section 2.2. Bands of probability q are left where p is below 1 - q.

    Args:
        ranks: (replicate, *shape), whole numbers from 0 to num_draws.
        num_draws: how many draws each rank is among.

    Returns:
        (*shape) of p-values.

    Raises:
        ValueError: no ranks, or ranks that are not whole numbers from 0 to num_draws.
    """
    ranks = np.asarray(ranks)
    checked(len(ranks), num_draws)
    if ranks.dtype.kind not in "iu" or (ranks.size and (ranks.min() < 0 or ranks.max() > num_draws)):
        raise ValueError(f"ranks must be whole numbers from 0 to {num_draws}")
    ordered = np.sort(ranks.reshape(len(ranks), -1), axis=0)
    table, at = tails(len(ranks), num_draws), places(num_draws)
    p = np.empty(ordered.shape[1])
    for i, column in enumerate(ordered.T):
        counts = np.searchsorted(column, at, side="left")
        least = table[np.arange(len(at)), counts].min()
        p[i] = 1 - coverage(len(ranks), num_draws, float(least))
    return p.clip(0.0, 1.0).reshape(ranks.shape[1:])
