"""Monte Carlo EM against the marginal likelihood by quadrature, and against exact EM."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.inference.gain_left import GainLeft
from ppl_gen.inference.mcem import MCEM, _Steps
from ppl_gen.target import Target

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


def _log_likelihood(mu, scale, counts=COUNTS):
    terms = stats.poisson.logpmf(counts[:, None], np.exp(mu + scale * NODES))
    return special.logsumexp(terms, b=MASSES / MASSES.sum(), axis=1).sum()


# The tolerance of 0.01 nats, and five times what the noise of the draws costs: with all draws, 8 * 256, which count for
# a tenth of independent ones at least, EM's noise leaves d / (4 * 205) at most for d params, whatever its rate.
NEAR = 0.01 + 5 * 2 / (4 * 205)


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_it_ends_near_the_maximum(backend):
    best = optimize.minimize(lambda v: -_log_likelihood(v[0], np.exp(v[1])), [0.5, -0.5])
    run = _infer(overdispersed, COUNTS, backend)
    assert _log_likelihood(run.params["mu"], run.params["scale"]) > -best.fun - NEAR
    assert (run.history["num_draws"] >= 4).all() and run.attrs["e_step"] == "Langevin draws"
    mean = run.posterior["z"].mean((0, 1))
    rate = np.exp(run.params["mu"] + run.params["scale"] * NODES)
    weights = MASSES * np.exp(stats.poisson.logpmf(COUNTS[:, None], rate))
    exact = (weights * NODES).sum(1) / weights.sum(1)
    spread = np.sqrt((weights * NODES**2).sum(1) / weights.sum(1) - exact**2)
    draws = run.posterior["z"].shape[1]
    # z-scores of 80 means; draws count for at least a tenth of independent ones
    assert np.abs((mean - exact) / spread).max() < 5 / np.sqrt(draws / 10)


BENT = np.random.default_rng(2).normal(2.0, 1.2, 40)


@pg.program
def two_ways(y):
    """The square of mu fits at both of its signs, the noise at one of them only."""
    mu = pg.sample("mu", dist.Normal(0.0, 3.0))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("y", dist.Normal(z + mu * mu, 0.5 + 0.2 * (mu - 1.5) ** 2), obs=y)


def _bent(mu):
    return stats.norm.logpdf(BENT, mu**2, np.hypot(1.0, 0.5 + 0.2 * (mu - 1.5) ** 2)).sum()


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_the_best_restart_is_kept(backend):
    """Starts of one sign of mu lead to the lower of two maxima, those of the other to the higher one."""
    low, high = (optimize.minimize_scalar(lambda mu: -_bent(mu), bounds=b).x for b in ((-3, -0.5), (0.5, 3)))
    assert _bent(high) > _bent(low) + 5
    first = _infer(two_ways, BENT, backend, init={"mu": -1.0})
    assert abs(first.params["mu"] - low) < 0.1
    run = _infer(two_ways, BENT, backend, num_restarts=8)  # uniform in (-2, 2): all of one sign once in 128 times
    assert run.attrs["num_restarts"] == 8
    assert _bent(run.params["mu"]) > _bent(high) - NEAR


@pytest.mark.parametrize("end", [(0.2, 1.3), (1.5, 0.3)])
def test_ends_are_compared_by_their_likelihoods(end):
    """Path sampling between far ends against quadrature; its error is below a tenth of the difference."""
    mu, scale = end
    with pg.on("numpyro") as room:
        target = Target(overdispersed.bind(COUNTS, room))
        options = MCEM()
        steps = _Steps(target, options._locals(target), options, 0)
        state = steps.start(room.asarray(np.array([0.7, np.log(0.8)])))
        rise = steps.rise(state, room.asarray(np.array([mu, np.log(scale)])))
    exact = _log_likelihood(mu, scale) - _log_likelihood(0.7, 0.8)
    assert abs(rise - exact) < 0.1 * abs(exact)


@pg.program
def slow(y):
    """The scale stands in the prior of z, where EM's steps are short."""
    mu = pg.param("mu", 0.0)
    scale = pg.param("scale", 1.0, constraint=dist.constraints.positive)
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Poisson(xp.exp(pg.sample("z", dist.Normal(mu, scale)))), obs=y)


MORE = [pytest.param(*more, marks=pytest.mark.slow) for more in (("numpyro", (1, 2, 3)), ("pyro", (0,)))]


@pytest.mark.parametrize(("backend", "seeds"), [("numpyro", (0,)), *MORE])
def test_short_steps_are_not_taken_for_the_end(backend, seeds):
    """Where each iteration gains little and many are to come, from every seed."""
    counts = COUNTS[:60]
    loss = lambda v: -_log_likelihood(v[0], np.exp(v[1]), counts)
    best = optimize.minimize(loss, [0.5, -0.5])
    for seed in seeds:
        run = _infer(slow, counts, backend, seed=seed)
        assert loss([run.params["mu"], np.log(run.params["scale"])]) < best.fun + NEAR
        assert not run.warnings and run.history["gain_left"][-1] < 0.05


@pytest.mark.parametrize("rate", [0.6, 0.95])
def test_gain_left_is_that_of_a_contraction(rate):
    """Steps of a quadratic log likelihood that EM climbs at this rate, with and without noise of the draws."""
    rng, complete, off = np.random.default_rng(0), 3.0, 2.0
    clean, noisy = GainLeft(8, 0.9), GainLeft(8, 0.9)
    for _ in range(12):
        new = rate * off
        slope = complete * (1 - rate) * new * (off - new)
        clean.add(np.full(8, slope))
        noisy.add(slope * (1.0 + 0.02 * rng.standard_normal(8)))
        off = new
    exact = 0.5 * complete * (1 - rate) * off**2
    assert exact <= clean.left().estimate  # slopes are averaged over some iterations, so it is late, never early
    assert clean.left().estimate == pytest.approx(exact * np.mean(rate ** -(2.0 * np.arange(5))), rel=1e-9)
    assert noisy.left().estimate == pytest.approx(clean.left().estimate, rel=0.3)
    assert noisy.left().bound > noisy.left().estimate


def test_first_gain_is_that_of_q():
    """One update from the declared start, with many draws: Q rises as quadrature says, within five errors."""
    with pytest.warns(RuntimeWarning, match="with more to gain"):
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


RUNS = [("mcem", "pyro"), ("vbem", "numpyro"), pytest.param("mcem", "numpyro", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("engine", "backend"), RUNS)
def test_what_a_run_says_of_rows(engine, backend):
    """Latents of single data are integrated out of log_prob; those of the fitted rows are known by their draws."""
    y = RNG.normal(size=20) * 1.4
    run = pg.infer(gaussian, y, engine, backend, progress=False)
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
