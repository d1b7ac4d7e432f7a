"""Bayesian Gaussian mixtures as scikit-learn has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from ppl_gen.missing import split
from ppl_gen.models.bayesian_gaussian_mixture import BayesianGaussianMixture as Model
from ppl_gen.sklearn._base import checked_weights
from ppl_gen.sklearn._gaussians import log_students
from ppl_gen.sklearn._host import on_host
from ppl_gen.sklearn._mixture import MixtureEstimator

_DRAWS = 100  # that the run keeps of the posterior
_Q = ("weights_concentration", "locs", "mean_precision", "degrees_of_freedom", "rate")


class BayesianGaussianMixture(MixtureEstimator):
    """A mixture with a posterior, by :class:`ppl_gen.models.BayesianGaussianMixture` and variational Bayes.

    ``predict_proba`` gives the responsibilities; ``score_samples`` the log posterior predictive density, a mixture of
    Student's t (Bishop 2006, equation 10.81), where scikit-learn's gives an expected log density. Entries that are NaN
    were not observed: they are part of what is inferred, and integrated out of predictions.

    Parameters
    ----------
    n_components, covariance_type, tol, reg_covar, max_iter, n_init, weight_concentration_prior_type,
    weight_concentration_prior, mean_precision_prior, mean_prior, degrees_of_freedom_prior, covariance_prior,
    random_state : as in ``sklearn.mixture.BayesianGaussianMixture``, except that ``tol`` is relative to the bound.
    engine, backend, precision : see :class:`GenerativeEstimator`; the engine must have a q, as "vbem".

    Attributes
    ----------
    weights_, means_, covariances_, weight_concentration_, mean_precision_, degrees_of_freedom_ : as in scikit-learn.
    lower_bound_ : of the log evidence, before the last iteration.
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
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        engine: Any = "vbem",
        backend: str = "auto",
        precision: str = "float64",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.engine = engine
        self.backend = backend
        self.precision = precision

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> BayesianGaussianMixture:
        """Fit to the rows of X (n_samples, n_features); ``sample_weight`` (n_samples,) says how often each counts."""
        X = self._checked(X, ensure_min_samples=2)
        weights = checked_weights(sample_weight, X)
        run = self._fitted(self._model(), {"x": X}, "q.rate", weights=weights, num_samples=_DRAWS)
        q = {name: run.params[f"q.{name}"] for name in _Q}
        self.weights_ = run.params.get("weights", np.ones(1))
        self.means_, self.mean_precision_ = q["locs"], q["mean_precision"]
        self.weight_concentration_, self.degrees_of_freedom_ = q["weights_concentration"], q["degrees_of_freedom"]
        self.covariances_ = q["rate"] / self._dof(q["rate"].ndim)
        self.lower_bound_ = float(run.history["elbo"][-1])
        return self

    def _model(self) -> Model:
        beta = 1.0 if self.mean_precision_prior is None else self.mean_precision_prior
        return Model(
            self.n_components,
            self.covariance_type,
            self.weight_concentration_prior_type.removesuffix("_distribution"),
            self.weight_concentration_prior,
            beta,
            self.mean_prior,
            self.degrees_of_freedom_prior,
            self.covariance_prior,
            self.reg_covar,
        )

    def _dof(self, ndim: int) -> np.ndarray:
        """Degrees of freedom, in a shape that divides arrays (K, ...) of that many axes."""
        dof = np.asarray(self.degrees_of_freedom_)
        return dof.reshape(dof.shape + (1,) * (ndim - dof.ndim))

    def _responsibilities(self, X: np.ndarray) -> np.ndarray:
        q = {
            "weights_concentration": self.weight_concentration_,
            "locs": self.means_,
            "mean_precision": self.mean_precision_,
            "degrees_of_freedom": self.degrees_of_freedom_,
            "rate": self.covariances_ * self._dof(self.covariances_.ndim),
        }
        with on_host():
            return self._model().vb_latent(q, {"x": split(X) if np.isnan(X).any() else X})["z"]

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_n | the fitted data) of each row, shape (n_samples,)."""
        X = self._new(X)
        with np.errstate(divide="ignore"):
            return logsumexp(np.log(self.weights_) + self._log_predictive(X), axis=1)

    def _log_predictive(self, X: np.ndarray) -> np.ndarray:
        """log p(x_n | z_n = k, the fitted data), shape (n_samples, K)."""
        (k, d), wider = self.means_.shape, 1.0 + 1.0 / self.mean_precision_
        dof = np.broadcast_to(self.degrees_of_freedom_, (k,))
        if self.covariance_type == "diag":
            each = zip(dof, self.means_, np.sqrt(self.covariances_ * wider[:, None]), strict=True)
            return np.stack([np.nansum(stats.t.logpdf(X, v, m, s), 1) for v, m, s in each], 1)
        if self.covariance_type == "spherical":
            return log_students(X, d * dof, self.means_, (self.covariances_ * wider)[:, None, None] * np.eye(d))
        left = dof + 1.0 - d
        covariances = np.broadcast_to(self.covariances_, (k, d, d))
        return log_students(X, left, self.means_, covariances * (wider * dof / left)[:, None, None])

    def _drawn(self, component: int, count: int, rng: np.random.RandomState) -> np.ndarray:
        d, c = self.means_.shape[1], self.covariances_
        own = c if self.covariance_type == "tied" else c[component]
        own = own if self.covariance_type in ("full", "tied") else own * np.eye(d)
        return rng.multivariate_normal(self.means_[component], own, count)
