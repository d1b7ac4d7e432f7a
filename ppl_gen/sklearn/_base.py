"""What the estimators share: checked data in, a run of ``pg.infer`` behind, pickles without code."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ppl_gen.infer import infer
from ppl_gen.inference.engine import Engine, resolve
from ppl_gen.results.run import Run

_SMALL = 100_000  # entries of X; a fit of fewer is over on PyTorch before JAX has compiled it


def checked_weights(sample_weight: Any, X: Any) -> np.ndarray | None:
    """Weights (n_samples,) of at least 0, some above; None where none are given."""
    return None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)


class GenerativeEstimator(BaseEstimator):
    """An estimator whose ``fit`` is ``pg.infer`` on a declared model.

    Parameters that all of them have:
        tol: EM stops where the log likelihood gains less than this, relative to its size.
        max_iter, n_init: iterations at most; starts, of which the best end is kept.
        random_state: as everywhere in scikit-learn.
        engine: a name, or an engine object (its own settings then count, not ``tol``, ``max_iter`` and ``n_init``).
        backend: "numpyro", "pyro", or "auto": PyTorch for X of fewer than 100,000 entries, JAX for more.
        precision: "float64" or "float32".

    Fitted attributes that all of them have: ``run_`` (the :class:`~ppl_gen.results.run.Run`), ``n_iter_``,
    ``converged_``, ``n_features_in_``, ``feature_names_in_``. A pickle holds the run's numbers, not its program and
    data.
    """

    _missing = False  # whether NaN stands for what was not observed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._missing
        return tags

    def _checked(self, X: Any, **options: Any) -> Any:
        """X (n_samples, n_features) as floating point; of new data, with the features that were fitted."""
        finite = "allow-nan" if self._missing else True
        return validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=finite, **options)

    def _new(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return np.asarray(self._checked(X, reset=False), dtype=float)

    def _fitted(self, model: Any, data: Any, needed: str, engine: Any = None, **options: Any) -> Run:
        """The run, kept as ``run_``; ``options`` are for the engine, as far as it has them.

        Raises:
            ValueError: an engine whose result has no value of the parameter ``needed``.
        """
        options |= {"num_steps": self.max_iter, "tolerance": self.tol, "num_restarts": self.n_init}
        small = data["x"].size < _SMALL
        backend = ("pyro" if small else "numpyro") if self.backend == "auto" else self.backend
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = infer(
                model, data, _engine(engine or self.engine, options), backend, seed, False, precision=self.precision
            )
        self.converged_ = not any("converged" in message for message in run.warnings)
        for w in caught:
            kind = ConvergenceWarning if "converged" in str(w.message) else w.category
            warnings.warn(str(w.message), kind, stacklevel=3)
        if needed not in run.params:
            known = type(self)().engine
            raise ValueError(
                f"engine={self.engine!r} gives no value of {needed!r}, which predictions need: use {known!r}"
            )
        self.run_ = run
        self.n_iter_ = max((len(h) for h in run.history.values()), default=1)
        return run

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "run_" in state:
            state["run_"] = replace(state["run_"], program=None, data=None, observed={}, constants={})
        return state


def _engine(engine: Any, options: dict[str, Any]) -> Engine:
    """The engine of that name with those of the options that it has; an engine object with the row weights."""
    weights, given = options.get("weights"), isinstance(engine, Engine)
    names = {f.name for f in fields(engine if given else resolve(engine, {})) if f.init}
    if weights is not None and "weights" not in names:
        raise ValueError(f"engine={engine!r} takes no sample_weight: use engine='em'")
    if given:
        return engine if weights is None else replace(engine, weights=weights)
    return resolve(engine, {n: v for n, v in options.items() if n in names and v is not None})
