"""Gaussian mixtures as scikit-learn has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from ppl_gen.models.gaussian_mixture import GaussianMixture as Model
from ppl_gen.sklearn._base import checked_weights
from ppl_gen.sklearn._gaussians import log_gaussians
from ppl_gen.sklearn._mixture import LikelihoodMixture


class GaussianMixture(LikelihoodMixture):
    """A mixture of Gaussians by :class:`ppl_gen.models.GaussianMixture`; stands for scikit-learn's of that name.

    Entries that are NaN are integrated out.

    Parameters
    ----------
    n_components, covariance_type, tol, reg_covar, max_iter, n_init, weights_init, means_init, precisions_init,
    random_state : as in ``sklearn.mixture.GaussianMixture``, except that ``tol`` is relative to the log likelihood.
    engine, backend, precision : see :class:`GenerativeEstimator`.

    Attributes
    ----------
    weights_ : (K,). means_ : (K, D). covariances_ : by type (K, D, D), (D, D), (K, D) or (K,).
    lower_bound_ : mean log likelihood of a row, at the fitted parameters.
    """

    _missing = True

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        engine: Any = "em",
        backend: str = "auto",
        precision: str = "float64",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.engine = engine
        self.backend = backend
        self.precision = precision

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Fit to the rows of X (n_samples, n_features); ``sample_weight`` (n_samples,) says how often each counts."""
        X = self._checked(X, ensure_min_samples=2)
        model = Model(self.n_components, self.covariance_type, self.reg_covar)
        weights = checked_weights(sample_weight, X)
        run = self._fitted(model, {"x": X}, "locs", weights=weights, init=self._init())
        self.weights_, self.means_ = run.params["weights"], run.params["locs"]
        self.covariances_ = self._covariances(run.params)
        self.lower_bound_ = float(np.average(logsumexp(self._log_joint(X), axis=1), weights=weights))
        return self

    def _init(self) -> dict[str, np.ndarray] | None:
        given = {"weights": self.weights_init, "locs": self.means_init}
        init = {name: np.asarray(v, dtype=float) for name, v in given.items() if v is not None}
        if self.precisions_init is not None:
            init |= self._scales(np.asarray(self.precisions_init, dtype=float))
        return init or None

    def _scales(self, precisions: np.ndarray) -> dict[str, np.ndarray]:
        """Scales, and Cholesky factors of correlations, of precisions."""
        if self.covariance_type in ("diag", "spherical"):
            return {"scales": precisions**-0.5}
        covariances = np.linalg.inv(precisions)
        scales = np.sqrt(np.diagonal(covariances, 0, -2, -1))
        if scales.shape[-1] == 1:
            return {"scales": scales}
        return {"scales": scales, "correlation": np.linalg.cholesky(covariances) / scales[..., None]}

    def _covariances(self, params: dict[str, np.ndarray]) -> np.ndarray:
        scales = params["scales"]
        if self.covariance_type in ("diag", "spherical"):
            return scales**2
        root = scales[..., None] * params.get("correlation", 1.0)
        return root @ np.swapaxes(root, -1, -2)

    def _by_component(self) -> np.ndarray:
        """Covariances (K, D, D), or variances (K, D)."""
        k, d = self.means_.shape
        if self.covariance_type == "tied":
            return np.broadcast_to(self.covariances_, (k, d, d))
        return np.broadcast_to(self.covariances_[:, None], (k, d)) if self.covariances_.ndim == 1 else self.covariances_

    def _log_joint(self, X: np.ndarray) -> np.ndarray:
        return np.log(self.weights_) + log_gaussians(X, self.means_, self._by_component())

    def _drawn(self, component: int, count: int, rng: np.random.RandomState) -> np.ndarray:
        covariance = self._by_component()[component]
        covariance = np.diag(covariance) if covariance.ndim == 1 else covariance
        return rng.multivariate_normal(self.means_[component], covariance, count)

    def _num_parameters(self) -> int:
        k, d = self.means_.shape
        square = d * (d + 1) // 2
        return {"full": k * square, "tied": square, "diag": k * d, "spherical": k}[self.covariance_type] + k * d + k - 1
