"""Samplers by minibatches: their estimates, the bias that theory gives them, and posteriors of many rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

import ppl_gen as pg
from ppl_gen import dist
from ppl_gen.evaluation import mcse
from ppl_gen.inference.engine import resolve
from ppl_gen.inference.minibatches import Batches
from ppl_gen.inference.sghmc import SGHMC
from ppl_gen.inference.sgld import SGLD
from ppl_gen.target import Target
from tests.test_samplers import BACKENDS

ENGINES = ("sgld", "psgld", "sghmc")


@pg.program
def line(x, y):
    beta = pg.sample("beta", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


@pg.program
def logistic(x, y):
    beta = pg.sample("beta", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def _line_data(count=5000):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)) * [1.0, 0.1, 3.0]
    return {"x": x, "y": x @ [1.0, -2.0, 0.5] + 0.5 * rng.normal(size=count)}


def _line_posterior(x, y):
    covariance = np.linalg.inv(x.T @ x / 0.25 + np.eye(3) / 4.0)
    return covariance @ x.T @ y / 0.25, covariance


def _logistic_data(count):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 5)) * [1.0, 0.5, 2.0, 1.0, 0.2]
    return {"x": x, "y": (rng.random(count) < 1 / (1 + np.exp(-x @ [0.5, -1.0, 0.2, 0.0, 1.0]))).astype(float)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("corrected", [False, True])
def test_the_estimate_is_unbiased_and_exact_at_the_mode(corrected, backend):
    """Over every batch of one row, and with all rows: the mean is the full density's, value and gradient."""
    data, rng = _line_data(40), np.random.default_rng(2)
    with pg.on(backend) as room:
        whole = Target(line.bind(data, room))
        engine = SGLD(batch_size=1, control_variates=corrected)
        mode, covariance = _line_posterior(**data)
        part = engine._part(whole, ("x", "y"))
        batches = Batches.of(whole, part, ("x", "y"), mode, np.linalg.cholesky(covariance))
        u = mode + 0.3 * rng.normal(size=3)
        at = room.asarray(np.tile(u, (40, 1)))
        noise = {f"row of {n}": room.asarray(v[:, None]) for n, v in data.items()}  # chain i sees row i
        value, gradient = room.to_numpy(engine.density(batches, batches.arrays, noise).log_density_and_grad(at))
        exact = room.to_numpy(whole.value_and_grad()(room.asarray(u[None]), whole.arrays))
        centre = room.asarray(np.tile(mode, (40, 1)))
        there = room.to_numpy(engine.density(batches, batches.arrays, noise).log_density_and_grad(centre)[1])
    np.testing.assert_allclose(value.mean(), exact[0][0], rtol=1e-9)
    np.testing.assert_allclose(gradient.mean(0), exact[1][0], rtol=1e-8, atol=1e-8)
    assert (np.abs(there - there[0]).max() < 1e-8) == corrected


@pytest.mark.parametrize(("h", "noise"), [(0.3, 0.0), (0.2, 5.0), (0.7, 1.0)])
def test_the_bias_is_that_of_the_recursion(h, noise):
    """Stationary variances on a Gaussian as fixed points; and the step for a bias gives it back."""
    x = (h**2 + h**4 / 4 * noise) / (1 - (1 - h**2 / 2) ** 2)
    assert SGLD.bias_of(h, noise) == pytest.approx(x - 1, rel=1e-9)
    a = 0.9
    step = np.array([[1 - h**2, a], [-(h**2), a]])  # of position and velocity
    injected = (2 * (1 - a) * h**2 + h**4 * noise) * np.ones((2, 2))
    assert SGHMC.bias_of(h, noise) == pytest.approx(linalg.solve_discrete_lyapunov(step, injected)[0, 0] - 1, rel=1e-9)
    assert SGLD.bias_of(2.0, noise) == SGHMC.bias_of(3.0, noise) == np.inf  # these do not settle
    for engine in (SGLD, SGHMC):
        assert engine.bias_of(engine.step_for(0.05, noise), noise) == pytest.approx(0.05, rel=1e-9)


QUICK = [*((engine, "numpyro") for engine in ENGINES), ("psgld", "pyro")]
LONG = [pytest.param(engine, "pyro", marks=pytest.mark.slow) for engine in ENGINES if engine != "psgld"]


