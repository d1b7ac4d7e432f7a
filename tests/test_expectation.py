"""Exact E-steps on declared programs: Gaussian conditioning found by test, row weights, posteriors of local latents."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp

BACKENDS = ["numpyro", "pyro"]
SLOW_ON_PYRO = ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)]
RNG = np.random.default_rng(5)
Y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
FACTORS = RNG.normal(size=(60, 1)) @ np.array([[1.5, -1.0, 0.5]]) + 0.5 * RNG.normal(size=(60, 3)) + [1.0, 0.0, -1.0]
SPREAD = {"sigma": 2.0 * SIGMA / SIGMA.max(), "y": Y * 3 / 10}


def _infer(program, data, backend="numpyro", **options):
    return pg.infer(program, data, engine="em", backend=backend, progress=False, **options)


@pg.program
def effects(sigma, y=None):
    mu = pg.param("mu", 0.0)
    tau = pg.param("tau", 1.0, constraint=dist.constraints.positive)
    with pg.plate("school", len(sigma)):
        theta = pg.sample("theta", dist.Normal(mu, tau))
        pg.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_effects_are_integrated_out(backend):
    """y_j ~ N(mu, tau^2 + sigma_j^2): the optimum of the marginal likelihood, and theta given y."""

    def loss(v):
        return -stats.norm.logpdf(SPREAD["y"], v[0], np.hypot(np.exp(v[1]), SPREAD["sigma"])).sum()

    exact = optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-10})
    run = _infer(effects, SPREAD, backend, tolerance=1e-13, num_restarts=2)
    assert run.history["log_likelihood"][-1] == pytest.approx(-exact.fun, abs=1e-7)
    assert run.params["mu"] == pytest.approx(exact.x[0], abs=1e-3)
    assert run.attrs["e_step"] == "Gaussian conditioning"
    mu, tau = run.params["mu"], run.params["tau"]
    precision = 1 / tau**2 + 1 / SPREAD["sigma"] ** 2
    held = run.latent()
    np.testing.assert_allclose(held["theta"], (mu / tau**2 + SPREAD["y"] / SPREAD["sigma"] ** 2) / precision, rtol=1e-8)
    np.testing.assert_allclose(held["theta_cov"][:, 0, 0], 1 / precision, rtol=1e-8)


@pg.program
def one_factor(x):
    d = x.shape[1]
    w = pg.sample("w", dist.Normal(0.0, 10.0).expand([d]).to_event(1))
    mu = pg.sample("mu", dist.Normal(0.0, 10.0).expand([d]).to_event(1))
    psi = pg.sample("psi", dist.HalfNormal(10.0).expand([d]).to_event(1))
    with pg.plate("data", len(x)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("x", dist.Normal(mu + w * z[..., None], psi).to_event(1), obs=x)


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
def test_declared_factor_analysis(backend):
    """The marginal is N(mu, w w^T + diag(psi^2)); its maximum by scipy and by em agree, and so does log_prob."""

    def loss(v):
        cov = np.outer(v[:3], v[:3]) + np.diag(np.exp(2 * v[3:6]))
        return -stats.multivariate_normal.logpdf(FACTORS, FACTORS.mean(0), cov).sum()

    exact = optimize.minimize(loss, [1.0, -1, 1, 0, 0, 0], method="BFGS", options={"gtol": 1e-9})
    run = _infer(one_factor, FACTORS, backend, num_restarts=2, tolerance=1e-12, num_steps=400)
    assert run.history["log_likelihood"][-1] == pytest.approx(-exact.fun, abs=2e-4)
    np.testing.assert_allclose(run.params["mu"], FACTORS.mean(0), atol=1e-3)
    assert run.log_prob(FACTORS).sum() == pytest.approx(run.history["log_likelihood"][-1], abs=1e-4)
    cov = np.outer(run.params["w"], run.params["w"]) + np.diag(run.params["psi"] ** 2)
    mean = (FACTORS - run.params["mu"]) @ np.linalg.solve(cov, run.params["w"])
    np.testing.assert_allclose(run.latent()["z"], mean, atol=1e-8)


@pg.program
def two_lines(t, y):
    """A mixture of two straight lines, each row with its own Gaussian offset."""
    weight = pg.param("weight", 0.5, constraint=dist.constraints.unit_interval)
    slope = pg.param("slope", xp.array([-1.0, 1.0]))
    spread = pg.param("spread", 0.7, constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        k = pg.sample("k", dist.Bernoulli(probs=weight))
        offset = pg.sample("offset", dist.Normal(0.0, spread))
        pg.sample("y", dist.Normal(slope[xp.astype(k, int)] * t + (1 + k) * offset, 0.3), obs=y)


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
def test_both_kinds_of_latents_together(backend):
    """p(y) = sum_k pi_k N(slope_k t, ((1 + k) s)^2 + 0.3^2): optimum, posteriors and moments against this formula."""
    rng = np.random.default_rng(2)
    t = rng.normal(size=80) * 2
    k = rng.random(80) < 0.4
    y = np.where(k, 2.0, -1.5) * t + (1 + k) * 0.5 * rng.normal(size=80) + 0.3 * rng.normal(size=80)

    def terms(v):
        sd = np.hypot(np.exp(v[3]) * np.array([1.0, 2.0]), 0.3)
        weight = np.array([special.log_expit(-v[0]), special.log_expit(v[0])])
        return weight + stats.norm.logpdf(y[:, None], v[1:3] * t[:, None], sd)

    exact = optimize.minimize(
        lambda v: -special.logsumexp(terms(v), axis=1).sum(), [0.0, -1, 1, 0], options={"gtol": 1e-9}
    )
    run = _infer(two_lines, {"t": t, "y": y}, backend, num_restarts=1, tolerance=1e-13)
    assert run.history["log_likelihood"][-1] == pytest.approx(-exact.fun, abs=1e-6)
    assert run.attrs["e_step"] == "enumeration and Gaussian conditioning"
    p = run.params
    v = np.array([special.logit(p["weight"]), *p["slope"], np.log(p["spread"])])
    r = np.exp(terms(v) - special.logsumexp(terms(v), axis=1, keepdims=True))
    held = run.latent()
    np.testing.assert_allclose(held["k"], r, atol=1e-8)
    scale = np.array([1.0, 2.0])
    variance = 1 / (1 / p["spread"] ** 2 + scale**2 / 0.09)
    mean = variance * scale * (y[:, None] - p["slope"] * t[:, None]) / 0.09
    np.testing.assert_allclose(held["offset"], (r * mean).sum(1), atol=1e-8)
    second = (r * (variance + mean**2)).sum(1) - (r * mean).sum(1) ** 2
    np.testing.assert_allclose(held["offset_cov"][:, 0, 0], second, atol=1e-8)


@pytest.mark.parametrize("backend", SLOW_ON_PYRO)
def test_weights_count_rows(backend):
    """Weights 0, 1 and 2 are rows left out, there once and there twice; for a model's steps and for a program."""
    weights = RNG.integers(0, 3, len(FACTORS)).astype(float)
    repeated = np.repeat(FACTORS, weights.astype(int), axis=0)
    model = pg.models.GaussianMixture(2, "diag")
    init = {"locs": FACTORS[:2], "scales": np.ones((2, 3)), "weights": [0.5, 0.5]}
    for program, options in ((model, {"init": init}), (one_factor, {"seed": 3})):
        options = {"num_restarts": 1, "num_steps": 5, "tolerance": 0, **options}
        with pytest.warns(RuntimeWarning, match="converged"):
            one = _infer(program, FACTORS, backend, weights=weights, **options)
            other = _infer(program, repeated, backend, **options)
        np.testing.assert_allclose(one.history["log_likelihood"], other.history["log_likelihood"], rtol=1e-9)


