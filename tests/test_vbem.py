"""Variational EM on declared programs: exact where q can be, below the likelihood elsewhere, never falling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import optimize, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.checks import ProgramError
from ppl_gen.inference.local_gaussian import points

BACKENDS = ("numpyro", "pyro")
_rng = np.random.default_rng(0)
X = _rng.normal(size=(40, 1)) @ [[1.0, -1.0, 0.7, 0.8, 0.5]] + 0.7 * _rng.normal(size=(40, 5)) + np.arange(5)
COUNTS = _rng.poisson(np.exp(0.5 + 0.8 * _rng.normal(size=50)))
INIT = {"w": np.array([0.4, 0.7, -0.3, 0.1, 0.2]), "mu": np.arange(5) + 0.3, "s": np.array([0.9, 1.1, 0.7, 0.8, 0.6])}


def factor(x):
    """One factor: x = w z + mu + s e."""
    w = pg.param("w", lambda: xp.array(INIT["w"]))
    mu = pg.param("mu", lambda: xp.array(INIT["mu"]))
    s = pg.param("s", lambda: xp.array(INIT["s"]), constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("x", dist.Normal(z[..., None] * w + mu, s).to_event(1), obs=x)


def amortised(x):
    v = pg.param("v", lambda: xp.zeros((5,)))
    b = pg.param("b", lambda: xp.zeros(()))
    t = pg.param("t", lambda: xp.ones(()), constraint=dist.constraints.positive)
    with pg.plate("row", len(x)):
        pg.sample("z", dist.Normal(x @ v + b, t))


FACTOR, AMORTISED = pg.program(factor), pg.program(factor, guide=amortised)


@pg.program
def overdispersed(y):
    """Counts with a rate that is log-normal."""
    mu = pg.param("mu", lambda: 0.2 * xp.ones(()))
    s = pg.param("s", lambda: xp.ones(()), constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        rate = pg.sample("rate", dist.LogNormal(mu, s))
        pg.sample("y", dist.Poisson(rate), obs=y)


def _infer(program, data, engine="vbem", backend="numpyro", **options):
    run = pg.infer(program, data, engine, backend, progress=False, **{"num_restarts": 1, **options})
    for values in run.history.values():
        assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()
    return run


def _log_likelihood(params, x=X):
    covariance = np.outer(params["w"], params["w"]) + np.diag(params["s"] ** 2)
    return stats.multivariate_normal(params["mu"], covariance).logpdf(x)


# Where q can be exact ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:vbem stopped")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_first_bound_is_the_log_likelihood(backend, covariance):
    """z given x is Gaussian: one natural-gradient step makes the bound exact, to rounding."""
    run = _infer(FACTOR, X, backend=backend, covariance=covariance, num_steps=1, e_steps=1)
    assert run.history["elbo"][0] == pytest.approx(_log_likelihood(INIT).sum(), abs=1e-9)


def test_the_optimum_is_that_of_em():
    by_vbem = _infer(FACTOR, X, tolerance=1e-11, num_steps=2000, num_samples=20_000)
    by_em = _infer(FACTOR, X, "em", tolerance=1e-11, num_steps=2000)
    assert by_vbem.history["elbo"][-1] == pytest.approx(by_em.history["log_likelihood"][-1], abs=1e-6)
    for name, value in by_em.params.items():
        np.testing.assert_allclose(by_vbem.params[name], value, atol=1e-3)
    assert by_vbem.attrs["e_step"] == "Gaussian q of each datum" and by_vbem.attrs["m_step"] == "gradient"
    assert not by_vbem.exact

    w, mu, s = (by_vbem.params[n] for n in ("w", "mu", "s"))
    precision = 1 + (w**2 / s**2).sum()
    mean, draws = (X - mu) @ (w / s**2) / precision, by_vbem.posterior["z"][0]
    assert draws.shape == (20_000, 40)
    assert (np.abs(draws.mean(0) - mean) < 5 / np.sqrt(20_000 * precision)).all()
    np.testing.assert_allclose(draws.var(0), 1 / precision, rtol=5 * np.sqrt(2 / 20_000))


def test_a_guide_that_can_be_exact_ends_there():
    """E z is linear in x, and its variance the same for all: this guide loses nothing."""
    run = _infer(AMORTISED, X, tolerance=1e-10, num_steps=200, e_steps=20)
    exact = _infer(FACTOR, X, "em", tolerance=1e-11, num_steps=2000)
    assert run.history["elbo"][-1] == pytest.approx(exact.history["log_likelihood"][-1], abs=1e-3)
    assert run.history["elbo"][-1] < exact.history["log_likelihood"][-1] + 1e-6
    w, s = run.params["w"], run.params["s"]
    assert run.params["t"] == pytest.approx((1 + (w**2 / s**2).sum()) ** -0.5, abs=0.01)
    assert run.attrs["e_step"] == "guide" and set(run.params) == {"w", "mu", "s", "v", "b", "t"}


# Where it cannot ---------------------------------------------------------------------------------------------------


def _normal_bound(m, log_s, mu, s):
    """E of the log joint of counts under z ~ N(m, e^2 log_s), and its entropy, in closed form; each datum."""
    v = np.exp(2 * log_s)
    kl = 0.5 * ((v + (m - mu) ** 2) / s**2 - 1 - 2 * log_s + 2 * np.log(s))
    log_factorial = np.array([np.log(np.arange(1, c + 1)).sum() for c in COUNTS])
    return COUNTS * m - np.exp(m + 0.5 * v) - log_factorial - kl


@pytest.mark.filterwarnings("ignore:vbem stopped")
@pytest.mark.parametrize("backend", BACKENDS)
def test_e_step_against_the_bound_in_closed_form(backend):
    """The q of each of the log-normal rates at mu = 0.2, s = 1, which SciPy finds one by one."""
    run = _infer(overdispersed, COUNTS, backend=backend, num_steps=1, e_steps=8)
    best = [
        -optimize.minimize(lambda q, n=n: -_normal_bound(q[0], q[1], 0.2, 1.0)[n], [0.0, 0.0], tol=1e-12).fun
        for n in range(50)
    ]
    assert run.history["elbo"][0] == pytest.approx(np.sum(best), abs=1e-6)
    nodes, w = np.polynomial.hermite_e.hermegauss(80)
    exact = np.log(stats.poisson.pmf(COUNTS[:, None], np.exp(0.2 + nodes)) @ (w / w.sum())).sum()
    assert exact - 1.0 < run.history["elbo"][0] < exact


def test_optimum_of_a_bound_against_scipy():
    run = _infer(overdispersed, COUNTS, tolerance=1e-12, num_steps=500)

    def loss(u):
        return -_normal_bound(u[2:52], u[52:], u[0], np.exp(u[1])).sum()

    found = optimize.minimize(loss, np.zeros(102), method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 10**6})
    assert run.history["elbo"][-1] == pytest.approx(-found.fun, abs=1e-4)
    assert run.params["mu"] == pytest.approx(found.x[0], abs=5e-3)
    assert run.params["s"] == pytest.approx(np.exp(found.x[1]), abs=5e-3)
    assert (run.posterior["rate"] > 0).all()


LOADINGS = np.array([[1.0, 0.2], [0.3, -1.0], [0.5, 0.5], [0.1, 0.9], [-0.4, 0.0]])


@pg.program
def mixed(x):
    """Two discrete classes, and in each a Gaussian latent of two dimensions."""
    w = pg.param("w", lambda: xp.array(LOADINGS))
    with pg.plate("row", len(x)):
        c = pg.sample("c", dist.Bernoulli(0.4))
        z = pg.sample("z", dist.Normal(xp.zeros((2,)), 1.0).to_event(1))
        pg.sample("x", dist.Normal(z @ w.T + 0.5 * c[..., None], 0.7).to_event(1), obs=x)


@pytest.mark.filterwarnings("ignore:vbem stopped")
def test_discrete_latents_are_summed_out():
    """The bound is below the sum of two Gaussians, and above what one of the two classes alone would give."""
    run = _infer(mixed, X, num_steps=1)
    covariance = LOADINGS @ LOADINGS.T + 0.49 * np.eye(5)
    of_class = ((0.6, 0.0), (0.4, 0.5))
    parts = [np.log(p) + stats.multivariate_normal(np.full(5, c), covariance).logpdf(X) for p, c in of_class]
    exact = np.logaddexp(*parts).sum()
    assert max(part.sum() for part in parts) < run.history["elbo"][0] < exact + 1e-9
    assert exact - run.history["elbo"][0] < 2.0


# Weights, points, warnings -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:vbem stopped")
def test_a_weight_is_a_repeated_row():
    times = np.random.default_rng(1).integers(0, 3, len(COUNTS))
    weighted = _infer(overdispersed, COUNTS, weights=times, num_steps=5)
    repeated = _infer(overdispersed, np.repeat(COUNTS, times), num_steps=5)
    np.testing.assert_allclose(weighted.history["elbo"], repeated.history["elbo"], rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_points_integrate_quadratics_exactly(size):
    e, w = points(size, (3,), max(32, 2 * size), np.random.default_rng(0))
    e = np.broadcast_to(e, (len(w), 3, size))
    np.testing.assert_allclose(np.einsum("p,pni->ni", w, e), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.einsum("p,pni,pnj->nij", w, e, e), np.tile(np.eye(size), (3, 1, 1)), atol=1e-12)
    assert w.sum() == pytest.approx(1.0)


@dataclass(frozen=True)
class Falling:
    """A model whose bound, by mistake, falls at its third iteration."""

    def __call__(self, x=None):
        with pg.plate("row", 3):
            pg.sample("x", dist.Normal(pg.sample("m", dist.Normal(0.0, 1.0).expand([]).mask(False)), 1.0), obs=x)

    def vb_starts(self, data, num_starts, rng):
        return {"t": np.zeros(num_starts)}

    def vb_step(self, q, data, weights):
        return {"t": q["t"] + 1.0}, xp.where(q["t"] == 2.0, -5.0, q["t"])

    def vb_draws(self, q, num_draws, rng):
        return {"m": np.zeros((num_draws, 3))}

    def vb_mean(self, q):
        return {"m": np.zeros(3)}


def test_a_bound_that_falls_is_reported_with_its_iteration():
    with pytest.warns(RuntimeWarning, match="the elbo fell at iteration 2, from 1 to -5"):
        pg.infer(Falling(), np.zeros(3), "vbem", num_steps=10, progress=False)


# What is refused ---------------------------------------------------------------------------------------------------


@pg.program
def nothing_local(x):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(x)):
        pg.sample("x", dist.Normal(mu, 1.0), obs=x)


@pg.program
def walk(x):
    with pg.plate("row", len(x)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("x", dist.Normal(xp.cumsum(z, axis=-1), 1.0), obs=x)


def _positive_guide(x):
    t = pg.param("t", lambda: xp.zeros(()))
    with pg.plate("row", len(x)):
        pg.sample("z", dist.StudentT(3.0, t, 1.0))


@pytest.mark.parametrize(
    ("program", "data", "options", "error", "message"),
    [
        (nothing_local, X[:, 0], {}, UnsupportedError, "none in a plate .* engine='svi' .* 'em' .* 'map'"),
        (walk, X[:, 0], {}, UnsupportedError, "different cells meet in one term"),
        (FACTOR, X, {"weights": np.ones(7)}, ValueError, "7 weights came, .* one weight for each row"),
        (FACTOR, X, {"init": {"z": np.zeros(40)}}, ValueError, "init names 'z'"),
        (FACTOR, X, {"covariance": "block"}, ValueError, "covariance must be one of"),
        (FACTOR, X, {"e_steps": 0}, ValueError, "e_steps must be a whole number of at least 1"),
        (pg.program(factor, guide=_positive_guide), X, {}, UnsupportedError, "a guide that draws .* from dist.Normal"),
        (pg.program(factor, guide=lambda x: None), X, {}, ProgramError, "the guide of factor has no site for 'z'"),
    ],
)
def test_what_is_refused(program, data, options, error, message):
    with pytest.raises(error, match=message):
        _infer(program, data, **options)
