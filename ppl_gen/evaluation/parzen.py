"""Kernel density estimates from samples."""

import warnings

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

_BLOCK = 512  # data against all samples at once
_MOST_DIMS = 10


def parzen(x: np.ndarray, samples: np.ndarray, bandwidth: float | None = None) -> np.ndarray:
    """log density at x of Gaussians around samples of a model: a Parzen window estimate, (n,).

    In more than a few dimensions it says little: Theis, van den Oord & Bethge (2016), section 3.2, show that it ranks
    models wrongly however many samples there are, so that a warning says so above 10.

    Args:
        x: (n, d), data. samples: (m, d), of the model.
        bandwidth: standard deviation of the Gaussians; Scott's rule, m^(-1/(d+4)) times the mean one, where None.

    Raises:
        ValueError: not two-dimensional, not finite, other dimensions, or a bandwidth that is not above 0.
    """
    x, samples = (np.asarray(a, dtype=np.float64) for a in (x, samples))
    if x.ndim != 2 or samples.ndim != 2 or x.shape[1] != samples.shape[1] or len(samples) < 2:
        raise ValueError(f"x and samples must be (n, d) and (m, d), m at least 2, got {x.shape} and {samples.shape}")
    if not (np.isfinite(x).all() and np.isfinite(samples).all()):
        raise ValueError("x and samples must be finite, got nan or inf")
    m, d = samples.shape
    if d > _MOST_DIMS:
        warnings.warn(
            f"a kernel density estimate in {d} dimensions is unreliable and ranks models wrongly (Theis et al. 2016): "
            "use log_prob where the model has one, importance_bound or AIS where it has latents",
            RuntimeWarning,
            stacklevel=2,
        )
    h = m ** (-1.0 / (d + 4)) * float(samples.std(axis=0, ddof=1).mean()) if bandwidth is None else float(bandwidth)
    if not 0 < h < np.inf:
        raise ValueError(f"bandwidth must be above 0, got {h}")
    parts = (x[i : i + _BLOCK] for i in range(0, len(x), _BLOCK))
    logs = [logsumexp(-0.5 * cdist(part, samples, "sqeuclidean") / h**2, axis=1) for part in parts]
    return np.concatenate(logs) - np.log(m) - 0.5 * d * np.log(2.0 * np.pi * h**2)
