"""Mixtures of factor analysers, and of probabilistic PCA, as density estimators and clusterers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers as Model
from ppl_gen.sklearn._base import checked_weights
from ppl_gen.sklearn._gaussians import log_gaussians
from ppl_gen.sklearn._mixture import LikelihoodMixture


class MixtureOfFactorAnalyzers(LikelihoodMixture):
    """A Gaussian mixture with covariances W_k W_k^T + Psi_k, by :class:`ppl_gen.models.MixtureOfFactorAnalyzers`.

    Entries that are NaN are integrated out.

    Parameters
    ----------
    n_components : K. n_factors : q, below the number of features.
    noise : "diag", "tied" or "isotropic" (a mixture of probabilistic PCA).
    tol, max_iter, n_init, random_state, engine, backend, precision : see :class:`GenerativeEstimator`.

    Attributes
    ----------
    weights_ : (K,). means_ : (K, D). loadings_ : (K, D, q). noise_variance_ : (K, D), (D,) or (K,).
    """

    _missing = True

    def __init__(
        self,
        n_components: int = 1,
        n_factors: int = 1,
        *,
        noise: str = "diag",
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        engine: Any = "em",
        backend: str = "auto",
        precision: str = "float64",
    ):
        self.n_components = n_components
        self.n_factors = n_factors
        self.noise = noise
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.engine = engine
        self.backend = backend
        self.precision = precision

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MixtureOfFactorAnalyzers:
        """Fit to the rows of X (n_samples, n_features); ``sample_weight`` (n_samples,) says how often each counts."""
        X = self._checked(X, ensure_min_samples=2, ensure_min_features=2)
        model = Model(self.n_components, self.n_factors, self.noise)
        run = self._fitted(model, {"x": X}, "loadings", weights=checked_weights(sample_weight, X))
        self.weights_, self.means_, self.loadings_ = (run.params[n] for n in ("weights", "locs", "loadings"))
        self.noise_variance_ = run.params["scales"] ** 2
        return self

    def get_covariances(self) -> np.ndarray:
        """W_k W_k^T + Psi_k, shape (K, D, D)."""
        noise = self.noise_variance_[:, None] if self.noise == "isotropic" else self.noise_variance_
        diagonals = np.broadcast_to(noise, self.means_.shape)
        return self.loadings_ @ np.swapaxes(self.loadings_, 1, 2) + diagonals[:, :, None] * np.eye(diagonals.shape[1])

    def _log_joint(self, X: np.ndarray) -> np.ndarray:
        return np.log(self.weights_) + log_gaussians(X, self.means_, self.get_covariances())

    def _drawn(self, component: int, count: int, rng: np.random.RandomState) -> np.ndarray:
        return rng.multivariate_normal(self.means_[component], self.get_covariances()[component], count)

    def _num_parameters(self) -> int:
        k, d, q = self.loadings_.shape
        return k - 1 + k * d + k * (d * q - q * (q - 1) // 2) + self.noise_variance_.size
