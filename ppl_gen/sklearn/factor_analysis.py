"""Factor analysis as a transformer."""

from __future__ import annotations

from typing import Any

from ppl_gen.models.factor_analysis import FactorAnalysis as Model
from ppl_gen.sklearn._factors import FactorEstimator


class FactorAnalysis(FactorEstimator):
    """Factor analysis by :class:`ppl_gen.models.FactorAnalysis`; stands for scikit-learn's of that name.

    Entries that are NaN are integrated out.

    Parameters
    ----------
    n_components : q, below the number of features.
    tol, max_iter, n_init, random_state, engine, backend, precision : see :class:`GenerativeEstimator`.

    Attributes
    ----------
    components_ : W^T (q, D). mean_, noise_variance_ : (D,).
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

    def fit(self, X: Any, y: Any = None) -> FactorAnalysis:
        """Fit to the rows of X (n_samples, n_features)."""
        X = self._checked(X, ensure_min_samples=2, ensure_min_features=2)
        run = self._fitted(Model(self.n_components), {"x": X}, "loadings")
        self._keep(run.params["loc"], run.params["loadings"], run.params["scales"] ** 2)
        return self
