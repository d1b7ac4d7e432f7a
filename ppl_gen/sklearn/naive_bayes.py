"""Naive Bayes as a classifier, also where only some labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.base import ClassifierMixin
from sklearn.utils import gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_non_negative

from ppl_gen.missing import split
from ppl_gen.models.naive_bayes import NaiveBayes as Model
from ppl_gen.sklearn._base import GenerativeEstimator, checked_weights
from ppl_gen.sklearn._host import on_host

_ENTRIES = 5_000_000  # of rows times classes times features, that predictions hold at a time


class NaiveBayes(ClassifierMixin, GenerativeEstimator):
    """Naive Bayes by :class:`ppl_gen.models.NaiveBayes`: GaussianNB, BernoulliNB and MultinomialNB in one.

    Entries of Gaussian and Bernoulli X that are NaN are left out.

    Parameters
    ----------
    likelihood : "gaussian", "bernoulli" or "multinomial".
    alpha, var_smoothing, binarize : as in scikit-learn's BernoulliNB, GaussianNB and MultinomialNB.
    unlabelled : what stands in y for "not known", e.g. -1; such rows are summed over their classes by EM (Nigam et
        al. 2000). None where every label is known.
    tol, max_iter, n_init, random_state, engine, backend, precision : see :class:`GenerativeEstimator`.

    Attributes
    ----------
    classes_, class_prior_ : (K,). theta_, var_ : (K, D), Gaussian. feature_log_prob_ : (K, D), of the other two.
    """

    def __init__(
        self,
        likelihood: str = "gaussian",
        *,
        alpha: float = 1.0,
        var_smoothing: float = 1e-9,
        binarize: float | None = 0.0,
        unlabelled: Any = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        engine: Any = "em",
        backend: str = "auto",
        precision: str = "float64",
    ):
        self.likelihood = likelihood
        self.alpha = alpha
        self.var_smoothing = var_smoothing
        self.binarize = binarize
        self.unlabelled = unlabelled
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.engine = engine
        self.backend = backend
        self.precision = precision

    @property
    def _missing(self) -> bool:  # type: ignore[override]
        return self.likelihood != "multinomial"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = tags.classifier_tags.poor_score = self.likelihood == "multinomial"
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NaiveBayes:
        """Fit to rows X (n_samples, n_features) and labels y; ``sample_weight`` says how often each row counts."""
        X, y = self._checked(X, y=y)
        check_classification_targets(y)
        known = np.ones(len(y), bool) if self.unlabelled is None else y != self.unlabelled
        if not known.any():
            raise ValueError(f"every label is {self.unlabelled!r}, that is, not known: expected one of each class")
        self.classes_, codes = np.unique(y[known], return_inverse=True)
        labels = np.full(len(y), -1)
        labels[known] = codes
        model, needed = self._model(), "locs" if self.likelihood == "gaussian" else "probs"
        weights = checked_weights(sample_weight, X)
        run = self._fitted(model, {"x": self._features(X), "y": labels}, needed, weights=weights)
        self.class_prior_ = run.params["weights"]
        if self.likelihood == "gaussian":
            self.theta_, self.var_ = run.params["locs"], run.params["scales"] ** 2
        else:
            self.feature_log_prob_ = np.log(run.params["probs"])
        return self

    def _model(self) -> Model:
        return Model(len(self.classes_), self.likelihood, float(self.alpha), float(self.var_smoothing))

    def _features(self, X: np.ndarray) -> np.ndarray:
        if self.likelihood == "multinomial":
            check_non_negative(X, "NaiveBayes (likelihood='multinomial')")
        if self.likelihood == "bernoulli" and self.binarize is not None:
            return np.where(np.isnan(X), np.nan, X > self.binarize)
        return X

    def _log_joint(self, X: Any) -> np.ndarray:
        """log p(y_n = k, x_n), shape (n_samples, K)."""
        x = self._features(self._new(X))
        if self.likelihood == "gaussian":
            params = {"weights": self.class_prior_, "locs": self.theta_, "scales": np.sqrt(self.var_)}
        else:
            params = {"weights": self.class_prior_, "probs": np.exp(self.feature_log_prob_)}
        batches = gen_batches(len(x), max(1, _ENTRIES // (len(self.classes_) * x.shape[1])))
        with on_host(), np.errstate(divide="ignore"):
            parts = [self._model().log_joint(params, {"x": _split(x[rows])}) for rows in batches]
        return np.concatenate(parts)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log p(y_n = k | x_n), shape (n_samples, K)."""
        joint = self._log_joint(X)
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y_n = k | x_n), shape (n_samples, K)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, shape (n_samples,)."""
        best = self._log_joint(X).argmax(axis=1)  # before classes_, so that what is not fitted says so
        return self.classes_[best]

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_n) of each row, shape (n_samples,)."""
        return logsumexp(self._log_joint(X), axis=1)


def _split(x: np.ndarray) -> Any:
    return split(x) if np.isnan(x).any() else x
