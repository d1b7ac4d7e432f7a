"""Two samples of one space: what every metric between them asks first."""

import numpy as np

BLOCK = 1024  # rows against rows at once: 8 MiB of distances whatever the sizes of the samples


def two_samples(x: np.ndarray, y: np.ndarray, min_points: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """x (n, d) and y (m, d) in double precision.

    Raises:
        ValueError: x or y is not two-dimensional, not real and finite, of fewer than ``min_points`` rows, or their
            dimensions differ.
    """
    x, y = (checked(sample, name, min_points) for sample, name in ((x, "x"), (y, "y")))
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must have the same number of columns, got {x.shape} and {y.shape}; "
            "flatten each datum to one row"
        )
    return x, y


def checked(sample: np.ndarray, name: str, min_points: int = 1) -> np.ndarray:
    """One sample, likewise."""
    sample = np.asarray(sample)
    if sample.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got dtype {sample.dtype}; convert it first")
    if sample.ndim != 2:
        raise ValueError(
            f"{name} must have shape (n, d), got {sample.shape}; flatten each datum to one row: "
            f"{name}.reshape(len({name}), -1)"
        )
    if len(sample) < min_points or sample.shape[1] < 1:
        raise ValueError(
            f"{name} must hold at least {min_points} points of 1 dimension, got {sample.shape}; draw more"
        )
    if not np.isfinite(sample).all():
        raise ValueError(
            f"{name} must be finite, got nan or inf; find where the model produced it, or drop the rows"
        )
    return sample.astype(np.float64)


def order_of(p: float) -> float:
    """The order of a Wasserstein distance.

    Raises:
        ValueError: below 1, or not finite.
    """
    if isinstance(p, bool) or not isinstance(p, int | float | np.number) or not 1 <= p < np.inf:
        raise ValueError(f"p must be a finite number, at least 1, got {p!r}; 2 is usual")
    return float(p)
