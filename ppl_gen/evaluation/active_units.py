"""Which entries of a latent say something about the data."""

import numpy as np


def active_units(means: np.ndarray, threshold: float = 0.01, error: np.ndarray | None = None) -> np.ndarray:
    """Whether the posterior mean of each latent entry varies over data: Cov_x(E[z | x]) > threshold.

    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", section 5.2. An entry that does not is
    at its prior whatever the datum: the posterior has collapsed there.

    Args:
        means: (rows, ...) posterior means of z for single data.
        threshold: for a prior of variance 1.
        error: (rows, ...) variances of the errors of these means, where they are averages over draws.

    Returns:
        booleans (...).

    Raises:
        ValueError: fewer than 2 rows, or a mean that is not finite.
    """
    means = np.asarray(means, dtype=np.float64)
    if means.ndim < 1 or len(means) < 2:
        raise ValueError(f"means must have shape (rows, ...), at least 2 rows, got {means.shape}")
    if not np.isfinite(means).all():
        raise ValueError("means must be finite: expected the posterior means of a model that has been fitted")
    noise = 0.0 if error is None else np.asarray(error).mean(0)
    return means.var(axis=0, ddof=1) - noise > threshold
