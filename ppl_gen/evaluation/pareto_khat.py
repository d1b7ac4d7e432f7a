"""Pareto-smoothed importance sampling: its diagnostic, and the smoothed weights."""

import numpy as np
from scipy.special import logsumexp, softmax

_MIN_TAIL = 5  # fewest weights a Pareto distribution is fitted to, as in loo and ArviZ
_MIN_WEIGHTS = 4 * _MIN_TAIL + 1  # fewest whose upper fifth has as many
_LOG_TINY = np.log(np.finfo(float).tiny)


def pareto_khat(log_weights: np.ndarray, relative_efficiency: float = 1.0) -> float:
    """Shape k-hat of the upper tail of importance weights: above 0.7 the estimates are not to be trusted.

    Vehtari, Simpson, Gelman, Yao, Gabry (2024), "Pareto smoothed importance sampling", JMLR 25(72);
    the fit is that of `pareto_smooth`, where arguments and errors are described. Weights have
    about 1/k finite moments; S of them suffice for k < min(1 - 1/log10(S), 0.7).

    Args:
        log_weights: (sample,), log target - log proposal, normalised or not.
        relative_efficiency: ESS / number of samples; 1 for independent ones.

    Returns:
        k-hat. -inf where the largest weight is shared by the whole tail (equal weights: the proposal is the
        target); inf where fewer than 5 weights lie above the cutoff, so that nothing can be said (as ArviZ).

    Raises:
        ValueError: see `pareto_smooth`.
    """
    return pareto_smooth(log_weights, relative_efficiency)[1]


def pareto_smooth(log_weights: np.ndarray, relative_efficiency: float = 1.0) -> tuple[np.ndarray, float]:
    """Smooth the largest importance weights by a fitted generalised Pareto distribution.

    The M = ceil(min(S / 5, 3 sqrt(S / relative_efficiency))) largest weights are replaced by the expected
    order statistics of the distribution fitted to them, and cut at the largest raw weight (JMLR 25(72)).

    Args:
        log_weights: (sample,), normalised or not; -inf is a weight of zero.
        relative_efficiency: ESS / number of samples; 1 for independent ones.

    Returns:
        Smoothed log weights (sample,), normalised to sum to one, and k-hat as in `pareto_khat`. Where k-hat
        is not finite the weights are normalised only.

    Raises:
        ValueError: not one axis, fewer than 21 weights, nan or +inf among them, all -inf, or a relative
            efficiency that is not positive.
    """
    log_weights = _checked(log_weights, relative_efficiency)
    smoothed = log_weights - log_weights.max()
    size = len(smoothed)
    num_tail = int(np.ceil(min(size / 5.0, 3.0 * np.sqrt(size / relative_efficiency))))
    order = np.argsort(smoothed, kind="stable")
    cutoff = max(smoothed[order[-num_tail - 1]], _LOG_TINY)
    tail = order[-num_tail:]
    tail = tail[smoothed[tail] > cutoff]  # fewer where weights equal the cutoff
    khat = -np.inf if len(tail) == 0 else np.inf
    if len(tail) >= _MIN_TAIL:
        # exp(x) - exp(cutoff), which stays positive for x a rounding above the cutoff
        khat, scale = _fit_generalised_pareto(np.exp(cutoff) * np.expm1(smoothed[tail] - cutoff))
        if np.isfinite(khat):
            probability = (np.arange(len(tail)) + 0.5) / len(tail)
            fitted = np.exp(cutoff) + _generalised_pareto_quantile(probability, khat, scale)
            smoothed[tail] = np.minimum(np.log(fitted), 0.0)
    return smoothed - logsumexp(smoothed), float(khat)


def _checked(log_weights: np.ndarray, relative_efficiency: float) -> np.ndarray:
    log_weights = np.asarray(log_weights)
    if log_weights.dtype.kind not in "biuf":
        raise ValueError(
            f"log_weights must be real numbers, got dtype {log_weights.dtype}; convert them first"
        )
    if log_weights.ndim != 1:
        raise ValueError(
            f"log_weights must have shape (sample,), got {log_weights.shape}; call once per set of weights"
        )
    if len(log_weights) < _MIN_WEIGHTS:
        raise ValueError(
            f"the tail fit needs at least {_MIN_WEIGHTS} log_weights, got {len(log_weights)}; draw more"
        )
    if np.isnan(log_weights).any() or (log_weights == np.inf).any():
        raise ValueError("log_weights must be finite or -inf, got nan or inf; check both densities there")
    if log_weights.max() == -np.inf:
        raise ValueError(
            "log_weights are all -inf, so no sample has weight; the proposal must reach the target's support"
        )
    if not (np.isfinite(relative_efficiency) and relative_efficiency > 0.0):
        raise ValueError(
            f"relative_efficiency must be positive, got {relative_efficiency}; pass ESS / samples, or 1"
        )
    return log_weights.astype(np.float64)


def _fit_generalised_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of positive, ascending excesses (n,) over a threshold.

    Zhang, Stephens (2009), "A new and efficient estimation method for the generalized Pareto distribution",
    Technometrics 51(3), section 3: in theta = -shape / scale the likelihood is one-dimensional, and theta is
    its mean over a grid from the authors' prior. Shape has the opposite sign of theirs. At last it is drawn
    towards 0.5 with the weight of ten observations, as in loo and ArviZ, which steadies short tails.
    """
    n = len(excess)
    m = 30 + int(np.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    with np.errstate(all="ignore"):  # excesses may span the whole range of floats; then shape is nan
        theta = 1.0 / excess[-1] + (1.0 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3.0 * quartile)
        theta = theta[theta != 0.0]  # the exponential distribution, a limit that one grid point need not hold
        shapes = np.log1p(-theta[:, None] * excess).mean(axis=1)
        log_likelihood = n * (np.log(-theta / shapes) - shapes - 1.0)
        theta_mean = float(theta @ softmax(log_likelihood))
        shape = float(np.log1p(-theta_mean * excess).mean())
        scale = -shape / theta_mean
    if not (np.isfinite(shape) and np.isfinite(scale) and scale > 0.0):
        return np.inf, np.nan
    return (n * shape + 10 * 0.5) / (n + 10), scale


def _generalised_pareto_quantile(probability: np.ndarray, shape: float, scale: float) -> np.ndarray:
    exponential = -np.log1p(-probability)
    if abs(shape) < np.finfo(float).eps:
        return scale * exponential
    return scale * np.expm1(shape * exponential) / shape
