"""Monte Carlo EM against the marginal likelihood by quadrature, and against exact EM."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

BACKENDS = ["numpyro", "pyro"]
RNG = np.random.default_rng(6)
COUNTS = RNG.poisson(np.exp(0.7 + 0.8 * RNG.normal(size=80)))
NODES, MASSES = np.polynomial.hermite_e.hermegauss(60)


def _infer(program, data, backend="numpyro", **options):
    return pg.infer(program, data, engine="mcem", backend=backend, progress=False, **options)


@pg.program
def overdispersed(y):
    mu = pg.param("mu", 0.0)
    scale = pg.param("scale", 0.5, constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("y", dist.Poisson(xp.exp(mu + scale * z)), obs=y)


def _log_likelihood(mu, scale):
    terms = stats.poisson.logpmf(COUNTS[:, None], np.exp(mu + scale * NODES))
    return special.logsumexp(terms, b=MASSES / MASSES.sum(), axis=1).sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_ends_near_the_maximum(backend):
    """Within 0.5 nats of it: far inside the region that the data leave open (1.15 nats for two params at 68 %)."""
    best = optimize.minimize(lambda v: -_log_likelihood(v[0], np.exp(v[1])), [0.5, -0.5])
    run = _infer(overdispersed, COUNTS, backend)
    assert _log_likelihood(run.params["mu"], run.params["scale"]) > -best.fun - 0.5
    assert (run.history["num_draws"] >= 4).all() and run.attrs["e_step"] == "Langevin draws"
    mean = run.posterior["z"].mean((0, 1))
    rate = np.exp(run.params["mu"] + run.params["scale"] * NODES)
    weights = MASSES * np.exp(stats.poisson.logpmf(COUNTS[:, None], rate))
    exact = (weights * NODES).sum(1) / weights.sum(1)
    spread = np.sqrt((weights * NODES**2).sum(1) / weights.sum(1) - exact**2)
    draws = run.posterior["z"].shape[1]
    # z-scores of 80 means; draws count for at least a tenth of independent ones
    assert np.abs((mean - exact) / spread).max() < 5 / np.sqrt(draws / 10)


def test_first_gain_is_that_of_q():
    """One update from the declared start, with many draws: Q rises as quadrature says, within five errors."""
    with pytest.warns(RuntimeWarning, match="before its gain"):
        run = _infer(overdispersed, COUNTS, num_steps=1, num_chains=32, num_draws=200, tolerance=1e-9)
    mu, scale = float(run.params["mu"]), float(run.params["scale"])
    weights = MASSES * np.exp(stats.poisson.logpmf(COUNTS[:, None], np.exp(0.0 + 0.5 * NODES)))
    weights = weights / weights.sum(1, keepdims=True)
    new, old = (stats.poisson.logpmf(COUNTS[:, None], np.exp(m + s * NODES)) for m, s in ((mu, scale), (0.0, 0.5)))
    assert abs(run.history["gain"][0] - (weights * (new - old)).sum()) < 5 * run.history["error"][0]


@pg.program
def gaussian(y):
    mu = pg.param("mu", 0.0)
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(mu, 1.0))
        pg.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize("engine", ["mcem", "vbem"])
def test_what_a_run_says_of_rows(engine):
    """Latents of single data are integrated out of log_prob; those of the fitted rows are known by their draws."""
    y = RNG.normal(size=20) * 1.4
    run = pg.infer(gaussian, y, engine=engine, progress=False)
    exact = stats.norm.logpdf(y[:5], run.params["mu"], np.sqrt(2.0))
    np.testing.assert_allclose(run.log_prob(y[:5]), exact, atol=1e-8)
    assert run.log_prob_kind == "exact"
    held, draws = run.latent(), run.posterior["z"].shape[1]
    bound = 5 * np.sqrt(0.5 / (draws / 10))  # draws count for a tenth of independent ones at least
    np.testing.assert_allclose(held["z"], (y + run.params["mu"]) / 2, atol=bound)
    assert held["z_cov"].shape == (20, 1, 1)


@pg.program
def out_of_bounds(y):
    low = pg.param("low", 0.5)
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(low, 1.0))
        pg.sample("y", dist.Uniform(z, z + 1.0), obs=y)


def test_refusals():
    with pytest.raises(pg.ProgramError, match="not finite|no finite"):
        _infer(out_of_bounds, np.array([0.6, 0.9, 1.2]))
    with pytest.raises(ValueError, match="num_chains"):
        _infer(overdispersed, COUNTS, num_chains=1)
    with pytest.raises(pg.UnsupportedError, match="no.* in a plate|none in a plate"):
        pg.infer(pg.models.GaussianMixture(2), RNG.normal(size=(10, 2)), engine="mcem", progress=False)
