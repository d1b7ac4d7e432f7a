"""Latent class analysis as a density estimator and clusterer."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from ppl_gen.models.latent_class import LatentClass as Model
from ppl_gen.sklearn._base import checked_weights
from ppl_gen.sklearn._mixture import LikelihoodMixture

_LEAST = -85.0  # in the place of the log of zero, as of the model's E-step: classes of impossible rows are told by it


class LatentClass(LikelihoodMixture):
    """A mixture of independent categorical items, by :class:`ppl_gen.models.LatentClass`.

    The categories of an item are its distinct values in X; NaN is an item that was not answered, left out exactly. A
    value of new data that was not among those fitted has probability zero in every class: ``score_samples`` is -inf,
    and ``predict_proba`` goes by the other items.

    Parameters
    ----------
    n_components : classes.
    tol, max_iter, n_init, random_state, engine, backend, precision : see :class:`GenerativeEstimator`.

    Attributes
    ----------
    weights_ : (K,). categories_ : sorted values of each item. item_probs_ : (K, n_features, most categories).
    """

    _missing = True

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        engine: Any = "em",
        backend: str = "auto",
        precision: str = "float64",
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.engine = engine
        self.backend = backend
        self.precision = precision

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> LatentClass:
        """Fit to answers X (n_samples, n_features); ``sample_weight`` (n_samples,) says how often each row counts."""
        X = self._checked(X, ensure_min_samples=2)
        weights = checked_weights(sample_weight, X)
        self.categories_ = [np.unique(column[~np.isnan(column)]) for column in X.T]
        most = max(1, *(len(c) for c in self.categories_))
        run = self._fitted(Model(self.n_components, most), {"x": self._codes(X)}, "probs", weights=weights)
        self.weights_, self.item_probs_ = run.params["weights"], run.params["probs"]
        return self

    def _codes(self, X: np.ndarray) -> np.ndarray:
        """Places of the answers among their item's categories; NaN stays, and what was not fitted is the last place."""
        last = max(len(c) for c in self.categories_)
        return np.stack([_places(c, column, last) for c, column in zip(self.categories_, X.T, strict=True)], 1)

    def _log_joint(self, X: np.ndarray, least: float = -np.inf) -> np.ndarray:
        codes = self._codes(X)
        answered, codes = ~np.isnan(codes), np.nan_to_num(codes).astype(int)
        with np.errstate(divide="ignore"):
            joint = np.maximum(np.log(self.weights_), least)
            logs = np.pad(np.log(self.item_probs_), ((0, 0), (0, 0), (0, 1)), constant_values=-np.inf)
        for i in range(X.shape[1]):
            joint = joint + np.where(answered[:, i, None], np.maximum(logs[:, i, codes[:, i]], least).T, 0.0)
        return joint

    def _responsibilities(self, X: np.ndarray) -> np.ndarray:
        return softmax(self._log_joint(X, _LEAST), axis=1)

    def _drawn(self, component: int, count: int, rng: np.random.RandomState) -> np.ndarray:
        pairs = zip(self.categories_, self.item_probs_[component], strict=True)
        items = [rng.choice(c, count, p=p[: len(c)] / p[: len(c)].sum()) for c, p in pairs]
        return np.stack(items, 1)

    def _num_parameters(self) -> int:
        k = len(self.weights_)
        return k * sum(len(c) - 1 for c in self.categories_) + k - 1


def _places(categories: np.ndarray, column: np.ndarray, last: int) -> np.ndarray:
    place = np.searchsorted(categories, column)
    known = np.isin(column, categories)
    return np.where(np.isnan(column), np.nan, np.where(known, place, last))