@pg.program
def not_gaussian(y):
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(0.0, scale))
        pg.sample("y", dist.Poisson(xp.exp(z)), obs=y)


@pg.program
def heavy_tails(y):
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.StudentT(4.0, 0.0, scale))
        pg.sample("y", dist.Normal(z, 0.01), obs=y)


def test_one_row_far_out_hides_nothing():
    """Every row is judged by its own gradient; another's may be a million times larger."""
    with pytest.raises(pg.UnsupportedError, match="not quadratic"):
        _infer(heavy_tails, np.array([0.1, -0.2, 1e6]))


@pg.program
def walk(y):
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(0.0, scale))
        pg.sample("y", dist.Normal(xp.cumsum(z, -1), 0.5), obs=y)


@pg.program
def bare_dimension(y):
    loc = pg.param("loc", 0.0)
    with pg.plate("row", y.shape[1]):
        z = pg.sample("z", dist.Normal(loc * xp.ones((3, 1)), 1.0))
        pg.sample("y", dist.Normal(z, 1.0), obs=y)


def test_rows_that_meet_are_refused():
    """Cells are integrated out one by one, which a walk over rows is not, nor rows that no plate declares."""
    with pytest.raises(pg.UnsupportedError, match="not quadratic"):
        _infer(walk, np.array([0.1, 0.5, 0.9, 1.4]))
    with pytest.raises(pg.UnsupportedError, match="to_event"):
        _infer(bare_dimension, RNG.normal(size=(3, 7)))
    with pytest.raises(ValueError, match="integrate names 'nu'"):
        _infer(effects, SPREAD, integrate=["nu"])


def test_offsets_in_single_precision():
    data = {"sigma": SIGMA, "y": Y + 100.0}
    options = {"num_restarts": 1, "num_steps": 5, "tolerance": 1e-4, "init": {"mu": 100.0, "tau": 5.0}}
    run = _infer(effects, data, precision="float32", **options)
    assert run.attrs["e_step"] == "Gaussian conditioning" and np.isfinite(run.params["mu"])


def test_refusals():
    with pytest.raises(pg.UnsupportedError, match="not quadratic.*mcem"):
        _infer(not_gaussian, np.array([1.0, 2, 3]))
    with pytest.raises(ValueError, match="weights must be"):
        _infer(one_factor, FACTORS, weights=-np.ones(60))
    with pytest.raises(ValueError, match="no plate of 59 rows"):
        _infer(one_factor, FACTORS, weights=np.ones(59))
