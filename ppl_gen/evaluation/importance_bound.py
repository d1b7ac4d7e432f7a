"""Log likelihoods from importance weights: a lower bound for each datum, and what it is off by."""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp


class ImportanceBound(NamedTuple):
    """What importance weights say of log p(x).

    Attributes:
        value: (rows,), log of the mean weight, whose expectation is at most log p(x).
        standard_error: (rows,), of each value, by the delta method.
        mean: over rows; ``mean_error`` its standard error, from the draws alone, not from the choice of rows.
        bias: by how much the mean is likely too low, half of the mean squared relative error of the weights' means.
    """

    value: np.ndarray
    standard_error: np.ndarray
    mean: float
    mean_error: float
    bias: float


def importance_bound(log_weights: np.ndarray) -> ImportanceBound:
    """log p(x) of each datum from log weights log p(x, z) - log q(z | x) of draws z ~ q: a lower bound on average.

    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", equation 8, which says that the bound
    rises with the number of draws, to log p(x). Error and bias are of first order, Nowozin (2018), "Debiasing
    evidence approximations", proposition 1; they are too small where the weights have heavy tails (``pareto_khat``).

    Args:
        log_weights: (draws, rows), -inf where a draw is impossible.

    Raises:
        ValueError: not two-dimensional, fewer than 2 draws, nan or +inf, or a row without any possible draw.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if log_weights.ndim != 2 or len(log_weights) < 2 or not log_weights.shape[1]:
        raise ValueError(f"log_weights must have shape (draws, rows), at least 2 draws, got {log_weights.shape}")
    if np.isnan(log_weights).any() or (log_weights == np.inf).any():
        raise ValueError("log_weights must be finite or -inf, got nan or inf; find where the model produced it")
    value = logsumexp(log_weights, axis=0) - np.log(len(log_weights))
    if not np.isfinite(value).all():
        raise ValueError(f"{int((~np.isfinite(value)).sum())} rows have no possible draw: the proposal misses them")
    relative = np.exp(log_weights - value)
    variance = relative.var(axis=0, ddof=1) / len(log_weights)
    error = np.sqrt(variance)
    mean_error = float(np.sqrt(variance.sum()) / len(value))
    return ImportanceBound(value, error, float(value.mean()), mean_error, float(0.5 * variance.mean()))
