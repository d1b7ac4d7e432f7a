"""Rank-normalised split R-hat."""

import numpy as np

from ._chains import constant, per_variable, rank_normalise, split

# Normal scores are of order one: a variance below this is the rounding of chains that never moved.
_ROUNDING = 1e-20


def rhat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat: near 1 where chains agree, above 1.01 where they do not.

    Vehtari, Gelman, Simpson, Carpenter, Buerkner (2021), "Rank-normalization, folding, and localization: an
    improved R-hat", Bayesian Analysis 16(2), section 4: the larger of two, that of the normal scores of the
    draws, which sees differences in location, and that of the normal scores of |draw - median|, which sees
    differences in scale.

    Args:
        draws: (chain, draw, *shape). One chain is enough, as chains are split (ArviZ asks for two).

    Returns:
        (*shape). nan where a variable is constant (as ArviZ) or has a draw that is not finite; inf where
        each chain is stuck at its own value.

    Raises:
        ValueError: draws are not (chain, draw, ...), not real numbers, or fewer than 4 per chain.
    """
    return per_variable(_rank_normalised_split, draws)


def _rank_normalised_split(rows: np.ndarray) -> np.ndarray:
    """(variable, chain, draw) -> (variable,)."""
    halves = split(rows)
    # fmax: where only one of the two is defined (two values at equal distance from the median fold to a
    # constant), that one counts.
    return np.fmax(_potential_scale_reduction(halves), _potential_scale_reduction(folded(halves)))


def folded(halves: np.ndarray) -> np.ndarray:
    """Distances from the median."""
    return np.abs(halves - _median(halves))


def _median(halves: np.ndarray) -> np.ndarray:
    """Over chains and draws, kept as axes. Two halves are an even number; a sort is faster than np.median."""
    ordered = np.sort(halves.reshape(len(halves), -1), axis=1)
    middle = ordered.shape[1] // 2
    return ((ordered[:, middle - 1] + ordered[:, middle]) / 2.0)[:, None, None]


def _potential_scale_reduction(rows: np.ndarray) -> np.ndarray:
    """R-hat of normal scores; nan where all draws are equal."""
    return _of_scores(rank_normalise(rows), rows)


def _of_scores(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """sqrt(((n - 1)/n W + B/n) / W) of the normal scores z of draws."""
    num_draws = z.shape[-1]
    within = z.var(axis=2, ddof=1).mean(axis=1)
    within[within < _ROUNDING] = 0.0
    between_over_n = z.mean(axis=2).var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((num_draws - 1) / num_draws + between_over_n / within)
    return np.where(constant(rows), np.nan, ratio)
