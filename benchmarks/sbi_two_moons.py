"""Two moons of the simulation-based inference benchmark, observation 1: posteriors learned from 100,000 simulations.

theta ~ U(-1, 1)^2; x is a point of a crescent about (0.25, 0), moved by (-|theta_1 + theta_2|, theta_2 - theta_1) /
sqrt(2) (Greenberg, Nonnenmacher & Macke 2019, appendix; sbibm, Lueckmann et al. 2021). Its posterior is two crescents a
hundredth wide. "C2ST" compares 10,000 draws of the network with as many reference draws: 0.5 where a classifier cannot
tell them apart. "weighed" are draws that importance weights by the program's density have resampled, "ESS" what these
are worth, of 100,000.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _data

TITLE = "Two moons (sbi benchmark, observation 1): posteriors learned from 100,000 simulations"
PEER = None
ONCE = True
_SIMULATIONS, _DRAWS = 100_000, 10_000
_TRAINING: dict[str, dict[str, Any]] = {
    "npe": {"batch_size": 1000, "num_epochs": 40},
    "npse": {"batch_size": 1000, "num_epochs": 40},
    "fmpe": {"batch_size": 1000, "num_epochs": 40},
}
CASES = {f"{backend} {engine}": f"{engine}, {backend}" for backend in ("numpyro", "pyro") for engine in _TRAINING}


def two_moons() -> Any:
    """The program; its argument is x (2,)."""
    import ppl_gen as pg
    from ppl_gen import dist, xp

    def generate(theta: Any) -> Callable[[Any], Any]:
        def point(e: Any) -> Any:
            a, r = np.pi * (xp.ndtr(e[..., 0]) - 0.5), 0.1 + 0.01 * e[..., 1]
            return xp.stack([r * xp.cos(a) + 0.25, r * xp.sin(a)], axis=-1) + moved(theta)

        return point

    def moved(theta: Any) -> Any:
        return xp.stack([-xp.abs(theta[0] + theta[1]), theta[1] - theta[0]]) / np.sqrt(2.0)

    @pg.program
    def two_moons(x: Any) -> None:
        theta = pg.sample("theta", dist.Uniform(-1.0, 1.0).expand([2]).to_event(1))

        def log_prob(x: Any) -> Any:
            p = x - moved(theta) - xp.array([0.25, 0.0])
            r = xp.sqrt(xp.sum(p * p, axis=-1))
            return xp.where(p[..., 0] > 0.0, dist.Normal(0.1, 0.01).log_prob(r) - xp.log(np.pi * r), -xp.inf)

        noise = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
        pg.sample("x", dist.FromFunctions(noise, generate(theta), log_prob, (2,)), obs=x)

    return two_moons


def ours(case: str) -> Callable[[], dict[str, float]]:
    backend, engine = case.split()
    observed, reference = task()

    def run() -> dict[str, float]:
        import ppl_gen as pg
        from ppl_gen import evaluation

        made = pg.infer(
            two_moons(), observed, engine, backend, precision="float32", num_simulations=_SIMULATIONS, progress=False,
            num_samples=_DRAWS, correction=False, **_TRAINING[engine],
        )  # fmt: skip
        weighed = made.posterior_for(correction=True)
        draws = (x.posterior["theta"][0] for x in (made, weighed))
        plain, corrected = (evaluation.c2st(reference, x) for x in draws)
        return {"C2ST": plain, "C2ST weighed": corrected, "ESS": weighed.attrs["ess"]}

    return run


def task() -> tuple[np.ndarray, np.ndarray]:
    """The observation (2,) and reference draws of its posterior (10,000, 2)."""
    folder = _data.at("sbi")
    observed = np.loadtxt(folder / "two_moons_obs1_observation.csv", delimiter=",", skiprows=1)
    with bz2.open(folder / "two_moons_obs1_reference_posterior.csv.bz2", "rt") as file:
        return observed, np.loadtxt(file, delimiter=",", skiprows=1)
