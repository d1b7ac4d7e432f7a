"""Linear-Gaussian state-space models: EM, density and posteriors against the joint Gaussian."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import optimize, stats

import ppl_gen as pg
from ppl_gen.kalman import System
from ppl_gen.missing import Missing
from ppl_gen.models import LinearGaussianStateSpace
from ppl_gen.models.linear_gaussian_state_space import _params
from ppl_gen.program import DataError
from tests import dense_state_space as dense

BACKENDS = ("numpyro", "pyro")
SERIES, STEPS, FEATURES = 20, 6, 2
MODEL = LinearGaussianStateSpace(1)


def _simulated():
    """Twenty series of a slow state in two features, of which three entries in ten are missing."""
    rng = np.random.default_rng(1)
    one, emission = np.ones((1, 1)), np.array([[1.0], [-2.0]])
    offset, variances = np.array([3.0, 40.0]), np.array([0.3, 1.0])
    system = System(np.array([1.5]), 2.0 * one, 0.8 * one, one, emission, offset, variances)
    loc, covariance = dense.observations(system, STEPS)
    x = rng.multivariate_normal(loc, covariance, SERIES).reshape(SERIES, STEPS, FEATURES)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[3, 2] = np.nan  # nothing at all at one step
    return x


X = _simulated()


def _system(params):
    """The model at params, on the host."""
    q = len(params["initial_loc"])
    return System(
        initial_loc=params["initial_loc"],
        initial_covariance=np.diag(np.asarray(params["initial_scales"]) ** 2),
        transition=params["transition"],
        transition_covariance=np.eye(q),
        emission=params["emission"],
        offset=params["offset"],
        variances=np.asarray(params["scales"]) ** 2,
    )


def _log_likelihoods(params, x):
    return np.array([dense.log_likelihood(_system(params), series) for series in x])


def _infer(model, x, backend="numpyro", **options):
    """An EM run whose log likelihood never fell by more than rounding."""
    run = pg.infer(model, x, "em", backend, progress=False, **options)
    history = run.history["log_likelihood"]
    assert (np.diff(history) >= -1e-10 * np.abs(history[1:])).all()
    return run


@functools.cache
def _fit(backend, num_steps=4000):
    """EM until nothing moves."""
    return _infer(MODEL, X, backend, num_restarts=2, num_steps=num_steps, tolerance=1e-13, seed=1)


# Expectation-maximisation -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:em stopped")
def test_both_backends_go_the_same_way():
    ours, theirs = (_fit(backend, 30) for backend in BACKENDS)
    for mine, other in ((ours.history, theirs.history), (ours.params, theirs.params)):
        for name, value in mine.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-9)


def test_em_ends_at_the_maximum_of_the_observed_likelihood():
    """Direct maximisation of the joint Gaussian of what was observed, from elsewhere, with 30 % missing."""
    names = ("transition", "emission", "offset", "initial_loc", "scales", "initial_scales")
    shapes = {"transition": (1, 1), "emission": (2, 1), "offset": (2,), "scales": (2,)}
    ends = np.cumsum([int(np.prod(shapes.get(n, (1,)))) for n in names])

    def params(u):
        parts = dict(zip(names, np.split(u, ends[:-1])))
        return {n: (np.exp(v) if "scales" in n else v).reshape(shapes.get(n, (1,))) for n, v in parts.items()}

    start = np.array([0.5, 0.5, -1.0, 2.0, 38.0, 0.0, 0.0, 0.0, 0.0])
    best = optimize.minimize(lambda u: -_log_likelihoods(params(u), X).sum(), start, method="BFGS")
    run = _fit("numpyro")
    assert run.history["log_likelihood"][-1] == pytest.approx(-best.fun, abs=2e-6)
    exact = params(best.x)
    sign = np.sign(exact["emission"][0, 0] * run.params["emission"][0, 0])
    for name in names:
        turned = sign if name in ("emission", "initial_loc") else 1.0
        np.testing.assert_allclose(run.params[name], turned * exact[name], rtol=2e-3, atol=2e-3)


def test_the_density_is_that_of_the_joint_gaussian():
    run = _fit("numpyro")
    expected = _log_likelihoods(run.params, X)
    np.testing.assert_allclose(run.log_prob(X), expected, rtol=1e-10)
    assert run.log_prob_kind == "exact"
    assert run.history["log_likelihood"][-1] == pytest.approx(expected.sum(), abs=1e-6)
    assert np.isnan(run.observed["x"]).sum() == np.isnan(X).sum()


def test_a_weight_of_two_is_a_series_twice():
    weights = np.ones(SERIES)
    weights[:4] = 2.0
    params = {n: v[0] for n, v in LinearGaussianStateSpace(2).starts({"x": X}, 1, np.random.default_rng(0)).items()}
    model, seen = LinearGaussianStateSpace(2), ~np.isnan(X)
    with pg.on("pyro") as room:

        def statistics(rows, weights):
            data = {"x": Missing(*(room.asarray(v[rows]) for v in (np.where(seen, X, 0.0), 1.0 * seen)))}
            held = {n: room.asarray(v) for n, v in params.items()}
            return room.to_numpy(model.em_statistics(held, held, data, weights))

        weighted, value = statistics(np.arange(SERIES), room.asarray(weights))
        repeated, other = statistics(np.r_[0:SERIES, 0:4], None)
    assert value == pytest.approx(other, rel=1e-12)
    for name, total in weighted.items():
        np.testing.assert_allclose(total, repeated[name], rtol=1e-10, atol=1e-10)


def test_where_sums_are_taken_about_does_not_matter():
    model, rng = LinearGaussianStateSpace(2), np.random.default_rng(4)
    starts = model.starts({"x": X}, 2, rng)
    with pg.on("pyro") as room:
        data = {"x": Missing(room.asarray(np.nan_to_num(X)), room.asarray(1.0 * ~np.isnan(X)))}
        here, there = ({n: room.asarray(v[i]) for n, v in starts.items()} for i in range(2))
        new = [model.em_update(model.em_statistics(here, around, data, None)[0], around) for around in (here, there)]
        new = room.to_numpy(new)
    for name, value in new[0].items():
        np.testing.assert_allclose(new[1][name], value, rtol=1e-9, atol=1e-9)


def test_without_gaps_the_shared_covariances_give_the_same_statistics():
    complete = np.where(np.isnan(X), 1.0, X)
    model = LinearGaussianStateSpace(2)
    params = {n: v[0] for n, v in model.starts({"x": complete}, 1, np.random.default_rng(0)).items()}
    with pg.on("pyro") as room:
        held = {n: room.asarray(v) for n, v in params.items()}
        full = Missing(room.asarray(complete), room.asarray(np.ones_like(complete)))
        weights = room.asarray(np.arange(1.0, SERIES + 1.0))
        plain = model.em_statistics(held, held, {"x": room.asarray(complete)}, weights)
        masked = model.em_statistics(held, held, {"x": full}, weights)
        plain, masked = room.to_numpy((plain, masked))
    assert plain[1] == pytest.approx(masked[1], rel=1e-12)
    for name, total in plain[0].items():
        np.testing.assert_allclose(total, masked[0][name], rtol=1e-10, atol=1e-10)


def test_coordinates_of_the_states_do_not_matter():
    """Any system is the model with Q = I and a diagonal P0, to the last digit of its density."""
    system = dense.random_system(np.random.default_rng(3), 3, FEATURES)
    same = _system(_params(np, *system))
    (loc, covariance), (other, own) = dense.observations(system, STEPS), dense.observations(same, STEPS)
    np.testing.assert_allclose(other, loc, atol=1e-12)
    np.testing.assert_allclose(own, covariance, atol=1e-11)


# Posterior, forecast, new series ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_given_the_observations(backend):
    run = _fit(backend, 30)
    found, system = run.latent(), _system(run.params)
    with pg.on(backend) as room:
        filtered = room.to_numpy(MODEL.filter(run.params, {"x": X}))
        ahead = room.to_numpy(MODEL.forecast(run.params, {"x": X}, 2))
    for n, series in enumerate(X):
        means, covariances = dense.posterior(system, np.concatenate([series, np.full((2, FEATURES), np.nan)]))
        np.testing.assert_allclose(found["z"][n], means[:STEPS], atol=1e-10)
        np.testing.assert_allclose(found["z_cov"][n, 5], covariances[5, :, 5], atol=1e-10)
        np.testing.assert_allclose(filtered["z"][n, -1], means[STEPS - 1], atol=1e-10)
        np.testing.assert_allclose(filtered["log_likelihood"][n], dense.log_likelihood(system, series), atol=1e-10)
        np.testing.assert_allclose(ahead["x"][n], means[STEPS:] @ system.emission.T + system.offset, atol=1e-10)
        expected = system.emission @ covariances[-1, :, -1] @ system.emission.T + np.diag(system.variances)
        np.testing.assert_allclose(ahead["x_cov"][n, -1], expected, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_series_have_the_moments_of_the_model(backend):
    run = _fit(backend, 30)
    drawn = run.sample(300, seed=2).reshape(300 * SERIES, -1)
    loc, covariance = dense.observations(_system(run.params), STEPS)
    sd, n = np.sqrt(np.diag(covariance)), len(drawn)
    # 5 standard errors: sd / sqrt(n) of a mean, at most sd sd' sqrt(2 / n) of a covariance
    assert (np.abs(drawn.mean(0) - loc) < 5 * sd / np.sqrt(n)).all()
    assert (np.abs(np.cov(drawn.T) - covariance) < 5 * np.outer(sd, sd) * np.sqrt(2 / n)).all()


# As a program -------------------------------------------------------------------------------------------------------


def test_the_program_is_the_same_on_both_backends():
    """Densities, and the gradients that svi, map and nuts climb."""
    report = pg.check(MODEL, X)
    assert report.ok, report
    assert all(report.engines[name] == "yes" for name in ("em", "map", "svi", "nuts"))


def test_map_adds_the_priors_to_the_exact_likelihood():
    run = pg.infer(MODEL, X, "map", progress=False)
    p, seen = run.params, ~np.isnan(X)
    rows, observed = X.reshape(-1, FEATURES), seen.reshape(-1, FEATURES)
    mean, spread = np.array([(c[o].mean(), c[o].std()) for c, o in zip(rows.T, observed.T)]).T
    prior = stats.norm.logpdf(p["transition"], 0, 1).sum() + stats.norm.logpdf(p["initial_loc"], 0, 10).sum()
    prior += stats.norm.logpdf(p["emission"], 0, 2 * spread[:, None]).sum()
    prior += stats.norm.logpdf(p["offset"], mean, 2.5 * spread).sum()
    prior += stats.gamma.logpdf(p["scales"], 2, scale=spread).sum()
    prior += stats.gamma.logpdf(p["initial_scales"], 2, scale=5.0).sum()
    total = prior + _log_likelihoods(p, X).sum()
    assert run.history["log_posterior"][-1] == pytest.approx(total, abs=1e-8)


# A single series, and data that are hardly any ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:em stopped")
def test_a_single_series():
    rng = np.random.default_rng(5)
    x = np.cumsum(rng.normal(size=(STEPS, FEATURES)), axis=0)
    run = _infer(MODEL, x, num_restarts=2, num_steps=40)
    assert run.log_prob(x) == pytest.approx(dense.log_likelihood(_system(run.params), x), abs=1e-9)
    assert run.latent()["z"].shape == (STEPS, 1) and run.sample(3).shape == (3, STEPS, FEATURES)
    assert run.idata.posterior["emission"].dims[2:] == ("feature", "state")


def _odd():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(SERIES, STEPS, FEATURES))
    constant, never, empty = x.copy(), x.copy(), x.copy()
    constant[..., 1] = 1e4 + 0.1
    never[4] = np.nan  # a whole series
    empty[:, ::2] = np.nan
    return {
        "a constant feature": constant,
        "nothing but constants": np.full_like(x, 3.3),
        "a series never observed": never,
        "every other step not observed": empty,
        "the same series again and again": np.broadcast_to(x[:1], x.shape).copy(),
        "no noise": np.cumsum(x[..., :1], axis=1) * np.ones(FEATURES),
        "one step": x[:, :1],
        "one series of one step": x[:1, :1],
    }


ODD = _odd()


@pytest.mark.filterwarnings("ignore:em stopped")
@pytest.mark.parametrize("name", ODD)
def test_odd_data_give_a_result(name):
    """More states than features beside it; the likelihood is finite and never falls."""
    run = _infer(LinearGaussianStateSpace(3), ODD[name], num_restarts=2, num_steps=40)
    assert np.isfinite(run.history["log_likelihood"]).all()
    assert all(np.isfinite(v).all() for v in run.params.values())


def test_what_does_not_fit_is_refused():
    for options in ({"state_dim": 0}, {"state_dim": 1.5}, {"state_dim": 1, "min_scale": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            LinearGaussianStateSpace(**options)
    with pytest.raises(ValueError, match=r"x\[:, None\]"):
        pg.infer(MODEL, X[0, :, 0], "em", progress=False)
    unseen = X.copy()
    unseen[..., 1] = np.nan
    with pytest.raises(DataError, match="no entry that was observed"):
        pg.infer(MODEL, unseen, "em", progress=False)
    with pytest.raises(ValueError, match="3 weights came for 20 series"):
        pg.infer(MODEL, X, "em", progress=False, weights=np.ones(3))
    with pg.on("numpyro"), pytest.raises(ValueError, match="num_steps must be"):
        MODEL.forecast(_fit("numpyro", 30).params, {"x": X}, 0)
