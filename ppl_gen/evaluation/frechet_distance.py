"""Frechet distance between the moments of two samples of features."""

import warnings

import numpy as np

from ._samples import two_samples


def frechet_distance(x_features: np.ndarray, y_features: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians with the moments of two samples: FID, given the features.

    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter (2017), "GANs trained by a two time-scale update rule...",
    equation 6: |m - n|^2 + tr(S + T - 2 (S T)^(1/2)), which is W_2^2 of the two Gaussians (Dowson, Landau 1982). With
    centred rows A and B, S = A'A and T = B'B up to their counts, and the last trace is the sum of the singular values
    of A B': no matrix is squared and no root is taken of a singular one.

    Args:
        x_features: (n, d), features of the data, such as a classifier's last hidden layer.
        y_features: (m, d), of what a model drew.

    Returns:
        The squared distance, in the squared unit of the features. Biased upwards, the more the fewer the rows: figures
        compare at equal numbers of rows only.

    Warns:
        RuntimeWarning: not more rows than features, where a covariance is singular and the bias is large.

    Raises:
        ValueError: not two-dimensional, not real and finite, fewer than 2 rows, or dimensions that differ.
    """
    x, y = two_samples(x_features, y_features, 2)
    n, m, d = len(x), len(y), x.shape[1]
    if min(n, m) <= d:
        warnings.warn(
            f"{min(n, m)} rows of {d} features: a covariance is singular, and the distance too large; draw more",
            RuntimeWarning,
            stacklevel=2,
        )
    x_loc, y_loc = x.mean(axis=0), y.mean(axis=0)
    x_root, y_root = _root(x - x_loc), _root(y - y_loc)
    overlap = np.linalg.svd(x_root @ y_root.T, compute_uv=False).sum()
    apart = ((x_loc - y_loc) ** 2).sum()
    return float(max(0.0, apart + (x_root**2).sum() + (y_root**2).sum() - 2.0 * overlap))


def _root(centred: np.ndarray) -> np.ndarray:
    """R, at most (d, d), with R'R the unbiased covariance."""
    return np.linalg.qr(centred, mode="r") / np.sqrt(len(centred) - 1)
