"""What a run of vbem or mcem says of rows that it was not fitted to, against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

BACKENDS = ["numpyro", "pyro"]
SLOW_ON_NUMPYRO = [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"]
RNG = np.random.default_rng(8)
COUNTS = RNG.poisson(np.exp(0.5 + 0.8 * RNG.normal(size=50)) * np.where(RNG.random(50) < 0.4, 4.0, 1.0))
NEW = np.array([0, 2, 5, 12, 30])
NODES, MASSES = np.polynomial.hermite_e.hermegauss(80)
EXTRA = np.log(4.0)

pytestmark = pytest.mark.filterwarnings("ignore:vbem stopped", "ignore:mcem stopped")


@pg.program
def two_kinds(y):
    """Counts with a log-normal rate, four times as high in some rows."""
    mu = pg.param("mu", lambda: 0.5 * xp.ones(()))
    with pg.plate("row", len(y)):
        k = pg.sample("k", dist.Bernoulli(0.4))
        rate = pg.sample("rate", dist.LogNormal(mu, 0.5))
        pg.sample("y", dist.Poisson(rate * xp.exp(EXTRA * k)), obs=y)


def _exact(mu):
    """Means of the rate, its variances, and the share of the higher kind."""
    rates = np.exp(mu + 0.5 * NODES)
    own = stats.poisson.logpmf(NEW[:, None, None], rates[:, None] * np.array([1.0, 4.0])) + np.log([0.6, 0.4])
    w = np.exp(own + np.log(MASSES)[:, None])
    w = w / w.sum((1, 2), keepdims=True)
    mean = w.sum(2) @ rates
    return mean, w.sum(2) @ rates**2 - mean**2, w[..., 1].sum(1)


@pytest.mark.parametrize("backend", SLOW_ON_NUMPYRO)
def test_langevin_draws_of_new_rows(backend):
    run = pg.infer(two_kinds, COUNTS, "mcem", backend, progress=False, num_steps=3)
    found, (mean, variance, share) = run.latent(NEW), _exact(run.params["mu"])
    error = 5 / np.sqrt(8 * 64 / 10)  # draws count for a tenth of independent ones at least
    assert (np.abs(found["rate"] - mean) < error * np.sqrt(variance)).all()
    np.testing.assert_allclose(found["rate_cov"][:, 0, 0], variance, rtol=error)
    np.testing.assert_allclose(found["k"][:, 1], share, atol=error * 0.5)
    assert run.latent()["k"].shape == (50, 2)


@pytest.mark.parametrize("backend", SLOW_ON_NUMPYRO)
def test_gaussian_q_of_new_rows(backend, tmp_path):
    """Near the posterior, and that of rows which were fitted, given again, is the one of the fit."""
    run = pg.infer(two_kinds, COUNTS, "vbem", backend, progress=False, num_restarts=1, num_samples=4000, e_steps=5)
    found, (mean, variance, share) = run.latent(NEW), _exact(run.params["mu"])
    assert (np.abs(found["rate"] - mean) < 0.1 * np.sqrt(variance)).all()
    np.testing.assert_allclose(found["k"][:, 1], share, atol=0.05)
    again, fitted = run.latent(COUNTS), run.latent()
    error = 5 * np.sqrt(again["rate_cov"][:, 0, 0] / 4000)
    assert (np.abs(again["rate"] - fitted["rate"]) < error + 1e-6).all()
    np.testing.assert_allclose(again["k"], fitted["k"], atol=5 * 0.5 / np.sqrt(256))
    run.save(tmp_path / "run")
    held = pg.load(tmp_path / "run", two_kinds, COUNTS).latent(NEW)
    np.testing.assert_allclose(held["rate"], found["rate"], rtol=1e-4)


def _logistic(x):
    b = pg.param("b", lambda: xp.zeros((3,)))
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("x", dist.Bernoulli(logits=2.0 * z[..., None] + b).to_event(1), obs=x)


def _encoder(x):
    v = pg.param("v", lambda: xp.zeros((3,)))
    t = pg.param("t", lambda: xp.ones(()), constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        pg.sample("z", dist.Normal((x - 0.5) @ v, t))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_guide_is_asked_at_new_rows(backend):
    x = (RNG.random((80, 3)) < special.expit(2.0 * RNG.normal(size=(80, 1)))).astype(float)
    new = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    run = pg.infer(pg.program(_logistic, guide=_encoder), x, "vbem", backend, progress=False, num_restarts=1)
    found, p = run.latent(new), run.params
    np.testing.assert_allclose(found["z"], (new - 0.5) @ p["v"], atol=1e-9)
    np.testing.assert_allclose(found["z_cov"], np.full((3, 1, 1), p["t"] ** 2), rtol=1e-9)
    w = MASSES * np.exp((stats.bernoulli.logpmf(new[:, None], special.expit(2 * NODES[:, None] + p["b"]))).sum(-1))
    exact = (w * NODES).sum(1) / w.sum(1)
    np.testing.assert_allclose(found["z"], exact, atol=0.15)  # a linear mean loses little
