"""The path from prior to posterior, and the engines that follow it, against closed forms and quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.backends.protocol import UnsupportedError
from ppl_gen.evaluation import mcse
from ppl_gen.inference import tempered_moves
from ppl_gen.inference.tempered_moves import Moving
from ppl_gen.target import Target
from tests.test_samplers import BACKENDS

_rng = np.random.default_rng(7)
NOISE, PRIOR = 0.8, 2.0
X = _rng.normal(size=(12, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 0.5]])
Y = X @ [1.0, -1.5, 0.5] + NOISE * _rng.normal(size=12)
Z = np.array([-2.1, 1.7, 2.4, -1.6, 2.2])


@pg.program
def regression(x, y):
    beta = pg.sample("beta", dist.Normal(0.0, PRIOR).expand([3]).to_event(1))
    pg.sample("y", dist.Normal(x @ beta, NOISE).to_event(1), obs=y)


@pg.program
def coin(wins):
    p = pg.sample("p", dist.Beta(2.0, 3.0))
    pg.sample("wins", dist.Binomial(20, p), obs=wins)


@pg.program
def signs(y):
    """Each datum is about mu or about -mu: two modes, of unequal weight."""
    mu = pg.sample("mu", dist.Normal(0.5, 3.0))
    with pg.plate("row", len(y)):
        z = pg.sample("z", dist.Bernoulli(0.7))
        pg.sample("y", dist.Normal((2 * z - 1) * mu, 0.5), obs=y)


GRID = np.linspace(-15.0, 15.0, 40_001)


def _signs_log_joint(mu):
    terms = [np.log(w) + stats.norm(s * mu[:, None], 0.5).logpdf(Z) for s, w in ((1, 0.7), (-1, 0.3))]
    return stats.norm(0.5, 3.0).logpdf(mu) + np.logaddexp(*terms).sum(1)


PROGRAMS = {
    "regression": (
        regression,
        {"x": X, "y": Y},
        stats.multivariate_normal(np.zeros(12), PRIOR**2 * X @ X.T + NOISE**2 * np.eye(12)).logpdf(Y),
    ),
    "coin": (coin, {"wins": np.array(13.0)}, stats.betabinom(20, 2.0, 3.0).logpmf(13)),
    "signs": (signs, {"y": Z}, special.logsumexp(_signs_log_joint(GRID)) + np.log(GRID[1] - GRID[0])),
}
ENGINES = {
    "smc": {"num_particles": 400, "num_chains": 4},
    "ais": {"num_particles": 300, "num_chains": 2, "num_temperatures": 60},
    "tempering": {"num_warmup": 300, "num_samples": 500, "num_chains": 4, "num_temperatures": 6},
}


def _run(engine, name, backend):
    program, data, _ = PROGRAMS[name]
    return pg.infer(program, data, engine, backend, seed=3, progress=False, **ENGINES[engine])


QUICK = {
    ("smc", "regression", "numpyro"), ("smc", "coin", "pyro"), ("ais", "signs", "numpyro"),
    ("tempering", "regression", "numpyro"),
}  # fmt: skip
ALL = [(engine, name, backend) for engine in ENGINES for name in PROGRAMS for backend in BACKENDS]


@pytest.mark.filterwarnings("ignore:the chains have not mixed enough", "ignore:at . of . temperatures the particles")
@pytest.mark.parametrize(
    ("engine", "name", "backend"), [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in ALL]
)
def test_evidence_and_draws(engine, name, backend):
    """The evidence within 4 of the standard errors that the run states, which are small; and the draws' means and
    spreads within 5 Monte Carlo errors."""
    run, exact = _run(engine, name, backend), PROGRAMS[name][2]
    error = run.attrs["log_evidence_se"]
    assert 0.0 < error < 0.2
    assert abs(run.attrs["log_evidence"] - exact) < 4 * error
    if engine == "ais":
        assert abs(run.attrs["log_evidence_reverse"] - exact) < 4 * run.attrs["log_evidence_reverse_se"] + 0.05
        assert run.attrs["log_evidence_reverse_kind"] == "estimate"
    if name in MOMENTS:
        site, mean, sd = MOMENTS[name]
        draws = run.posterior[site]
        assert (np.abs(draws.mean((0, 1)) - mean) < 5 * mcse(draws)).all()
        assert (np.abs(draws.std((0, 1)) - sd) < 5 * mcse(draws, "sd")).all()


COVARIANCE = np.linalg.inv(X.T @ X / NOISE**2 + np.eye(3) / PRIOR**2)
MOMENTS = {
    "regression": ("beta", COVARIANCE @ X.T @ Y / NOISE**2, np.sqrt(np.diag(COVARIANCE))),
    "coin": ("p", stats.beta(15, 10).mean(), stats.beta(15, 10).std()),
}


# Two modes, far apart -----------------------------------------------------------------------------------------------

CENTRE, WIDTH, SHARE, WIDE = 5.0, 0.4, 0.3, 4.0


@pg.program
def two_islands():
    """A likelihood of two bumps in two dimensions, 25 of their widths apart, under a wide prior."""
    x = pg.sample("x", dist.Normal(1.0, WIDE).expand([2]).to_event(1))
    here, there = (xp.sum(dist.Normal(c, WIDTH).log_prob(x)) for c in (-CENTRE, CENTRE))
    pg.factor("bumps", xp.logaddexp(np.log(SHARE) + here, np.log(1 - SHARE) + there))


def _islands():
    """Log evidence, and the posterior's mass at the first bump: each bump's mass is N(c; 1, width^2 + wide^2) twice."""
    bump = [2 * stats.norm(1.0, np.hypot(WIDTH, WIDE)).logpdf(c) for c in (-CENTRE, CENTRE)]
    mass = np.log([SHARE, 1 - SHARE]) + bump
    return special.logsumexp(mass), special.softmax(mass)[0]


@pytest.mark.parametrize("backend", ["numpyro", pytest.param("pyro", marks=pytest.mark.slow)])
def test_tempering_finds_both_modes_with_their_weights(backend):
    run = pg.infer(
        two_islands, None, "tempering", backend, seed=1, progress=False, num_samples=3000, num_warmup=500,
        num_temperatures=8,
    )  # fmt: skip
    log_evidence, mass = _islands()
    first = (run.posterior["x"][..., 0] < 0).astype(float)
    error = float(mcse(first))
    assert error < 0.05 and abs(first.mean() - mass) < 4 * error
    assert (first.mean(1) > 0.02).all()  # each chain goes to both
    assert run.attrs["round_trips"] > 50 and min(run.attrs["swap_rates"]) > 0.3
    rates = np.array(run.attrs["swap_rates"])
    assert np.ptp(rates) < 0.25  # the ladder of equal rejections
    assert abs(run.attrs["log_evidence"] - log_evidence) < 4 * run.attrs["log_evidence_se"] < 0.8


def test_smc_finds_both_modes_with_their_weights():
    run = pg.infer(two_islands, None, "smc", seed=1, progress=False)
    log_evidence, mass = _islands()
    first = (run.posterior["x"][..., 0] < 0).mean(1)
    error = max(first.std(ddof=1), np.sqrt(mass * (1 - mass) / 400)) / np.sqrt(len(first))
    assert abs(first.mean() - mass) < 5 * error < 0.2
    assert abs(run.attrs["log_evidence"] - log_evidence) < 4 * run.attrs["log_evidence_se"] < 0.4


# The densities of the path ------------------------------------------------------------------------------------------


@pg.program
def hanging(y):
    """A continuous latent that depends on a discrete one."""
    z = pg.sample("z", dist.Bernoulli(0.3))
    x = pg.sample("x", dist.Normal(3.0 * z, 1.0))
    pg.sample("y", dist.Normal(x + z, 0.5), obs=y)


def _parts(program, data, backend, u):
    with pg.on(backend) as room:
        target = Target(program.bind(data, room))
        position = room.asarray(u)

        def all_of(u, arrays):
            parts = room.vmap(target.log_parts, in_axes=(0, None))(u, arrays)
            density = room.vmap(target.log_density, in_axes=(0, None))(u, arrays)
            posterior = target.tempered(arrays, 1.0).log_density_and_grad(u)
            plain = target.density(arrays).log_density_and_grad(u)
            return parts, density, target.tempered(arrays, 0.3).evaluate(u), posterior, plain

        found = room.to_numpy(room.compile(all_of)(position, target.arrays))
    (prior, likelihood), density, path, posterior, plain = found
    np.testing.assert_allclose(posterior[1], plain[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(prior + likelihood, density, rtol=1e-12)
    np.testing.assert_allclose(path[0], prior + 0.3 * likelihood, rtol=1e-9)
    np.testing.assert_allclose(path[2], likelihood, rtol=1e-9)
    return prior, likelihood


@pytest.mark.parametrize("backend", BACKENDS)
def test_prior_and_likelihood_are_told_apart(backend):
    """Against SciPy, discrete latents summed by hand, those that a continuous one hangs on too."""
    u = np.random.default_rng(0).normal(size=(5, 1))
    p = special.expit(u[:, 0])
    prior, likelihood = _parts(coin, {"wins": np.array(13.0)}, backend, u)
    np.testing.assert_allclose(prior, stats.beta(2, 3).logpdf(p) + np.log(p * (1 - p)), rtol=1e-9)
    np.testing.assert_allclose(likelihood, stats.binom(20, p).logpmf(13), rtol=1e-9)
    prior, likelihood = _parts(signs, {"y": Z}, backend, u)
    np.testing.assert_allclose(prior, stats.norm(0.5, 3.0).logpdf(u[:, 0]), rtol=1e-9)
    np.testing.assert_allclose(prior + likelihood, _signs_log_joint(u[:, 0]), rtol=1e-9)
    prior, likelihood = _parts(hanging, {"y": np.array(2.0)}, backend, u)
    x = u[:, 0]
    of_x = np.array([np.log(w) + stats.norm(3.0 * z, 1.0).logpdf(x) for z, w in ((0, 0.7), (1, 0.3))])
    of_y = np.array([stats.norm(x + z, 0.5).logpdf(2.0) for z in (0, 1)])
    np.testing.assert_allclose(prior, special.logsumexp(of_x, axis=0), rtol=1e-9)
    np.testing.assert_allclose(prior + likelihood, special.logsumexp(of_x + of_y, axis=0), rtol=1e-9)


# Kernels ------------------------------------------------------------------------------------------------------------


def tempered_normal(beta, count, rng):
    """Exact draws (count, 3) of the regression at an inverse temperature, with their mean and covariance."""
    covariance = np.linalg.inv(beta * X.T @ X / NOISE**2 + np.eye(3) / PRIOR**2)
    mean = beta * covariance @ X.T @ Y / NOISE**2
    return rng.multivariate_normal(mean, covariance, count), mean, covariance


def assert_normal(draws, mean, covariance):
    """Independent draws have this mean and covariance, within 4.5 standard errors."""
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    white, count = (draws - mean) @ root.T, len(draws)
    assert (np.abs(white.mean(0)) < 4.5 / np.sqrt(count)).all()
    second = white.T @ white / count - np.eye(len(mean))
    assert (np.abs(second) < 4.5 * np.sqrt((1 + np.eye(len(mean))) / count)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_moves_leave_the_tempered_density_as_it_is(backend):
    """Exact draws stay exact, and move: particles are independent of each other but for the common step size."""
    beta, count, rng = 0.3, 20_000, np.random.default_rng(1)
    x, mean, covariance = tempered_normal(beta, count, rng)
    with pg.on(backend) as room:
        target = Target(regression.bind({"x": X, "y": Y}, room))
        start = room.asarray(x)
        step_size, scale, at = (room.asarray(np.array(v)) for v in (1.5, 1.3 * np.sqrt(np.diag(covariance)), beta))
        state, _ = tempered_moves.begun(target)(start, at, step_size, scale, target.arrays)
        noise = tempered_moves.noise(target, 11, 0, 6, count)
        moving, report = tempered_moves.moves(target, 0.7, 20)(Moving(state, start), noise, at, target.arrays)
        new, report = room.to_numpy((moving.state.position, report))
    assert 0.3 < report["acceptance_rate"].mean() < 0.95
    np.testing.assert_allclose(report["distance"][-1], ((new - x) ** 2).mean(0), rtol=1e-9)
    assert (report["distance"][-1] > np.diag(covariance)).all()
    assert_normal(new, mean, covariance)


def test_moves_are_the_same_on_both_backends():
    rng, found = np.random.default_rng(2), []
    x = rng.normal(size=(9, 3))
    noise = {"normal": rng.normal(size=(8, 9, 3)), "uniform": rng.random((8, 9)), "jitter": rng.random(8)}
    for backend in BACKENDS:
        with pg.on(backend) as room:
            target = Target(regression.bind({"x": X, "y": Y}, room))
            start, held = room.asarray(x), {n: room.asarray(v) for n, v in noise.items()}
            step_size, scale, at = (room.asarray(np.array(v)) for v in (0.4, np.eye(3), 0.5))
            state, _ = tempered_moves.begun(target)(start, at, step_size, scale, target.arrays)
            moving, report = tempered_moves.moves(target, 0.8, 20)(Moving(state, start), held, at, target.arrays)
            found.append(room.to_numpy((*moving.state, report["acceptance_rate"])))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


# What cannot be done is refused -------------------------------------------------------------------------------------


@pg.program
def flat(y):
    mu = pg.sample("mu", dist.Flat())
    pg.sample("y", dist.Normal(mu, 1.0), obs=y)


@pg.program
def scaled(y):
    with pg.scale(2.0):
        mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    pg.sample("y", dist.Normal(mu, 1.0), obs=y)


@pg.program
def impossible(y):
    mu = pg.sample("mu", dist.Normal(0.0, 1.0))
    pg.factor("wall", xp.where(mu > 100.0, y, -np.inf))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_has_no_path_is_refused(engine, backend):
    with pytest.raises(UnsupportedError, match="'mu' of flat has a flat prior.*proper prior"):
        pg.infer(flat, np.array(1.0), engine, backend, progress=False)
    with pytest.raises(UnsupportedError, match="'mu' of scaled counts"):
        pg.infer(scaled, np.array(1.0), engine, backend, progress=False)
    with pytest.raises(pg.ProgramError, match=r"(?s)likelihood of impossible.*prior"):
        pg.infer(impossible, np.array(1.0), engine, backend, progress=False)


@pytest.mark.parametrize(
    ("engine", "options", "says"),
    [
        ("smc", {"num_particles": 5}, "num_particles must be at least 20"),
        ("smc", {"ess_fraction": 1.0}, "ess_fraction"),
        ("smc", {"max_moves": 0}, "max_moves"),
        ("ais", {"num_temperatures": 0}, "num_temperatures"),
        ("ais", {"num_particles": 5}, "at least 25"),
        ("ais", {"reverse": False, "posterior_draws": {"p": [0.5]}}, "reverse=True"),
        ("ais", {"posterior_draws": {"q": [0.5]}}, "must hold all of"),
        ("ais", {"posterior_draws": {"p": [1.5]}}, "outside or on the edge"),
        ("tempering", {"num_temperatures": 1}, "at least 2"),
        ("tempering", {"init": {"p": 0.5}}, "leave out init"),
    ],
)
def test_options_are_checked(engine, options, says):
    with pytest.raises(ValueError, match=says):
        pg.infer(coin, {"wins": np.array(13.0)}, engine, progress=False, **options)
