"""Effective sample size."""

from typing import Literal

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from ._chains import constant, per_variable, rank_normalise, split

_TAIL = (0.05, 0.95)


def ess(draws: np.ndarray, kind: Literal["bulk", "tail", "mean"] = "bulk") -> np.ndarray:
    """Effective sample size: how many independent draws would estimate as well as these.

    Vehtari et al. (2021), Bayesian Analysis 16(2), sections 3.2 and 4, on split chains. The sum
    of autocorrelations is cut by the initial monotone sequence of Geyer (1992), Statistical Science 7(4).

    Args:
        draws: (chain, draw, *shape).
        kind: "bulk", of the rank-normalised draws: is the centre explored? "tail", the smaller one for the
            5% and 95% quantiles: are the tails? "mean", of the draws as they are: what the standard error of
            the mean is made of (it needs a finite variance).

    Returns:
        (*shape). At most size log10(size), size = chain * draw, for antithetic chains. A constant variable
        counts every draw (as ArviZ: its mean is known exactly). nan where a draw is not finite.

    Raises:
        ValueError: unknown kind; draws not (chain, draw, ...), not real numbers, or fewer than 4 per chain.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}; choose one of these")
    return per_variable(_KINDS[kind], draws)


def _bulk(rows: np.ndarray) -> np.ndarray:
    return _effective_size(rank_normalise(split(rows)))


def _tail(rows: np.ndarray) -> np.ndarray:
    bounds = np.quantile(rows.reshape(len(rows), -1), _TAIL, axis=1)
    low, high = (_effective_size(split((rows <= bound[:, None, None]).astype(float))) for bound in bounds)
    return np.minimum(low, high)


def _mean(rows: np.ndarray) -> np.ndarray:
    return _effective_size(split(rows))


_KINDS = {"bulk": _bulk, "tail": _tail, "mean": _mean}


def _effective_size(rows: np.ndarray) -> np.ndarray:
    """Size over integrated autocorrelation time: (variable, chain, draw) -> (variable,)."""
    size = rows.shape[1] * rows.shape[2]
    fixed = constant(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        time = _autocorrelation_time(_autocorrelation(rows))
    # The floor keeps the estimate from exploding for antithetic chains (section 3.2).
    return np.where(fixed, float(size), size / np.maximum(time, 1.0 / np.log10(size)))


def _autocorrelation(rows: np.ndarray) -> np.ndarray:
    """Chains combined (section 3.2): rho_t = 1 - (W - mean autocovariance at t) / var+, (variable, lag)."""
    num_chains, num_draws = rows.shape[1:]
    covariance = _autocovariance(rows)
    within = covariance[:, :1] * num_draws / (num_draws - 1)
    total = covariance[:, 0].copy()
    if num_chains > 1:
        total += rows.mean(axis=2).var(axis=1, ddof=1)
    correlation = 1.0 - (within - covariance) / total[:, None]
    correlation[:, 0] = 1.0
    return correlation


def _autocovariance(rows: np.ndarray) -> np.ndarray:
    """Biased autocovariance by FFT, averaged over chains: (variable, chain, draw) -> (variable, lag)."""
    num_draws = rows.shape[2]
    length = next_fast_len(2 * num_draws, real=True)  # padded, so that lags do not wrap around
    frequencies = rfft(rows - rows.mean(axis=2, keepdims=True), n=length, axis=2)
    # The transform is linear: averaging the power over chains first saves all but one inverse transform.
    power = np.square(frequencies.real).mean(axis=1) + np.square(frequencies.imag).mean(axis=1)
    return irfft(power, n=length, axis=1)[:, :num_draws] / num_draws


def _autocorrelation_time(correlation: np.ndarray) -> np.ndarray:
    """1 + 2 sum of rho_t, with Geyer's initial monotone sequence: (variable, lag) -> (variable,).

    The sums of neighbouring lags, P_m = rho_2m + rho_2m+1, of a reversible chain are positive and decrease.
    Up to the first P_m that is not positive they are summed, each at most as large as the one before. Of the
    pair where the sum stops, the even lag alone is counted once if positive: for antithetic chains this
    improves the estimate.
    """
    num_pairs = max(1, (correlation.shape[1] - 1) // 2)
    even = correlation[:, 0 : 2 * num_pairs : 2]
    pairs = even + correlation[:, 1 : 2 * num_pairs : 2]
    stopped = ~(pairs > 0.0)
    never = ~stopped.any(axis=1)
    stop = np.where(never, num_pairs - 1, stopped.argmax(axis=1))
    monotone = np.minimum.accumulate(pairs, axis=1)
    summed = np.where(np.arange(num_pairs) < stop[:, None], monotone, 0.0).sum(axis=1)
    remainder = np.take_along_axis(even, stop[:, None], axis=1)[:, 0]
    return -1.0 + 2.0 * summed + np.where(never, remainder, np.maximum(remainder, 0.0))
