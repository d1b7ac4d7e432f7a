"""What mixtures share as estimators: everything follows from log p(z_n = k, x_n)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state

from ppl_gen.sklearn._base import GenerativeEstimator


class MixtureEstimator(DensityMixin, GenerativeEstimator):
    """A mixture of ``weights_`` (K,); subclasses say what its components are."""

    weights_: np.ndarray

    def _log_joint(self, X: np.ndarray) -> np.ndarray:
        """log p(z_n = k, x_n), shape (n_samples, K)."""
        raise NotImplementedError

    def _drawn(self, component: int, count: int, rng: np.random.RandomState) -> np.ndarray:
        """``count`` rows of a component."""
        raise NotImplementedError

    def _num_parameters(self) -> int:
        """Free parameters."""
        raise NotImplementedError

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_n) of each row, shape (n_samples,)."""
        return logsumexp(self._log_joint(self._new(X)), axis=1)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of log p(x_n) over the rows."""
        return float(np.mean(self.score_samples(X)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(z_n = k | x_n), shape (n_samples, K)."""
        joint = self._log_joint(self._new(X))
        return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, shape (n_samples,)."""
        return self._log_joint(self._new(X)).argmax(axis=1)

    def fit_predict(self, X: Any, y: Any = None, **params: Any) -> np.ndarray:
        """Fit, then predict the components of the same rows."""
        return self.fit(X, y, **params).predict(X)  # type: ignore[attr-defined]

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """New rows (n_samples, n_features), component by component, and their components (n_samples,)."""
        rng = check_random_state(self.random_state)  # type: ignore[attr-defined]
        counts = rng.multinomial(n_samples, self.weights_)
        rows = [self._drawn(k, count, rng) for k, count in enumerate(counts)]
        return np.concatenate(rows), np.repeat(np.arange(len(counts)), counts)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X; lower is better."""
        return -2.0 * self.score(X) * len(X) + self._num_parameters() * np.log(len(X))

    def aic(self, X: Any) -> float:
        """Akaike's information criterion on X; lower is better."""
        return -2.0 * self.score(X) * len(X) + 2.0 * self._num_parameters()
