"""Mixtures of linear-Gaussian models on MNIST: density of the test set, and digits told apart by Bayes' rule.

A mixture's figures stand beside those of one probabilistic PCA in closed form. For Bayes' rule each class has a model
of its own, fitted to its rows alone. All times are of whole fits, in single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._mnist import images, labels

TITLE = "Mixtures of linear-Gaussian models on MNIST"
PEER = None
_MODELS = {  # name -> (components, latents, noise) of a mixture; one component: probabilistic PCA in closed form
    "PPCA, q = 10": (1, 10, "isotropic"),
    "mixture of PPCA, K = 10, q = 10": (10, 10, "isotropic"),
    "mixture of factor analysers, K = 10, q = 10": (10, 10, "diag"),
    "PPCA of each class, q = 30": (1, 30, "isotropic"),
    "mixture of PPCA of each class, K = 5, q = 15": (5, 15, "isotropic"),
    "mixture of factor analysers of each class, K = 5, q = 15": (5, 15, "diag"),
}
CASES = {f"{backend} {name}": f"fit of MNIST, {name}, {backend}" for backend in ("numpyro", "pyro") for name in _MODELS}
_EM = {"num_restarts": 1, "num_steps": 100, "tolerance": 1e-5}


def ours(case: str) -> Callable[[], dict[str, float]]:
    import warnings

    warnings.simplefilter("ignore")
    backend, _, name = case.partition(" ")
    x, new = (images(part).astype("float32") for part in ("train", "t10k"))
    y, truth = labels("train"), labels("t10k")

    def density(rows: np.ndarray) -> np.ndarray:
        """log p(new), (10,000,), under the model fitted to rows."""
        import ppl_gen as pg

        k, q, noise = _MODELS[name]
        model: Any = pg.models.MixtureOfFactorAnalyzers(k, q, noise=noise) if k > 1 else pg.models.ProbabilisticPCA(q)
        engine, options = ("em", _EM) if k > 1 else ("closed_form", {})
        return pg.infer(model, rows, engine, backend, precision="float32", progress=False, **options).log_prob(new)

    def run() -> dict[str, float]:
        if "each class" not in name:
            return {"test log likelihood": float(density(x).mean())}
        log_joint = np.stack([density(x[y == c]) + np.log(np.mean(y == c)) for c in range(10)])
        marginal = np.logaddexp.reduce(log_joint, axis=0)
        return {"test log likelihood": float(marginal.mean()), "accuracy": float(np.mean(log_joint.argmax(0) == truth))}

    return run
