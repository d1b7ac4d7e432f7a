"""What the convergence diagnostics share: checking draws, splitting chains, rank normalisation.

Inside the diagnostics draws are laid out as (variable, chain, draw), so that every reduction runs over
contiguous memory and all scalar variables of an array are handled at once.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

MIN_DRAWS = 4  # two draws in each half of a split chain: the fewest that have a variance
_BLOCK = 1 << 21  # numbers worked on at once (16 MiB), so that memory stays bounded for large variables


def per_variable(statistic: Callable[[np.ndarray], np.ndarray], draws: np.ndarray, count: int = 0) -> np.ndarray:
    """Apply a statistic to every scalar variable of an array of draws.

    Args:
        statistic: maps finite, non-constant draws (variable, chain, draw) to (variable,), or (count, variable).
        draws: (chain, draw, *shape), real numbers; booleans and integers are counted as such.
        count: of statistics, where it gives several.

    Returns:
        (*shape) of floats, or (count, *shape); nan where a variable has a draw that is not finite.

    Raises:
        ValueError: fewer than two axes, no chain, fewer than ``MIN_DRAWS`` draws, or not real numbers.
    """
    draws = _checked(draws)
    num_chains, num_draws, *shape = draws.shape
    columns = draws.reshape(num_chains, num_draws, -1)
    num_variables = columns.shape[2]
    values = np.full((count, num_variables) if count else num_variables, np.nan)
    width = max(1, _BLOCK // (num_chains * num_draws))
    for start in range(0, num_variables, width):
        block = slice(start, min(start + width, num_variables))
        rows = np.ascontiguousarray(columns[:, :, block].transpose(2, 0, 1), dtype=np.float64)
        finite = np.isfinite(rows).all(axis=(1, 2))
        if finite.all():
            values[..., block] = statistic(rows)
        elif finite.any():
            values[..., block][..., finite] = statistic(rows[finite])
    return values.reshape((*values.shape[:-1], *shape))


def _checked(draws: np.ndarray) -> np.ndarray:
    draws = np.asarray(draws)
    if draws.dtype.kind not in "biuf":
        raise ValueError(
            f"draws must be real numbers, got dtype {draws.dtype}; convert them before diagnosing"
        )
    if draws.ndim < 2:
        raise ValueError(
            f"draws must have shape (chain, draw, ...), got {draws.shape}; for one chain pass draws[None]"
        )
    if draws.shape[0] < 1 or draws.shape[1] < MIN_DRAWS:
        raise ValueError(
            f"draws must hold at least 1 chain and {MIN_DRAWS} draws per chain, got shape "
            f"{draws.shape}; run the sampler longer, or swap the axes if they are (draw, chain, ...)"
        )
    return draws


def split(rows: np.ndarray) -> np.ndarray:
    """Cut each chain in halves: (variable, chain, draw) -> (variable, 2 chain, draw // 2).

    A drift within a chain then shows as a difference between chains. Of an odd number of draws the middle
    one is dropped.
    """
    half = rows.shape[-1] // 2
    return np.concatenate([rows[..., :half], rows[..., -half:]], axis=1)


def constant(rows: np.ndarray) -> np.ndarray:
    """Which variables never change: (variable, chain, draw) -> (variable,) of booleans."""
    return rows.max(axis=(1, 2)) == rows.min(axis=(1, 2))


def rank_normalise(rows: np.ndarray) -> np.ndarray:
    """Replace draws by the normal scores of their ranks among all chains, ties by their average rank.

    Vehtari et al. (2021), section 4: z = Phi^-1((rank - 3/8) / (size + 1/4)). Shapes (variable, chain, draw).
    """
    num_variables = len(rows)
    pooled = rows.reshape(num_variables, -1)
    size = pooled.shape[1]
    order = np.argsort(pooled, axis=1)
    ordered = np.take_along_axis(pooled, order, axis=1)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    scores = np.empty_like(ordered)
    scores[:] = _normal_scores(size)[::2]
    if tied.any():
        scores[tied] = _normal_scores(size)[_doubled_average_ranks(ordered[tied])]
    z = np.empty_like(ordered)
    np.put_along_axis(z, order, scores, axis=1)
    return z.reshape(rows.shape)


@lru_cache(maxsize=8)
def _normal_scores(size: int) -> np.ndarray:
    """Normal scores of the ranks 1, 1.5, 2, ..., size: a table has all average ranks."""
    ranks = 1.0 + 0.5 * np.arange(2 * size - 1)
    scores = ndtri((ranks - 0.375) / (size + 0.25))
    scores.flags.writeable = False
    return scores


def _doubled_average_ranks(ordered: np.ndarray) -> np.ndarray:
    """Twice the average rank, counted from 0, of sorted rows (row, size) with ties."""
    position = np.arange(ordered.shape[1])
    rises = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(ordered), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, rises]), position, 0), axis=1)
    last = np.where(np.hstack([rises, edge]), position, position[-1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    return first + last
