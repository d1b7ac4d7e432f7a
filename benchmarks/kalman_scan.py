"""Kalman filter and smoother: ours by associative scans, the peer's statsmodels, a loop over time in compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TITLE = "Kalman smoother"
_STATES = _FEATURES = 4
_SHAPES = {"numpyro": (1, 10_000), "pyro": (1, 10_000), "numpyro, series": (200, 1_000)}
CASES = {
    "numpyro": "filter and smoother, 1 series of 10,000, 4 states, 4 features, NumPyro",
    "pyro": "filter and smoother, 1 series of 10,000, 4 states, 4 features, Pyro",
    "numpyro, series": "filter and smoother, 200 series of 1,000, 4 states, 4 features, NumPyro",
}
PEER = "statsmodels"


def _model() -> dict[str, np.ndarray]:
    """Slowly turning states, each seen by every feature; names as in ``ppl_gen.kalman.System``."""
    rng = np.random.default_rng(0)
    return {
        "initial_loc": np.zeros(_STATES),
        "initial_covariance": np.eye(_STATES),
        "transition": 0.97 * np.linalg.qr(rng.standard_normal((_STATES, _STATES)))[0],
        "transition_covariance": np.eye(_STATES),
        "emission": rng.standard_normal((_FEATURES, _STATES)),
        "offset": np.zeros(_FEATURES),
        "variances": np.full(_FEATURES, 4.0),
    }


def _data(case: str) -> np.ndarray:
    return 5.0 * np.random.default_rng(1).standard_normal((*_SHAPES[case], _FEATURES))


def ours(case: str) -> Callable[[], dict[str, float]]:
    from ppl_gen import backends, kalman

    room, model = backends.get(case.partition(",")[0]), _model()
    with room.scope(precision="float64"):
        system = kalman.System(**{name: room.asarray(value) for name, value in model.items()})
        x = room.asarray(_data(case))

        def smooth(system: Any, x: Any) -> Any:
            system = kalman.System(*system)
            filtered = kalman.kalman_filter(room.xp, system, x)
            smoothed = kalman.smoother(room.xp, system, filtered)
            return filtered.log_likelihood, smoothed.means, smoothed.covariances

        smooth = room.compile(smooth)

    def run() -> dict[str, float]:
        with room.scope(precision="float64"):
            value, means, covariances = room.to_numpy(smooth(tuple(system), x))
        return _quality(value.sum(), means[-1], covariances[-500])

    return run


def peer(case: str) -> Callable[[], dict[str, float]]:
    from statsmodels.tsa.statespace import kalman_smoother

    x, wanted = _data(case), kalman_smoother.SMOOTHER_STATE | kalman_smoother.SMOOTHER_STATE_COV

    def of_series(series: np.ndarray) -> Any:
        model = _model()
        smoother = kalman_smoother.KalmanSmoother(_FEATURES, _STATES, _STATES, smoother_output=wanted)
        smoother["transition"], smoother["design"] = model["transition"], model["emission"]
        smoother["selection"], smoother["state_cov"] = np.eye(_STATES), model["transition_covariance"]
        smoother["obs_cov"] = np.diag(model["variances"])
        smoother.initialize_known(model["initial_loc"], model["initial_covariance"])
        smoother.bind(series)  # once: a smoother that is bound anew keeps its first series
        return smoother.smooth()

    def run() -> dict[str, float]:
        results = [of_series(series) for series in x]
        last = results[-1]
        value = sum(result.llf for result in results)
        return _quality(value, last.smoothed_state.T, last.smoothed_state_cov[:, :, -500])

    return run


def _quality(log_likelihood: float, means: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
    figures = {"log likelihood": log_likelihood, "rms state": np.sqrt(np.mean(means**2)), "variance": covariance[0, 0]}
    return {name: float(value) for name, value in figures.items()}