@pytest.mark.parametrize(("engine", "backend"), QUICK + LONG)
def test_a_gaussian_posterior_of_many_rows(engine, backend):
    """Means within 5 Monte Carlo errors, deviations within those and twice the bias that is reported."""
    data = _line_data()
    mean, covariance = _line_posterior(**data)
    run = pg.infer(line, data, engine, backend, seed=3, progress=False, batch_size=64, num_samples=8000)
    x, sd = run.posterior["beta"], np.sqrt(np.diag(covariance))
    assert not run.exact and run.attrs["variance_bias"] == pytest.approx(0.02, rel=0.01)
    assert any("2.0% too large" in w for w in run.warnings)
    assert (np.abs(x.mean((0, 1)) - mean) < 5 * mcse(x)).all()
    wide = 0.2 if engine == "psgld" else 0.02  # the neglected term of its preconditioner
    assert (np.abs(x.std((0, 1)) / sd - 1) < 5 * mcse(x, "sd") / sd + wide).all()


def test_without_control_variates_steps_are_smaller():
    """The noise of plain gradients is about the number of batches, in standard deviations; the bias is kept."""
    data = _line_data()
    noise = []
    for corrected in (True, False):
        run = pg.infer(
            line, data, "sgld", seed=4, progress=False, batch_size=50, num_samples=200, control_variates=corrected
        )
        noise.append(run.attrs["gradient_noise"])
        assert run.attrs["variance_bias"] == pytest.approx(0.02, rel=0.01)
    assert noise[0] < 0.1 * noise[1] and noise[1] == pytest.approx(100.0, rel=0.3)


@pytest.mark.slow
def test_a_million_rows():
    """A logistic regression of the full data by NUTS, and by Newton's method, for by then the posterior is Gaussian:
    it is skewed by a hundredth of a deviation or less."""
    data = _logistic_data(1_000_000)
    run = pg.infer(logistic, data, "sgld", seed=5, progress=False, num_samples=8000)
    full = pg.infer(logistic, data, "nuts", seed=6, progress=False, num_warmup=300, num_samples=150, num_chains=1,
                    dense_mass=True, start="laplace")  # fmt: skip
    x, exact = run.posterior["beta"], full.posterior["beta"]
    beta = np.zeros(5)
    for _ in range(20):
        p = 1 / (1 + np.exp(-data["x"] @ beta))
        hessian = (data["x"] * (p * (1 - p))[:, None]).T @ data["x"] + np.eye(5) / 4
        beta = beta + np.linalg.solve(hessian, data["x"].T @ (data["y"] - p) - beta / 4)
    sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
    for mean, error in ((exact.mean((0, 1)), mcse(exact)), (beta, 0.01 * sd)):
        assert (np.abs(x.mean((0, 1)) - mean) < 5 * np.hypot(mcse(x), error)).all()
    assert (np.abs(x.std((0, 1)) / sd - 1) < 5 * mcse(x, "sd") / sd + 0.03).all()


@pg.program
def of_rows(y):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(mu, 1.0))
        pg.sample("y", dist.Normal(z, 1.0), obs=y)


@pg.program
def no_plate(y):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    pg.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize("count", [8, 600])  # fewer than a batch, and more
@pytest.mark.parametrize("program", [of_rows, no_plate])
@pytest.mark.parametrize("engine", ENGINES)
def test_programs_without_rows_apart_are_refused(program, engine, count):
    y = stats.norm.rvs(size=count, random_state=0)
    says = "latents of single rows" if program is of_rows else "0 plates that hold all observations"
    with pytest.raises(pg.UnsupportedError, match=says):
        pg.infer(program, {"y": y}, engine, progress=False)


@pytest.mark.parametrize(("options", "says"), [({"batch_size": 0}, "batch_size"), ({"bias": 1.5}, "bias"),
                                               ({"preconditioner": "dense"}, "has no option"),
                                               ({"target_accept_prob": 0.9}, "has no option")])  # fmt: skip
def test_options_are_checked(options, says):
    with pytest.raises(ValueError, match=says):
        resolve("sgld", options)
