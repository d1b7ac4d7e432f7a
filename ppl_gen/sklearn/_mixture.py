"""What mixtures share as estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ppl_gen.sklearn._base import GenerativeEstimator


class MixtureEstimator(DensityMixin, GenerativeEstimator):
    """A mixture of ``weights_`` (K,); subclasses say what its components are."""

    weights_: np.ndarray

    def _log_joint(self, X: np.ndarray) -> np.ndarray:
        """log p(z_n = k, x_n), shape (n_samples, K)."""
        raise NotImplementedError

    def _responsibilities(self, X: np.ndarray) -> np.ndarray:
        """p(z_n = k | x_n), shape (n_samples, K)."""
        return softmax(self._log_joint(X), axis=1)

    def _drawn(self, component: int, count: int, rng: np.random.RandomState) -> np.ndarray:
        """``count`` rows of a component."""
        raise NotImplementedError

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_n) of each row, shape (n_samples,)."""
        return logsumexp(self._log_joint(self._new(X)), axis=1)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of log p(x_n) over the rows."""
        return float(np.mean(self.score_samples(X)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(z_n = k | x_n), shape (n_samples, K)."""
        return self._responsibilities(self._new(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, shape (n_samples,)."""
        return self._responsibilities(self._new(X)).argmax(axis=1)

    def fit_predict(self, X: Any, y: Any = None, **params: Any) -> np.ndarray:
        """Fit, then predict the components of the same rows."""
        return self.fit(X, y, **params).predict(X)  # type: ignore[attr-defined]

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """New rows (n_samples, n_features), component by component, and their components (n_samples,)."""
        check_is_fitted(self)
        rng = check_random_state(self.random_state)  # type: ignore[attr-defined]
        counts = rng.multinomial(n_samples, self.weights_ / self.weights_.sum())
        rows = [self._drawn(k, count, rng) for k, count in enumerate(counts)]
        return np.concatenate(rows), np.repeat(np.arange(len(counts)), counts)


class LikelihoodMixture(MixtureEstimator):
    """A mixture fitted by maximum likelihood, whose free parameters can be counted."""

    def _num_parameters(self) -> int:
        """Free parameters."""
        raise NotImplementedError

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X; lower is better."""
        log_likelihoods = self.score_samples(X)
        return float(-2.0 * log_likelihoods.sum() + self._num_parameters() * np.log(len(log_likelihoods)))

    def aic(self, X: Any) -> float:
        """Akaike's information criterion on X; lower is better."""
        return float(-2.0 * self.score_samples(X).sum() + 2.0 * self._num_parameters())
