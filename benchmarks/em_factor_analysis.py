"""Factor analysis by EM and probabilistic PCA in closed form, whole fits of MNIST's pixels, beside scikit-learn's.

Factor analysis starts at the same point on both sides (noise variances of one, loadings at their best for them) and
ends where an iteration gains less than 1e-6 of the log likelihood; the peer's EM is another one, which solves for the
loadings by a decomposition of the rows in every iteration: its randomised one, many times faster than its exact one on
these data. Of its four solvers of PCA the fastest is the peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._mnist import images

TITLE = "Factor analysis and probabilistic PCA of MNIST"
PEER = "scikit-learn"
_FACTORS, _TOLERANCE = 10, 1e-6
CASES = {
    f"factors {backend} {precision}": f"factor analysis, q = {_FACTORS}, MNIST's 60,000 x 717 pixels that vary, to "
    f"the optimum, {precision}, {backend}"
    for backend in ("numpyro", "pyro")
    for precision in ("float64", "float32")
} | {
    f"components numpyro {precision}": f"probabilistic PCA, q = {_FACTORS}, MNIST's 60,000 x 784 pixels, {precision}"
    for precision in ("float64", "float32")
}


def _data(case: str) -> np.ndarray:
    kind, _, precision = case.split()
    x = images("train").astype(precision)
    return x[:, x.std(0) > 0] if kind == "factors" else x


def _gaussian(s: np.ndarray, w: np.ndarray, noise: np.ndarray) -> float:
    """Mean log density of rows of covariance ``s`` (D, D) about their mean under N(mean, w w^T + diag(noise))."""
    sigma = w @ w.T + np.diag(noise)
    return -0.5 * (len(s) * np.log(2 * np.pi) + np.linalg.slogdet(sigma)[1] + np.trace(np.linalg.solve(sigma, s)))


def _start(s: np.ndarray) -> np.ndarray:
    """Loadings (D, q) that are best where every noise variance is one."""
    values, vectors = np.linalg.eigh(s)
    return vectors[:, -_FACTORS:] * np.sqrt(np.maximum(values[-_FACTORS:] - 1.0, 0.0))


def ours(case: str) -> Callable[[], Any]:
    import ppl_gen as pg

    kind, backend, precision = case.split()
    x = _data(case)
    s = np.cov(x.T, bias=True, dtype=float)
    if kind == "factors":
        start = {"loc": x.mean(0, dtype=float), "loadings": _start(s), "scales": np.ones(x.shape[1])}
        model, engine = pg.models.FactorAnalysis(_FACTORS), "em"
        options = {"init": start, "num_restarts": 1, "num_steps": 1000, "tolerance": _TOLERANCE}
    else:
        model, engine, options = pg.models.ProbabilisticPCA(_FACTORS), "closed_form", {}

    def run() -> Any:
        found = pg.infer(model, x, engine, backend, precision=precision, progress=False, **options)
        return lambda: quality(found)

    def quality(found: Any) -> dict[str, float]:
        noise = found.params["scales" if kind == "factors" else "scale"] ** 2 * np.ones(x.shape[1])
        steps = len(found.history["log_likelihood"]) if kind == "factors" else 1
        return {"log likelihood of a row": _gaussian(s, found.params["loadings"], noise), "iterations": steps}

    return run


def _seconds(f: Callable[[], Any]) -> float:
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


def peer(case: str) -> Callable[[], Any]:
    from sklearn.decomposition import PCA, FactorAnalysis

    x = _data(case)
    s = np.cov(x.T, bias=True, dtype=float)
    if case.startswith("factors"):
        level = abs(_gaussian(s, _start(s), np.ones(len(s)))) * len(x)
        fastest: Any = FactorAnalysis(_FACTORS, tol=_TOLERANCE * level, max_iter=1000, svd_method="randomized")
    else:
        candidates = [PCA(_FACTORS, svd_solver=s) for s in ("covariance_eigh", "arpack", "randomized", "full")]
        fastest = min(candidates, key=lambda candidate: _seconds(lambda: candidate.fit(x)))

    def run() -> Any:
        fastest.fit(x)
        return lambda: quality(fastest)

    def quality(found: Any) -> dict[str, float]:
        if case.startswith("factors"):
            value, steps = _gaussian(s, found.components_.T, found.noise_variance_), found.n_iter_
        else:
            left = np.maximum(found.explained_variance_ - found.noise_variance_, 0.0)
            noise = np.full(len(s), found.noise_variance_, float)
            value, steps = _gaussian(s, found.components_.T * np.sqrt(left), noise), 1
        return {"log likelihood of a row": value, "iterations": steps}

    return run
