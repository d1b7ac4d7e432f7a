"""The posteriors of posterior_speed, eight of posteriordb and three larger ones, and whether draws are right."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PUBLIC = ("eight_schools", "kidiq", "arK", "sblrc", "gp", "mixture", "dogs", "hmm")
LARGER = ("logistic", "groups", "gaussian")


def _public(name: str) -> Any:
    from tests.posteriors import POSTERIORS

    return POSTERIORS[name]


def _folder() -> Path:
    if "PPL_GEN_DATA" not in os.environ:
        raise RuntimeError("posterior_speed reads the posteriors of posteriordb: set PPL_GEN_DATA to their folder")
    return Path(os.environ["PPL_GEN_DATA"])


@functools.cache
def data(name: str) -> dict[str, Any]:
    """What the program takes."""
    return _public(name).data(_folder()) if name in PUBLIC else globals()[f"_{name}_data"]()


def _logistic_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10_000, 100)) / 10.0
    return {"x": x, "y": (rng.random(10_000) < 1 / (1 + np.exp(-x @ rng.standard_normal(100)))).astype(float)}


def _groups_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.5, 2.0, 1000)
    return {"y": 1.0 + 0.7 * rng.standard_normal(1000) + sigma * rng.standard_normal(1000), "sigma": sigma}


def _gaussian_data() -> dict[str, np.ndarray]:
    """Standard deviations from 0.01 to 10 along the coordinates, which three reflections mix a little."""
    rng = np.random.default_rng(2)
    factor = np.diag(10.0 ** rng.uniform(-1, 2, 1000))
    for _ in range(3):
        v = rng.standard_normal(1000)
        v /= np.linalg.norm(v)
        factor = factor - 2.0 * np.outer(factor @ v, v)
    return {"precision_factor": factor}


def program(name: str) -> Any:
    """As a user of ppl_gen writes it."""
    import ppl_gen as pg
    from ppl_gen import dist, xp

    def logistic(x, y):
        beta = pg.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    def groups(y, sigma):
        mu, tau = pg.sample("mu", dist.Normal(0.0, 5.0)), pg.sample("tau", dist.HalfNormal(2.0))
        with pg.plate("group", len(y)):
            z = pg.sample("z", dist.Normal(0.0, 1.0))
            pg.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)

    def gaussian(precision_factor):
        x = pg.sample("x", dist.Flat(shape=(len(precision_factor),)))
        pg.factor("density", -0.5 * xp.sum((precision_factor @ x) ** 2))

    if name in PUBLIC:
        return _public(name).program
    return pg.program({"logistic": logistic, "groups": groups, "gaussian": gaussian}[name])


def scalars(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws (chain, draw) of each scalar, under the names of posteriordb."""
    entries = {n: np.asarray(x) for n, x in draws.items()}
    return {
        (n if x.ndim == 2 else f"{n}[{i + 1}]"): x.reshape(*x.shape[:2], -1)[..., i]
        for n, x in entries.items()
        for i in range(int(np.prod(x.shape[2:])))
    }


@functools.cache
def reference(name: str) -> tuple[dict[str, tuple[float, float]], set[str]]:
    """Mean and standard deviation of scalars; and which have tails too heavy for the latter."""
    if name in PUBLIC:
        known, heavy = _public(name).reference(_folder())
        return {n: (s["mean"], s["sd"]) for n, s in known.items()}, heavy
    return globals()[f"_{name}_reference"](**data(name)), set()


def _gaussian_reference(precision_factor: np.ndarray) -> dict[str, tuple[float, float]]:
    inverse = np.linalg.inv(precision_factor)
    return {f"x[{i + 1}]": (0.0, float(s)) for i, s in enumerate(np.sqrt((inverse**2).sum(1)))}


def _logistic_reference(x: np.ndarray, y: np.ndarray) -> dict[str, tuple[float, float]]:
    """A Gaussian at the mode: with 10,000 rows of 100 coefficients, off by far less than the tolerance."""
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ beta))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(len(beta))
        beta = beta + np.linalg.solve(hessian, x.T @ (y - p) - beta)
    sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
    return {f"beta[{i + 1}]": (float(m), float(s)) for i, (m, s) in enumerate(zip(beta, sd, strict=True))}


def _groups_reference(y: np.ndarray, sigma: np.ndarray) -> dict[str, tuple[float, float]]:
    """mu and tau by quadrature over the plane, the groups integrated out."""
    mu, tau = np.meshgrid(np.linspace(0.5, 1.5, 301), np.linspace(0.2, 1.2, 301), indexing="ij")
    log_p = -0.5 * (mu / 5) ** 2 - 0.5 * (tau / 2) ** 2
    for value, s in zip(y, sigma, strict=True):
        variance = tau**2 + s**2
        log_p += -0.5 * (value - mu) ** 2 / variance - 0.5 * np.log(variance)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    moments = {n: ((weight * v).sum(), (weight * v**2).sum()) for n, v in (("mu", mu), ("tau", tau))}
    return {n: (float(m), float(np.sqrt(square - m**2))) for n, (m, square) in moments.items()}


def quality(name: str, draws: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Smallest bulk ESS over the parameters, and whether the draws pass (1 or 0): mean within 0.15 reference standard
    deviations, deviations within 15 %, R-hat below 1.02; four Monte Carlo errors are allowed for."""
    from ppl_gen.evaluation import ess, mcse, rhat

    found = scalars(draws)
    known, heavy = reference(name)
    missing = set(known) - set(found)
    if missing:
        raise AssertionError(f"no draws of {sorted(missing)[:5]}")
    every = np.stack(list(found.values()), axis=2)
    size, mixed = ess(every), rhat(every)
    good = bool(np.nanmax(mixed) < 1.02)
    for n, (mean, sd) in known.items():
        x = found[n]
        good &= abs(x.mean() - mean) <= 0.15 * sd + 4 * float(mcse(x))
        good &= n in heavy or abs(x.std() / sd - 1) <= 0.15 + 4 * float(mcse(x, "sd")) / sd
    return {"min ESS": float(np.nanmin(size)), "passes": float(good), "max R-hat": float(np.nanmax(mixed))}
