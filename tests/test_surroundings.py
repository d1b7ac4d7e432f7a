"""What a program reads from around it, supports that latents bound, predictions at new covariates."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.evaluation import ess

BACKENDS = ("numpyro", "pyro")
Y = np.array([2.0, 2.0])
SPREAD = 1.0


def _by_global(y):
    mu = pg.sample("mu", dist.Normal(0.0, SPREAD))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(mu, 1.0), obs=y)


def _mode(spread: float) -> float:
    """Of mu ~ N(0, spread^2) given Y ~ N(mu, 1)."""
    return Y.sum() / (len(Y) + spread**-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_changed_global_is_seen(backend, monkeypatch):
    for spread in (0.1, 10.0):
        monkeypatch.setitem(globals(), "SPREAD", spread)
        found = pg.infer(_by_global, Y, "map", backend, progress=False).params["mu"]
        assert found == pytest.approx(_mode(spread), abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_changed_closure_variable_is_seen(backend):
    scale = np.array([0.1, 0.1])

    def by_closure(y):
        mu = pg.sample("mu", dist.Normal(0.0, float(scale[0])))
        with pg.plate("row", len(y)):
            pg.sample("y", dist.Normal(mu, 1.0), obs=y)

    for spread in (0.1, 10.0):
        scale[:] = spread  # in place: the array is the same object
        found = pg.infer(by_closure, Y, "map", backend, progress=False).params["mu"]
        assert found == pytest.approx(_mode(spread), abs=1e-5)


def _bounded(x):
    top = pg.sample("top", dist.HalfNormal(1.0))
    with pg.plate("row", len(x)):
        pg.sample("x", dist.Uniform(0.0, top), obs=x)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_a_support_that_a_latent_bounds(backend):
    """p(top | x) is proportional to top^-30 exp(-top^2 / 2) above the largest x; a prior draw of top says nothing."""
    x = np.linspace(0.1, 3.0, 30)
    grid = np.linspace(3.0, 8.0, 200_001)
    weight = np.exp(-30 * np.log(grid / 3.0) - grid**2 / 2 + 4.5)
    mean, square = (grid * weight).sum() / weight.sum(), (grid**2 * weight).sum() / weight.sum()
    run = pg.infer(_bounded, x, "nuts", backend, num_chains=2, num_warmup=300, num_samples=500, progress=False)
    top = run.posterior["top"]
    error = np.sqrt(square - mean**2) / np.sqrt(float(ess(top)))
    assert abs(top.mean() - mean) < 5 * error  # five Monte Carlo standard errors: one seed in two million fails
    assert run.log_prob([1.0, 50.0])[1] == -np.inf


def _line(x, y=None):
    slope = pg.sample("slope", dist.Normal(0.0, 10.0))
    with pg.plate("row", len(x)):
        pg.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_at_new_covariates_without_observations(backend):
    x = np.linspace(0.0, 1.0, 20)
    run = pg.infer(_line, {"x": x, "y": 3.0 * x}, "map", backend, progress=False)
    drawn = run.predict({"x": np.array([1.0, 2.0, 5.0])}).posterior_predictive["y"]
    assert drawn.shape == (1, 1, 3)
    assert np.isfinite(drawn.values).all()
