"""Topics of documents as a transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_non_negative

from ppl_gen.models.latent_dirichlet import LatentDirichlet as Model
from ppl_gen.sklearn._base import GenerativeEstimator
from ppl_gen.sklearn._host import on_host


class LatentDirichlet(ClassNamePrefixFeaturesOutMixin, TransformerMixin, GenerativeEstimator):
    """Latent Dirichlet allocation by :class:`ppl_gen.models.LatentDirichlet` and variational Bayes.

    Stands for scikit-learn's ``LatentDirichletAllocation``; X holds counts of words.

    Parameters
    ----------
    n_components, doc_topic_prior, topic_word_prior, max_iter, random_state : as in scikit-learn.
    tol, n_init, engine, backend, precision : see :class:`GenerativeEstimator`; the engine must have a q, as "vbem".

    Attributes
    ----------
    components_ : concentrations of q(topics) (n_components, n_features). bound_ : of the log evidence.
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | None = None,
        topic_word_prior: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        engine: Any = "vbem",
        backend: str = "auto",
        precision: str = "float64",
    ):
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.engine = engine
        self.backend = backend
        self.precision = precision

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def fit(self, X: Any, y: Any = None) -> LatentDirichlet:
        """Fit to documents X (n_samples, n_features)."""
        X = self._checked(X)
        check_non_negative(X, "LatentDirichlet.fit")
        run = self._fitted(self._model(), {"x": X}, "q.topics_concentration", num_samples=1)
        self.components_, self.bound_ = run.params["q.topics_concentration"], float(run.history["elbo"][-1])
        return self

    def _model(self) -> Model:
        return Model(self.n_components, self.doc_topic_prior, self.topic_word_prior)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def transform(self, X: Any) -> np.ndarray:
        """Mean proportions of the topics in each document, shape (n_samples, n_components)."""
        X = self._new(X)
        check_non_negative(X, "LatentDirichlet.transform")
        with on_host():
            return self._model().vb_latent({"topics_concentration": self.components_}, {"x": X})["proportions"]
