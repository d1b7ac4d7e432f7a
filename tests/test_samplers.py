"""Samplers against posteriors in closed form, and the parts they are made of against their definitions."""

from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest
import tqdm
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.evaluation import ess, mcse, rhat
from ppl_gen.inference import adaptation, langevin
from ppl_gen.inference.mala import MALA
from ppl_gen.inference.ula import ULA
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")

# Five conjugate pairs in one program: compiled once for each engine and backend, and of several scales.

_rng = np.random.default_rng(20)
KNOWN = 0.7  # the known noise of the regression
X = _rng.normal(size=(12, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
DATA = {
    "heights": _rng.normal(1.0, 1.0, 9),
    "wins": np.array([7.0]),
    "calls": np.array([3.0, 5.0, 1.0, 4.0, 2.0, 6.0]),
    "x": X,
    "y": X @ [1.0, -2.0] + KNOWN * _rng.normal(size=12),
    "votes": np.array([6.0, 3.0, 11.0]),
}


@pg.program
def conjugate(heights, wins, calls, x, y, votes):
    mu = pg.sample("mu", dist.Normal(0.0, 2.0))
    p = pg.sample("p", dist.Beta(2.0, 3.0))
    rate = pg.sample("rate", dist.Gamma(3.0, 2.0))
    beta = pg.sample("beta", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    share = pg.sample("share", dist.Dirichlet(xp.array([1.0, 2.0, 3.0])))
    pg.sample("heights", dist.Normal(mu, 1.0).expand([len(heights)]).to_event(1), obs=heights)
    pg.sample("wins", dist.Binomial(10, p).expand([1]).to_event(1), obs=wins)
    pg.sample("calls", dist.Poisson(rate).expand([len(calls)]).to_event(1), obs=calls)
    pg.sample("y", dist.Normal(x @ beta, KNOWN).to_event(1), obs=y)
    pg.sample("votes", dist.Multinomial(20, probs=share), obs=votes)


def _exact():
    """Mean and standard deviation of each site's posterior, from the textbook."""
    precision = 1 / 4 + len(DATA["heights"])
    covariance = np.linalg.inv(X.T @ X / KNOWN**2 + np.eye(2) / 9)
    rate = stats.gamma(3 + DATA["calls"].sum(), scale=1 / (2 + len(DATA["calls"])))
    share = np.array([1.0, 2.0, 3.0]) + DATA["votes"]
    entry = stats.beta(share, share.sum() - share)
    return {
        "mu": (DATA["heights"].sum() / precision, precision**-0.5),
        "p": (stats.beta(9, 6).mean(), stats.beta(9, 6).std()),
        "rate": (rate.mean(), rate.std()),
        "beta": (covariance @ X.T @ DATA["y"] / KNOWN**2, np.sqrt(np.diag(covariance))),
        "share": (entry.mean(), entry.std()),
    }


OPTIONS = {
    "nuts": {"num_warmup": 300, "num_samples": 700, "num_chains": 2},
    # A quarter of a period of the whitened Gaussian; the default 2 pi is a whole one, and brings chains back.
    "hmc": {"num_warmup": 300, "num_samples": 2000, "num_chains": 2, "trajectory_length": 1.5},
    "mala": {},
    "chees": {},
}


@functools.cache
def _conjugate_run(engine, backend):
    return pg.infer(conjugate, DATA, engine, backend=backend, seed=3, progress=False, **OPTIONS[engine])


QUICK = [(engine, "numpyro") for engine in OPTIONS]
LONG = [pytest.param(engine, "pyro", marks=pytest.mark.slow) for engine in OPTIONS]  # ours take the same steps, below


@pytest.mark.parametrize(("engine", "backend"), QUICK + LONG)
def test_conjugate_posteriors(engine, backend):
    """Mean and spread within 4 Monte Carlo errors: 9 numbers twice for each of 6 runs, so that a correct sampler fails
    for one seed in about 150 (2 x 3.2e-5 x 108)."""
    run = _conjugate_run(engine, backend)
    for name, (mean, sd) in _exact().items():
        draws = run.posterior[name]
        assert (ess(draws) > 400).all(), name
        assert (np.abs(draws.mean((0, 1)) - mean) < 4 * mcse(draws)).all(), name
        assert (np.abs(draws.std((0, 1)) - sd) < 4 * mcse(draws, "sd")).all(), name


def test_correlations_of_the_regression():
    """The posterior covariance has the right off-diagonal; z of a sample correlation by Fisher's transform."""
    draws = _conjugate_run("mala", "numpyro").posterior["beta"]
    covariance = np.linalg.inv(X.T @ X / KNOWN**2 + np.eye(2) / 9)
    exact = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    found = np.corrcoef(draws.reshape(-1, 2).T)[0, 1]
    assert abs(np.arctanh(found) - np.arctanh(exact)) < 4 / np.sqrt(ess(draws).min())


@pg.program
def two_normals(scale):
    pg.sample("x", dist.Normal(0.0, scale).to_event(1))


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_ula_has_the_bias_that_it_should_have(backend):
    """x' = (1 - h^2 / 2v) x + h xi is an AR(1) process of variance v / (1 - h^2 / 4v)."""
    h, sd = 1.0, np.array([1.0, 2.0])
    run = pg.infer(
        two_normals, {"scale": sd}, "ula", backend=backend, seed=5, progress=False,
        step_size=h, preconditioner="identity", num_warmup=100, num_samples=20_000, thinning=2,
    )  # fmt: skip
    biased = sd / np.sqrt(1 - h**2 / (4 * sd**2))
    draws = run.posterior["x"]
    found, error = draws.std((0, 1)), mcse(draws, "sd")
    assert (np.abs(found - biased) < 4 * error).all()
    assert abs(found[0] - sd[0]) > 8 * error[0]  # the test could tell
    assert not run.exact
    assert any("bias" in w for w in run.warnings)


# The Metropolis-Hastings ratio -------------------------------------------------------------------------------------


class Banana:
    """log p = -x^2 / 8 - (y - x^2 / 4)^2 / 2, batched."""

    dim = 2

    def __init__(self, array_functions):
        self.xp = array_functions

    def log_density_and_grad(self, position):
        x, y = position[:, 0], position[:, 1]
        off = y - x * x / 4
        return -x * x / 8 - off * off / 2, self.xp.stack([-x / 4 + off * x / 2, -off], axis=1)


class Gumbel:
    """log p = -x - exp(-x): skewed, and drawn from exactly."""

    dim = 1

    def __init__(self, array_functions):
        self.xp = array_functions

    def log_density_and_grad(self, position):
        tail = self.xp.exp(-position)
        return (-position - tail)[:, 0], -1.0 + tail


SCALES = {"diagonal": np.array([1.5, 0.4]), "dense": np.array([[1.5, 0.0], [0.6, 0.8]])}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", SCALES)
def test_log_ratio_is_that_of_the_proposal_densities(kind, backend):
    """Against p(x') q(x | x') / p(x) q(x' | x) with both Gaussians written out; equal up to rounding."""
    rng, h, scale = np.random.default_rng(1), 0.8, SCALES[kind]
    covariance = h**2 * (scale @ scale.T if kind == "dense" else np.diag(scale**2))
    x, xi = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    with pg.on(backend) as room:
        density = Banana(room.xp)
        state = langevin.init(density, room.asarray(x), room.asarray(np.array(h)), room.asarray(scale))
        moved, log_ratio = langevin.propose(room.xp, density, state, room.asarray(xi))
        moved, log_ratio = room.to_numpy(moved), room.to_numpy(log_ratio)
    new = np.asarray(moved.position)

    def parts(at):
        value, gradient = Banana(np).log_density_and_grad(at)
        return value, at + 0.5 * gradient @ covariance

    (here, mean), (there, mean_back) = parts(x), parts(new)
    forth = [stats.multivariate_normal(m, covariance).logpdf(v) for m, v in zip(mean, new)]
    back = [stats.multivariate_normal(m, covariance).logpdf(v) for m, v in zip(mean_back, x)]
    np.testing.assert_allclose(log_ratio, there - here + np.array(back) - np.array(forth), rtol=0, atol=1e-10)


def flow_p_value(x, new):
    """p-value of: as many chains go from bin i to bin j as back; x from Gumbel's distribution, (chains, 1) both."""
    edges = stats.gumbel_r.ppf([0.1, 0.25, 0.5, 0.75, 0.9])
    flow = np.zeros((6, 6))
    np.add.at(flow, (np.searchsorted(edges, x[:, 0]), np.searchsorted(edges, new[:, 0])), 1)
    i, j = np.triu_indices(6, 1)
    enough = flow[i, j] + flow[j, i] >= 10
    there, back = flow[i, j][enough], flow[j, i][enough]
    return stats.chi2.sf(((there - back) ** 2 / (there + back)).sum(), enough.sum())


def _asymmetry(kernel, backend, seed):
    """The p-value of one step of chains that start in equilibrium."""
    rng, count = np.random.default_rng(seed), 200_000
    x = rng.gumbel(size=(count, 1))
    with pg.on(backend) as room:
        density = Gumbel(room.xp)
        state = langevin.init(density, room.asarray(x), room.asarray(np.array(1.1)), room.asarray(np.array([1.2])))
        noise = {"normal": room.asarray(rng.normal(size=(count, 1))), "uniform": room.asarray(rng.random(count))}
        moved, _ = kernel.step(room.xp, density, state, noise)
        new = np.asarray(room.to_numpy(moved.position))
    return flow_p_value(x, new)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mala_is_reversible_and_ula_is_not(backend):
    """Detailed balance makes the flow symmetric: chi^2 of the 15 pairs. A false alarm has chance 1e-5."""
    assert _asymmetry(MALA, backend, seed=1) > 1e-5
    assert _asymmetry(ULA, backend, seed=1) < 1e-5


def test_mala_takes_the_same_steps_on_both_backends():
    """The same noise gives the same draws up to rounding, which 12 steps of a contracting chain do not amplify."""
    rng, paths = np.random.default_rng(2), []
    start, normals = rng.normal(size=(3, 8)), rng.normal(size=(12, 3, 8))
    uniforms = rng.random((12, 3))
    for backend in BACKENDS:
        with pg.on(backend) as room:
            target = Target(conjugate.bind(DATA, room))
            density, path = target.density(target.arrays), []
            step_size, scale = room.asarray(np.array(0.2)), room.asarray(np.full(8, 0.5))
            state = langevin.init(density, room.asarray(start), step_size, scale)
            for normal, uniform in zip(normals, uniforms):
                noise = {"normal": room.asarray(normal), "uniform": room.asarray(uniform)}
                state, _ = MALA.step(room.xp, density, state, noise)
                path.append(np.asarray(room.to_numpy(state.position)))
        paths.append(np.stack(path))
    assert (paths[0][1:] != paths[0][:-1]).any()
    np.testing.assert_allclose(paths[0], paths[1], rtol=0, atol=1e-9)


# Adaptation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [0.3, 0.574, 0.9])
def test_dual_averaging_finds_the_step_size(goal):
    """On an acceptance rate exp(-h) with noise, the average log step converges to log(-log goal); its error after 4000
    noisy steps (sd 0.1) is measured at about 0.01."""
    rng = np.random.default_rng(4)
    state = adaptation.start_step_size(np, 0.1)
    for _ in range(4000):
        acceptance = np.clip(np.exp(-np.exp(state.log_step)) + 0.1 * rng.normal(), 0, 1)
        state = adaptation.adapt_step_size(np, state, acceptance, goal)
    assert abs(np.exp(-np.exp(state.log_average)) - goal) < 0.03


@pytest.mark.parametrize("goal", [0.574, 0.8])
def test_mala_accepts_as_often_as_asked(goal):
    """The average of the last window (a tenth of warm-up) errs towards short steps: after 4000 steps of warm-up by 0.02
    in the mean of 10 runs and 0.06 at most (after the default 1000 by 0.14 at most). NUTS and HMC adapt natively."""
    options = {"target_accept_prob": goal, "num_warmup": 4000, "num_samples": 2000}
    run = pg.infer(conjugate, DATA, "mala", seed=3, progress=False, **options)
    assert abs(run.stats["acceptance_rate"].mean() - goal) < 0.1


@pytest.mark.parametrize("preconditioner", ["diagonal", "dense"])
def test_no_chain_freezes_in_warm_up(preconditioner):
    """Chains that start 1000 sd away, where the steps must be far shorter than later, all arrive and mix."""
    scale = np.array([1e-3, 1e-2])
    run = pg.infer(two_normals, {"scale": scale}, "mala", seed=1, progress=False, preconditioner=preconditioner)
    draws = run.posterior["x"]
    assert (run.stats["acceptance_rate"].mean(1) > 0.4).all()
    assert (rhat(draws) < 1.02).all()
    assert (np.abs(draws.std((0, 1)) - scale) < 4 * mcse(draws, "sd")).all()


def test_moments_are_those_of_all_draws():
    """Welford's update over batches equals the two-pass formula."""
    draws = np.random.default_rng(5).normal(size=(40, 3, 2)) * [1.0, 10.0] + [5.0, -3.0]
    for dense in (False, True):
        moments = adaptation.start_moments(np, 2, dense)
        for batch in draws:
            moments = adaptation.add_draws(np, moments, batch)
        covariance = np.cov(draws.reshape(-1, 2).T)
        np.testing.assert_allclose(moments.m2 / (moments.count - 1), covariance if dense else np.diag(covariance))
        np.testing.assert_allclose(moments.mean, draws.mean((0, 1)))


@pytest.mark.parametrize("num_warmup", [0, 1, 50, 99, 100, 110, 150, 333, 500, 1000, 1001, 12_345])
def test_windows_of_warm_up_add_up(num_warmup):
    windows = adaptation.windows(num_warmup)
    assert sum(length for length, _ in windows) == num_warmup
    assert all(length > 0 for length, _ in windows)
    if num_warmup >= 100:
        learns = [learning for _, learning in windows]
        assert not learns[0] and not learns[-1] and all(learns[1:-1]) and len(learns) > 2
        slow = [length for length, learning in windows if learning]
        assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(slow))


def test_a_trial_window_is_as_short_as_the_first_that_learns():
    assert adaptation.windows(150, trial=True) == [(25, False), (25, True), (25, True), (50, True), (25, False)]
    assert adaptation.windows(100, trial=True) == adaptation.windows(100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_is_that_of_its_chunk_whatever_was_drawn_before(backend):
    """Some backends draw a chunk ahead."""
    spec = {"normal": ("normal", (64, 500)), "uniform": ("uniform", (64,))}
    with pg.on(backend) as room:
        draw = lambda seed, start: room.to_numpy(room.noise(seed, start, spec, 5))
        alone = [draw(seed, start) for seed, start in ((3, 10), (4, 0), (3, 5), (3, 0))]
        in_order = [draw(seed, start) for seed, start in ((3, 0), (3, 5), (3, 10), (4, 0))]
    for one, other in zip(alone, [in_order[i] for i in (2, 3, 1, 0)], strict=True):
        for name in spec:
            np.testing.assert_array_equal(one[name], other[name])


def test_noise_is_the_same_on_both_backends():
    spec = {"normal": ("normal", (64, 500)), "uniform": ("uniform", (64,))}
    found = []
    for backend in BACKENDS:
        with pg.on(backend) as room:
            found.append(room.to_numpy(room.noise(3, 10, spec, 5)))
    for name in spec:
        np.testing.assert_array_equal(found[0][name], found[1][name])


BARS = {
    "nuts": ({"num_warmup": 30, "num_samples": 30}, r"divergences \d+.*acceptance [01]\.\d\d.*"),
    "chees": ({"num_warmup": 30, "num_samples": 30}, r"divergences \d+.*acceptance [01]\.\d\d, \d+ steps"),
    "mala": ({"num_warmup": 30, "num_samples": 2000}, r"divergences 0, ESS \d+, acceptance [01]\.\d\d"),
    "ula": ({"num_warmup": 30, "num_samples": 2000, "num_chains": 80}, r"divergences 0, ESS \d+, acceptance 0\.\d\d"),
    "smc": ({}, ".+"),
    "tempering": ({"num_warmup": 50, "num_samples": 50}, ".+"),
}


@pytest.mark.parametrize("engine", BARS)
def test_what_the_bar_says(engine, monkeypatch):
    options, expected = BARS[engine]
    said = []
    monkeypatch.setattr(tqdm.std.tqdm, "set_postfix_str", lambda self, text, refresh: said.append(text))
    pg.infer(conjugate, DATA, engine, progress=True, **options)
    assert re.fullmatch(expected, said[-1]), said[-1]


# Reproducible ------------------------------------------------------------------------------------------------------

SMALL = {
    "nuts": {"num_warmup": 30, "num_samples": 30, "num_chains": 2},
    "hmc": {"num_warmup": 30, "num_samples": 30, "num_chains": 2, "trajectory_length": 1.0},
    "mala": {"num_warmup": 100, "num_samples": 600, "thinning": 1, "num_chains": 2},
    "ula": {"num_warmup": 100, "num_samples": 600, "thinning": 1, "num_chains": 2},
}


def _draws(engine, backend, seed, **more):
    options = {**SMALL[engine], **more}
    data = {"scale": np.array([1.0, 2.0])}
    run = pg.infer(two_normals, data, engine, backend=backend, seed=seed, progress=False, **options)
    return run.posterior["x"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # so few draws have not converged
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", SMALL)
def test_seeds_and_thinning(engine, backend):
    draws = _draws(engine, backend, seed=7)
    np.testing.assert_array_equal(draws, _draws(engine, backend, seed=7))
    assert (draws != _draws(engine, backend, seed=8)).all()
    assert (draws[0] != draws[1]).all()
    thinned = _draws(engine, backend, seed=7, thinning=7)
    np.testing.assert_array_equal(thinned, draws[:, 6::7])
