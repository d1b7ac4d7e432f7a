"""Variational inference against exact posteriors, exact evidence and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.program import GUIDES

BACKENDS = ("numpyro", "pyro")

# A regression with known noise: its posterior is Gaussian and its evidence known.

_rng = np.random.default_rng(12)
NOISE, PRIOR = 0.5, 2.0
X = _rng.normal(size=(15, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
Y = X @ [1.0, -0.5] + NOISE * _rng.normal(size=15)
COVARIANCE = np.linalg.inv(X.T @ X / NOISE**2 + np.eye(2) / PRIOR**2)
MEAN = COVARIANCE @ X.T @ Y / NOISE**2
SD = np.sqrt(np.diag(COVARIANCE))
EVIDENCE = stats.multivariate_normal(np.zeros(15), PRIOR**2 * X @ X.T + NOISE**2 * np.eye(15)).logpdf(Y)
DATA = {"x": X, "y": Y}
CAREFUL = {"num_steps": 2000, "num_particles": 4, "learning_rate": 0.004, "num_samples": 4000}


@pg.program
def line(x, y):
    beta = pg.sample("beta", dist.Normal(0.0, PRIOR).expand([2]).to_event(1))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Normal(x @ beta, NOISE), obs=y)


def _svi(program, data, backend="numpyro", **options):
    return pg.infer(program, data, "svi", backend, progress=False, **options)


def _log_weights(run):
    """log p(data, draw) - log q(draw) of the draws: their mean is the ELBO."""
    return run.stats["log_weight"][0]


def _close_to_exact(run, sds, ratio):
    draws = run.posterior["beta"][0]
    assert (np.abs(draws.mean(0) - MEAN) < sds * SD).all()
    assert (np.abs(np.log(draws.std(0) / SD)) < np.log(ratio)).all()
    return draws


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_full_rank_guide_recovers_a_gaussian(backend):
    """Adam's last steps rattle the guide: over 40 seeds by at most 0.22 sd, and its spread by 9 %."""
    run = _svi(line, DATA, backend, guide="multivariate_normal", **CAREFUL)
    draws = _close_to_exact(run, sds=0.35, ratio=1.2)
    correlation = COVARIANCE[0, 1] / SD.prod()
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(correlation, abs=0.15)
    assert run.attrs["pareto_k"] < 0.7 and not run.exact

    # The ELBO is the evidence minus KL(guide | posterior), which was below 0.035 in those 40 runs.
    weights, last = _log_weights(run), -run.history["loss"][-500:]
    assert weights.mean() == pytest.approx(EVIDENCE, abs=0.06 + 4 * weights.std() / np.sqrt(len(weights)))
    assert last.mean() == pytest.approx(EVIDENCE, abs=0.06 + 4 * last.std() / np.sqrt(len(last)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_laplace_is_exact_for_a_gaussian(backend):
    """p / q is the evidence at every draw. The optimiser stops where 25 steps gain less than 1e-10 of the value, so
    within 5e-5 sd of the mode, which moves log p / q by that times the draw, 5 sd at most."""
    run = _svi(line, DATA, backend, guide="laplace", num_samples=4000)
    np.testing.assert_allclose(_log_weights(run), EVIDENCE, rtol=0, atol=3e-4)
    draws = run.posterior["beta"][0]
    assert (np.abs(draws.mean(0) - MEAN) < 5 * SD / np.sqrt(4000)).all()
    assert (np.abs(draws.std(0) / SD - 1) < 5 / np.sqrt(2 * 4000)).all()
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(COVARIANCE[0, 1] / SD.prod(), abs=5 / np.sqrt(4000))


@pytest.mark.filterwarnings("ignore:the guide is far:RuntimeWarning")  # 300 steps are few
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("guide", [g for g in GUIDES if g != "flow"])  # which has tests of its own
def test_every_autoguide_runs(guide, backend):
    run = _svi(line, DATA, backend, guide=guide, num_steps=300, num_samples=50, learning_rate=0.05)
    draws = run.posterior["beta"]
    assert draws.shape == (1, 50, 2) and np.isfinite(draws).all()
    assert (np.abs(draws.mean((0, 1)) - MEAN) < 3 * SD).all()
    assert (draws.std(1) < 1e-12).all() == (guide == "delta")


@pytest.mark.filterwarnings("ignore:the guide is far:RuntimeWarning")  # a factorised one
@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_bounds_stand_in_their_order(backend):
    """ELBO < Renyi of order 1/2 < importance-weighted < evidence (Li & Turner 2016, theorem 1), for the best factorised
    guide of each. Averages over 500 losses have errors of about 0.03; the steps between them are 0.1."""
    options = {"guide": "normal", "num_particles": 8, "num_steps": 2000}
    kinds = {"mean_field": {}, "trace": {}, "renyi": {"alpha": 0.5}, "iwae": {}}
    runs = {elbo: _svi(line, DATA, backend, elbo=elbo, **options, **more) for elbo, more in kinds.items()}
    bound = {elbo: -run.history["loss"][-500:].mean() for elbo, run in runs.items()}
    assert bound["mean_field"] == pytest.approx(bound["trace"], abs=0.1)
    assert bound["mean_field"] < bound["renyi"] < bound["iwae"] < EVIDENCE + 0.03
    draws = runs["mean_field"].posterior["beta"][0]
    assert (np.abs(draws.mean(0) - MEAN) < 0.4 * SD).all()
    # The KL that it minimises matches the conditional spread, not the marginal one.
    np.testing.assert_allclose(draws.std(0), np.diag(np.linalg.inv(COVARIANCE)) ** -0.5, rtol=0.2)


# Guides written by hand --------------------------------------------------------------------------------------------


def _exact_form(x, y):
    loc = pg.param("loc", xp.zeros((2,)))
    root = pg.param("root", 0.3 * xp.eye(2), constraint=dist.constraints.lower_cholesky)
    pg.sample("beta", dist.MultivariateNormal(loc, scale_tril=root))


def _too_narrow(x, y):
    loc = pg.param("loc", xp.zeros((2,)))
    pg.sample("beta", dist.Normal(loc, 0.02).to_event(1))


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_hand_written_guide(backend):
    program = pg.program(line.model, guide=_exact_form)
    run = _svi(program, DATA, backend, **CAREFUL)
    _close_to_exact(run, sds=0.35, ratio=1.2)
    np.testing.assert_allclose(run.params["root"] @ run.params["root"].T, COVARIANCE, atol=0.3 * (SD**2).max())
    assert run.attrs["pareto_k"] < 0.7
    assert not run.warnings


@pytest.mark.parametrize("backend", BACKENDS)
def test_khat_betrays_a_narrow_guide(backend):
    """Weights p / q of a Gaussian guide narrower by the factor r have tails of shape 1 - r^2."""
    assert 1 - (0.02 / SD.min()) ** 2 > 0.9
    with pytest.warns(RuntimeWarning, match="k-hat"):
        run = _svi(line, DATA, backend, guide=_too_narrow, num_steps=500, learning_rate=0.02, num_samples=2000)
    assert run.attrs["pareto_k"] > 0.7


# Discrete latents, minibatches -------------------------------------------------------------------------------------

POINTS = np.array([-2.1, -1.7, -2.6, 0.9, 1.4, 1.1, 0.7, 1.8])


@pg.program
def mixture(y):
    share = pg.param("share", xp.array([0.4, 0.6]), constraint=dist.constraints.simplex)
    loc = pg.param("loc", xp.array([-1.0, 1.0]))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Categorical(probs=share))
        pg.sample("y", dist.Normal(loc[z], 0.5), obs=y)


def _nothing(y):
    """There is no continuous latent to guide."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_latents_there_is_one_draw_and_an_exact_density(backend):
    run = _svi(mixture, POINTS, backend, num_steps=3)
    assert run.posterior["loc"].shape == (1, 1, 2) and run.log_prob_kind == "exact"
    assert run.log_prob(POINTS).sum() == pytest.approx(_log_marginal(run.params["share"], run.params["loc"]), rel=1e-9)


def _log_marginal(share, loc):
    return np.log(stats.norm.pdf(POINTS[:, None], loc, 0.5) @ share).sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_enumerated_elbo_is_the_marginal(backend):
    """Without continuous latents the bound is log p(y) itself: at the first step to rounding, and its top is the
    maximum of the likelihood."""
    run = _svi(mixture, POINTS, backend, guide=_nothing, num_steps=1500)
    assert run.attrs["elbo"] == "enum"
    assert -run.history["loss"][0] == pytest.approx(_log_marginal([0.4, 0.6], [-1.0, 1.0]), abs=1e-9)
    bounds = [(0.01, 0.99), (-5, 5), (-5, 5)]
    best = optimize.minimize(lambda t: -_log_marginal([t[0], 1 - t[0]], t[1:]), [0.4, -1.0, 1.0], bounds=bounds)
    assert -run.history["loss"][-1] == pytest.approx(-best.fun, abs=1e-4)
    np.testing.assert_allclose(run.params["loc"], best.x[1:], atol=1e-2)
    assert run.params["share"][0] == pytest.approx(best.x[0], abs=1e-2)


MANY = np.random.default_rng(6).normal(1.5, 1.0, 200)


@pg.program
def subsampled(y):
    mu = pg.sample("mu", dist.Normal(0.0, 3.0))
    with pg.plate("row", len(y), subsample_size=50) as index:
        pg.sample("y", dist.Normal(mu, 1.0), obs=y[index])


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_minibatches_find_the_posterior_of_all_rows(backend):
    """Posterior sd 0.071; the sampling of rows moves Adam's location by about as much at this learning rate."""
    precision = 1 / 9 + len(MANY)
    run = _svi(subsampled, MANY, backend, num_steps=4000, learning_rate=0.002)
    draws = run.posterior["mu"][0]
    assert abs(draws.mean() - MANY.sum() / precision) < 0.1
    assert draws.std() * precision**0.5 == pytest.approx(1.0, abs=0.35)  # of 50 rows alone it would be 2


# Stopping ----------------------------------------------------------------------------------------------------------


@pg.program
def unconstrained_scale(y):
    scale = pg.param("scale", xp.array(1.0))
    pg.sample("y", dist.Normal(0.0, scale).expand([3]).to_event(1), obs=y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_is_not_finite_stops_at_the_last_good_state(backend):
    """The scale falls by about the learning rate a step, through zero at step 600 or so."""
    y = np.zeros(3)
    with pytest.warns(RuntimeWarning, match="svi stopped at step"):
        run = _svi(unconstrained_scale, y, backend, guide=_nothing, learning_rate=0.0013, num_steps=2000)
    bad = int(np.argmax(~np.isfinite(run.history["loss"])))
    assert 500 < bad < 1000 and np.isfinite(run.history["loss"][:bad]).all()
    assert f"step {bad + 1}:" in run.warnings[0] and "'y'" in run.warnings[0]
    assert run.attrs["stopped"] == "loss not finite"
    assert 0 < run.params["scale"] < 0.9  # neither the start nor what broke


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_stops_early_by_tolerance(backend):
    run = _svi(line, DATA, backend, num_steps=20_000, learning_rate=0.05, tolerance=1e-2, patience=3)
    assert run.attrs["stopped"] == "settled"
    assert len(run.history["loss"]) < 5000
    whole = _svi(line, DATA, backend, num_steps=500)
    assert whole.attrs["stopped"] == "num_steps" and len(whole.history["loss"]) == 500


def test_same_seed_same_numbers():
    first, again, other = (_svi(line, DATA, guide="normal", num_steps=200, seed=s).history["loss"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
