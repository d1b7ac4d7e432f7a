"""R-hat and effective sample sizes in one pass."""

import numpy as np

from ._chains import per_variable, rank_normalise, split
from .ess import _effective_size, _tail
from .rhat import _of_scores, _potential_scale_reduction, folded


def convergence(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank-normalised split R-hat, bulk and tail effective sample size, as :func:`rhat` and :func:`ess` give them.

    R-hat and the bulk share their normal scores, which take most of the time.

    Args:
        draws: (chain, draw, *shape).

    Returns:
        three arrays (*shape).

    Raises:
        ValueError: draws are not (chain, draw, ...), not real numbers, or fewer than 4 per chain.
    """
    found = per_variable(_all, draws, 3)
    return found[0], found[1], found[2]


def _all(rows: np.ndarray) -> np.ndarray:
    """(variable, chain, draw) -> (3, variable)."""
    halves = split(rows)
    z = rank_normalise(halves)
    rhat = np.fmax(_of_scores(z, halves), _potential_scale_reduction(folded(halves)))
    return np.stack([rhat, _effective_size(z), _tail(rows)])
