"""What linear-Gaussian factor models share as estimators: x = mu + W z + e, z ~ N(0, I), e ~ N(0, noise)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from ppl_gen.sklearn._base import GenerativeEstimator
from ppl_gen.sklearn._gaussians import factor_means, log_gaussians


class FactorEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, GenerativeEstimator):
    """One Gaussian of covariance W W^T + noise.

    Attributes
    ----------
    components_ : W^T (q, D), rotated so that W^T noise^-1 W is diagonal, the greatest first, and signed so that the
        entry of each row that is largest in size is positive. mean_ : (D,). noise_variance_ : a number or (D,).
    """

    components_: np.ndarray
    mean_: np.ndarray
    noise_variance_: Any

    def _keep(self, loc: np.ndarray, loadings: np.ndarray, noise: Any) -> None:
        self.mean_, self.noise_variance_ = loc, noise
        self.components_ = _rotated(loadings, self._noise()).T

    def _noise(self) -> np.ndarray:
        return np.broadcast_to(self.noise_variance_, self.mean_.shape)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def transform(self, X: Any) -> np.ndarray:
        """E[z_n | x_n], shape (n_samples, q)."""
        return factor_means(self._new(X), self.mean_, self.components_.T, self._noise())

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """E[x | z] for each row of Z (n_samples, q), shape (n_samples, n_features)."""
        check_is_fitted(self)
        return check_array(Z) @ self.components_ + self.mean_

    def get_covariance(self) -> np.ndarray:
        """W W^T + noise, shape (D, D)."""
        check_is_fitted(self)
        return self.components_.T @ self.components_ + np.diag(self._noise())

    def get_precision(self) -> np.ndarray:
        """The inverse of :meth:`get_covariance`."""
        return np.linalg.inv(self.get_covariance())

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_n) of each row, shape (n_samples,)."""
        return log_gaussians(self._new(X), self.mean_[None], self.get_covariance()[None])[:, 0]

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of log p(x_n) over the rows."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """New rows (n_samples, n_features)."""
        check_is_fitted(self)
        rng = check_random_state(self.random_state)  # type: ignore[attr-defined]
        z = rng.standard_normal((n_samples, len(self.components_)))
        return self.inverse_transform(z) + np.sqrt(self._noise()) * rng.standard_normal((n_samples, len(self.mean_)))


def _rotated(loadings: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Loadings of the same W W^T in a unique rotation (Lawley & Maxwell 1971, section 4.2)."""
    root = np.sqrt(noise)[:, None]
    u, s, _ = np.linalg.svd(loadings / root, full_matrices=False)
    w = root * u * s
    largest = w[np.abs(w).argmax(0), np.arange(w.shape[1])]
    return w * np.where(largest < 0, -1.0, 1.0)
