"""Probabilistic principal component analysis as a transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.models.probabilistic_pca import ProbabilisticPCA as Model
from ppl_gen.sklearn._factors import FactorEstimator


class ProbabilisticPCA(FactorEstimator):
    """Probabilistic PCA by :class:`ppl_gen.models.ProbabilisticPCA` (Tipping & Bishop 1999).

    ``transform`` gives posterior means of the latents, which are PCA's scores shrunk towards zero.

    Parameters
    ----------
    n_components : q, below the number of features.
    engine : "auto" is the closed form, or EM where entries are missing; else see :class:`GenerativeEstimator`.
    tol, max_iter, n_init, random_state, backend, precision : see :class:`GenerativeEstimator`.

    Attributes
    ----------
    components_ : W^T (q, D), along the principal axes. mean_ : (D,). noise_variance_ : sigma^2.
    """

    _missing = "x" in getattr(Model, "missing", ())

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        engine: Any = "auto",
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

    def fit(self, X: Any, y: Any = None) -> ProbabilisticPCA:
        """Fit to the rows of X (n_samples, n_features)."""
        X = self._checked(X, ensure_min_samples=2, ensure_min_features=2)
        exact = "em" if np.isnan(X).any() else "closed_form"
        engine = exact if self.engine == "auto" else self.engine
        run = self._fitted(Model(self.n_components), {"x": X}, "loadings", engine)
        self._keep(run.params["loc"], run.params["loadings"], float(run.params["scale"]) ** 2)
        return self
