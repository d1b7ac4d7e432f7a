"""EM iterations of Gaussian mixtures: ours from pg.infer's loop, the peer's by its own E- and M-step.

Both sides start from the same parameters and end at the same log likelihood, which is asserted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TITLE = "EM iterations of Gaussian mixtures"
PEER = "scikit-learn"
_ROWS, _FEATURES, _COMPONENTS, _ITERATIONS = 200_000, 16, 32, 10
#: Log likelihood before the last of the iterations, by scikit-learn in float64.
_EXPECTED = {"full": -5189339.0691, "diag": -5427994.7990}
_WITHIN = {"float64": 1e-9, "float32": 1e-5}
CASES = {
    f"{backend} {kind} {precision}": f"one EM iteration, {_COMPONENTS} {kind} Gaussians, {_ROWS:,} x {_FEATURES}, "
    f"{precision}, {backend}"
    for backend in ("numpyro", "pyro")
    for kind in ("full", "diag")
    for precision in ("float64", "float32")
}
PER = dict.fromkeys(CASES, _ITERATIONS)


def _data(precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows around 32 oblique clusters, and some of them as the first means."""
    rng = np.random.default_rng(0)
    centres = 2.0 * rng.standard_normal((_COMPONENTS, _FEATURES))
    turns = np.eye(_FEATURES) + 0.1 * rng.standard_normal((_COMPONENTS, _FEATURES, _FEATURES))
    label = rng.integers(_COMPONENTS, size=_ROWS)
    x = np.concatenate(
        [centres[k] + rng.standard_normal(((label == k).sum(), _FEATURES)) @ turns[k] for k in range(_COMPONENTS)]
    )
    return rng.permutation(x).astype(precision), centres + rng.standard_normal(centres.shape)


def _quality(found: float, kind: str, precision: str) -> dict[str, float]:
    expected = _EXPECTED[kind]
    if not abs(found - expected) <= _WITHIN[precision] * abs(expected):
        raise AssertionError(f"log likelihood {found:.4f}, expected {expected:.4f}")
    return {"log likelihood of a row": found / _ROWS}


def ours(case: str) -> Callable[[], dict[str, float]]:
    from ppl_gen import backends
    from ppl_gen.inference.closed_steps import ClosedSteps
    from ppl_gen.inference.em import EM
    from ppl_gen.inference.settling import begin
    from ppl_gen.models import GaussianMixture
    from ppl_gen.program import as_program
    from ppl_gen.target import Target

    backend, kind, precision = case.split()
    x, locs = _data(precision)
    room, rows = backends.get(backend), EM.block_rows
    init = {
        "weights": np.full(_COMPONENTS, 1 / _COMPONENTS),
        "locs": locs,
        "scales": np.ones(locs.shape),
        "correlation": np.tile(np.eye(_FEATURES), (_COMPONENTS, 1, 1)),
    }
    with room.scope(precision=precision):
        model = as_program(GaussianMixture(_COMPONENTS, kind))
        target = Target(model.bind({"x": x}, room, (precision, None), rows))
        steps = ClosedSteps(target, None, rows, False)
        held = begin(room, steps.start(1, 0, {n: v for n, v in init.items() if n in target.sites}), 1)

    def run() -> dict[str, float]:
        with room.scope(precision=precision):
            _, report = steps.advance(held, _ITERATIONS)
            return _quality(float(room.to_numpy(report["value"])[-1, 0]), kind, precision)

    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    import warnings

    from sklearn.mixture import GaussianMixture

    _, kind, precision = case.split()
    x, locs = _data(precision)
    warnings.simplefilter("ignore")  # it is meant to stop early
    identity = np.ones(locs.shape) if kind == "diag" else np.tile(np.eye(_FEATURES), (_COMPONENTS, 1, 1))
    start = {
        "weights_init": np.full(_COMPONENTS, 1 / _COMPONENTS, precision),
        "means_init": locs.astype(precision),
        "precisions_init": identity.astype(precision),
    }
    mixture = GaussianMixture(_COMPONENTS, covariance_type=kind, max_iter=1, init_params="random_from_data", **start)
    mixture.fit(x[: 100 * _COMPONENTS])  # makes the attributes

    def run() -> dict[str, float]:
        mixture.weights_, mixture.means_ = start["weights_init"], start["means_init"]
        mixture.precisions_cholesky_ = start["precisions_init"]
        for _ in range(_ITERATIONS):
            value, log_resp = mixture._e_step(x)
            mixture._m_step(x, log_resp)
        return _quality(_ROWS * float(value), kind, precision)

    return run
