"""Pathfinder, the Laplace approximation and the starts that chains take from them, against closed forms."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

import ppl_gen as pg
from ppl_gen import dist, xp
from ppl_gen.inference import importance, ladder, lbfgs, low_rank
from ppl_gen.inference.driver import Driver
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
SCHOOLS = {
    "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
}


def infer(program, data, engine, backend="numpyro", seed=1, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return pg.infer(program, data, engine, backend, seed=seed, progress=False, **options)


# The inverse Hessian ------------------------------------------------------------------------------------------------


def _pairs(rng, dim, history, moves):
    """Pairs of a random quadratic (4 paths), some fewer than the history holds, and all of them in order."""
    root = rng.normal(size=(dim, dim))
    precision, held, all_moves = root @ root.T + np.eye(dim), low_rank.no_pairs(4, dim, history), []
    for _ in range(moves):
        s = rng.normal(size=(4, dim))
        held = low_rank.add(held, s, s @ precision, np.array([True, True, True, False]))
        all_moves.append((s, s @ precision))
    return held, all_moves


@pytest.mark.parametrize(("dim", "history", "moves"), [(1, 3, 2), (3, 6, 9), (20, 6, 4), (20, 6, 11), (12, 6, 6)])
def test_the_estimate_is_that_of_the_dense_recursion(dim, history, moves):
    """H <- (I - rho s y') H (I - rho y s') + rho s s' from the diagonal by the last pairs (Nocedal & Wright, 6.17)."""
    rng = np.random.default_rng(dim)
    pairs, all_moves = _pairs(rng, dim, history, moves)
    x, g, v = (rng.normal(size=(4, dim)) for _ in range(3))
    found = low_rank.gaussians(pairs, x, g)
    assert found.exist().all()
    for path in range(4):
        dense = np.diag(pairs.diagonal[path])
        for s, y in all_moves[-history:] if path < 3 else []:
            left = np.eye(dim) - np.outer(s[path], y[path]) / (s[path] @ y[path])
            dense = left @ dense @ left.T + np.outer(s[path], s[path]) / (s[path] @ y[path])
        scale = np.abs(dense).max()
        np.testing.assert_allclose(found.covariances()[path], dense, atol=1e-8 * scale)
        np.testing.assert_allclose(found.variances()[path], np.diag(dense), atol=1e-8 * scale)
        np.testing.assert_allclose(low_rank.times_inverse_hessian(pairs, v)[path], dense @ v[path], atol=1e-8 * scale)
        np.testing.assert_allclose(found.mean[path], x[path] - dense @ g[path], atol=1e-7 * scale)


def test_the_diagonal_is_that_of_the_scaled_update():
    """That of the BFGS update of the Hessian, from the diagonal one scaled to y' D^-1 y / y's of itself."""
    rng = np.random.default_rng(1)
    pairs, _ = _pairs(rng, 5, 3, 2)
    s = rng.normal(size=(4, 5))
    y = s * rng.uniform(0.5, 2.0, (4, 5))
    after = low_rank.add(pairs, s, y, np.full(4, True))
    for p in range(4):
        a, b = y[p] ** 2 @ pairs.diagonal[p], s[p] @ y[p]
        hessian = np.diag(a / b / pairs.diagonal[p])
        turned = hessian @ s[p]
        updated = hessian - np.outer(turned, turned) / (s[p] @ turned) + np.outer(y[p], y[p]) / b
        np.testing.assert_allclose(1 / after.diagonal[p], np.diag(updated), rtol=1e-9)


def test_moves_that_do_not_curve_downwards_are_left_out():
    pairs = low_rank.no_pairs(3, 2, 2)
    s = np.ones((3, 2))
    after = low_rank.add(pairs, s, np.array([[1.0, 2.0], [-1.0, 0.5], [np.nan, 1.0]]), np.full(3, True))
    np.testing.assert_array_equal(after.held.sum(1), [1, 0, 0])
    np.testing.assert_array_equal(after.diagonal[1:], 1.0)


def test_draws_and_densities_are_those_of_the_covariance():
    rng = np.random.default_rng(2)
    pairs, _ = _pairs(rng, 7, 3, 5)
    found = low_rank.gaussians(pairs, rng.normal(size=(4, 7)), rng.normal(size=(4, 7)))
    draws, log_q = found.draw(rng.standard_normal((4, 20_000, 7)))
    for p in range(4):
        exact = stats.multivariate_normal(found.mean[p], found.covariances()[p])
        np.testing.assert_allclose(exact.logpdf(draws[p, :50]), log_q[p, :50], rtol=1e-8)
        np.testing.assert_allclose(found.log_density(draws[p, :50])[p], log_q[p, :50], rtol=1e-8)
        white = np.linalg.solve(np.linalg.cholesky(exact.cov), (draws[p] - exact.mean).T)
        assert np.abs(white.mean(1)).max() < 5 / np.sqrt(20_000)
        assert np.abs(white @ white.T / 20_000 - np.eye(7)).max() < 5 * np.sqrt(2 / 20_000)


def test_paths_end_at_the_top_whatever_the_others_do():
    """Quadratics and Rosenbrock's valley side by side; one path has no density at its start and stays."""
    def valley(x):
        a, b = x[:, 0], x[:, 1]
        value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
        gradient = np.stack([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)], 1)
        lost = a > 1.9
        return -np.where(lost, np.nan, value), -gradient

    start = np.array([[-1.2, 1.0], [0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [-2.0, -2.0]])
    state = lbfgs.begin(valley, start, 6)
    for _ in range(200):
        state = lbfgs.tick(valley, state)
    assert state.done.all()
    np.testing.assert_allclose(state.position[[0, 1, 2, 4]], 1.0, atol=1e-5)
    np.testing.assert_array_equal(state.position[3], start[3])


# Gaussian posteriors ------------------------------------------------------------------------------------------------


@pg.program
def gaussian(mean, covariance):
    pg.sample("x", dist.MultivariateNormal(mean, covariance))


def _gaussian(dim, spread=2.0):
    """Mean and covariance with eigenvalues from 1 / spread to spread."""
    rng = np.random.default_rng(dim)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return {"mean": rng.normal(size=dim), "covariance": (turn * np.geomspace(1 / spread, spread, dim)) @ turn.T}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [1, 7, 50])
def test_laplace_is_a_gaussian_posterior(dim, backend):
    """p / q is 1 at every draw: the density is normalised, and q is exact."""
    data = _gaussian(dim, 30.0)
    run = infer(gaussian, data, "laplace", backend)
    np.testing.assert_allclose(run.stats["log_weight"], 0.0, atol=1e-5)
    x = run.posterior["x"][0]
    white = np.linalg.solve(np.linalg.cholesky(data["covariance"]), (x - data["mean"]).T)
    assert np.abs(white.mean(1)).max() < 5 / np.sqrt(len(x)) and run.attrs["pareto_k"] < 0.7
    assert not run.exact and run.idata.posterior.sizes["chain"] == 1 and not run.warnings


@pytest.mark.parametrize("dim", [1, 2, 10, 50])
def test_pathfinder_finds_a_gaussian_posterior(dim):
    """Resampled moments within 5 errors of 1,000 draws out of 2,000, since some come twice."""
    data = _gaussian(dim, 1.5)
    run = infer(gaussian, data, "pathfinder", num_samples=2000)
    assert run.attrs["pareto_k"] < 0.7 and not run.exact and not run.warnings
    x, size = run.posterior["x"][0], 1000
    white = np.linalg.solve(np.linalg.cholesky(data["covariance"]), (x - data["mean"]).T)
    assert np.abs(white.mean(1)).max() < 5 / np.sqrt(size)
    assert np.abs(white @ white.T / len(x) - np.eye(dim)).max() < 5 * np.sqrt(2 / size)
    elbo = run.history["elbo"]
    assert elbo.shape[0] == 8 and np.nanmax(elbo) < 0.7  # the log evidence is 0: above it by noise alone


def test_both_backends_find_the_same():
    """The same noise on both: bounds and draws agree to the rounding that a climb amplifies."""
    runs = [infer(schools, SCHOOLS, "pathfinder", b, num_samples=50, num_paths=3) for b in BACKENDS]
    bounds = [np.nanmax(r.history["elbo"], 1) for r in runs]
    np.testing.assert_allclose(*bounds, rtol=1e-5)
    for name in ("mu", "tau", "z"):
        np.testing.assert_allclose(runs[0].posterior[name], runs[1].posterior[name], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(runs[0].stats["path"], runs[1].stats["path"])


# Posteriors with known answers --------------------------------------------------------------------------------------


@pg.program
def schools(sigma, y):
    mu = pg.sample("mu", dist.Normal(0.0, 5.0))
    tau = pg.sample("tau", dist.HalfNormal(5.0))
    with pg.plate("school", len(sigma)):
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        pg.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


@pg.program
def logistic(x, y):
    slope = pg.sample("slope", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pg.plate("row", len(y)):
        pg.sample("y", dist.Bernoulli(logits=x @ slope), obs=y)


def _moments(log_density, first, second):
    """Mean and sd of two unknowns by summing over a grid of them."""
    a, b = np.meshgrid(first, second, indexing="ij")
    table = log_density(a, b)
    weight = np.exp(table - table.max())
    weight /= weight.sum()
    means = [(weight * v).sum() for v in (a, b)]
    return means, [np.sqrt((weight * (v - m) ** 2).sum()) for v, m in zip((a, b), means, strict=True)]


def test_eight_schools_against_quadrature():
    """y_j ~ N(mu, sigma_j^2 + tau^2) with theta integrated out. The funnel's neck is no Gaussian: within 0.3 sd."""
    def log_density(mu, tau):
        variance = SCHOOLS["sigma"] ** 2 + tau[..., None] ** 2
        terms = stats.norm.logpdf(SCHOOLS["y"], mu[..., None], np.sqrt(variance)).sum(-1)
        return terms + stats.norm.logpdf(mu, 0, 5) + stats.norm.logpdf(tau, 0, 5)

    means, sds = _moments(log_density, np.linspace(-20, 30, 400), np.linspace(1e-3, 30, 400))
    run = infer(schools, SCHOOLS, "pathfinder", num_samples=4000)
    for name, mean, sd in zip(("mu", "tau"), means, sds, strict=True):
        x = run.posterior[name]
        assert abs(x.mean() - mean) < 0.3 * sd, name
        assert 0.7 < x.std() / sd < 1.3, name


@pytest.mark.parametrize(("engine", "off"), [("pathfinder", 0.16), ("laplace", 0.3)])
def test_a_logistic_regression_against_quadrature(engine, off):
    """Resampled within 5 errors of 1,000 draws; the Gaussian at the mode, not resampled, within 0.3 sd."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]])
    y = (rng.random(60) < 1 / (1 + np.exp(-x @ [1.0, -0.5]))).astype(float)

    def log_density(a, b):
        logits = a[..., None] * x[:, 0] + b[..., None] * x[:, 1]
        prior = stats.norm.logpdf(a, 0, 2) + stats.norm.logpdf(b, 0, 2)
        return (y * logits - np.logaddexp(0, logits)).sum(-1) + prior

    means, sds = _moments(log_density, np.linspace(-2, 6, 300), np.linspace(-6, 3, 300))
    run = infer(logistic, {"x": x, "y": y}, engine, num_samples=2000)
    slope = run.posterior["slope"][0]
    assert run.attrs["pareto_k"] < 0.7
    assert (np.abs(slope.mean(0) - means) < off * np.array(sds)).all()
    assert (np.abs(np.log(slope.std(0) / sds)) < 0.12).all()


@pg.program
def two_modes(weight):
    x = pg.sample("x", dist.Flat(shape=(2,)))
    left = xp.log(weight) + xp.sum(dist.Normal(-5.0, xp.array([2.0, 1.0])).log_prob(x))
    right = xp.log(1 - weight) + xp.sum(dist.Normal(5.0, xp.array([1.0, 2.0])).log_prob(x))
    pg.factor("modes", xp.logsumexp(xp.stack([left, right])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_modes_are_found_and_weighed(backend):
    """Paths go left and right in halves; of the draws a fifth is left, within 5 errors of 500 independent ones."""
    run = infer(two_modes, {"weight": np.array(0.2)}, "pathfinder", backend, num_paths=16)
    left = (run.posterior["x"][0, :, 0] < 0).mean()
    assert run.attrs["pareto_k"] < 0.7
    assert abs(left - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 500)


# Starts of chains ---------------------------------------------------------------------------------------------------


def _begun(program, data, start, num_chains, backend="numpyro", seed=0, **options):
    with pg.on(backend) as room:
        target = Target(program.bind(data, room))
        return ladder.begin(target, Driver(room.to_numpy, False), seed, start, num_chains, **options)


@pytest.mark.parametrize("start", ["pathfinder", "laplace"])
def test_chains_start_in_modes_by_their_mass(start):
    begun = _begun(two_modes, {"weight": np.array(0.2)}, start, 64)
    left = begun.position[:, 0] < 0
    assert 9 <= left.sum() <= 17 and not begun.warnings  # 12.8 expected
    minor = _begun(two_modes, {"weight": np.array(1e-9)}, start, 64)
    assert (minor.position[:, 0] > 0).all()


def test_starts_are_wider_than_the_posterior():
    """Of a Gaussian posterior, by 1.5 in all directions: chi-squared within 5 sd, so that R-hat has what to forget."""
    data, count = _gaussian(5, 30.0), 300
    begun = _begun(gaussian, data, "laplace", count)
    white = np.linalg.solve(np.linalg.cholesky(data["covariance"]), (begun.position - data["mean"]).T)
    assert abs((white**2).sum() / 1.5**2 - 5 * count) < 5 * np.sqrt(2 * 5 * count)


@pytest.mark.parametrize(("preconditioner", "expected"), [("diagonal", False), ("dense", True), ("identity", None)])
def test_the_first_preconditioner_is_that_of_the_approximation(preconditioner, expected):
    from ppl_gen.inference import langevin

    data = _gaussian(4, 30.0)
    begun = _begun(gaussian, data, "laplace", 8)
    with pg.on("numpyro") as room:
        target = Target(gaussian.bind(data, room))
        scale = room.asarray(np.ones(4))
        state = begun.scaled(target, langevin.State(None, None, None, None, scale), preconditioner)
        found = room.to_numpy(state.scale)
    covariance = data["covariance"]
    exact = {None: np.ones(4), True: np.linalg.cholesky(covariance), False: np.sqrt(np.diag(covariance))}[expected]
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("engine", [pytest.param("nuts", marks=pytest.mark.slow), "mala", "chees"])
def test_samplers_start_from_an_approximation(engine):
    data = _gaussian(3)
    options = {"num_warmup": 200, "num_samples": 500, "thinning": 1, "num_chains": 4}
    run = infer(gaussian, data, engine, start="pathfinder", **options)
    x = run.posterior["x"]
    error = pg.evaluation.mcse(x)
    assert (np.abs(x.mean((0, 1)) - data["mean"]) < 5 * error).all() and run.options.start == "pathfinder"


# What fails ---------------------------------------------------------------------------------------------------------


@pg.program
def walled(narrow):
    """Impossible outside of a box that a Gaussian at the mode cannot keep to."""
    x = pg.sample("x", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
    pg.factor("wall", xp.where(xp.all(xp.abs(x) < narrow), 0.0, -xp.inf))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_failing_path_names_the_site(backend):
    with pytest.raises(pg.ProgramError, match="no Gaussian along its paths.*'wall'"):
        infer(walled, {"narrow": np.array(0.4)}, "pathfinder", backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chains_fall_back_and_say_why(backend):
    begun = _begun(walled, {"narrow": np.array(0.4)}, "pathfinder", 8, backend)
    assert begun.mixture is None and np.isfinite(begun.position).all() and (np.abs(begun.position) < 0.4).all()
    assert any("start='pathfinder' failed" in w and "'wall'" in w for w in begun.warnings)
    assert any("nearer to zero" in w and "'wall'" in w for w in begun.warnings)
    with pytest.raises(pg.ProgramError, match="'wall'"):
        _begun(walled, {"narrow": np.array(0.0)}, "pathfinder", 8, backend)


def test_a_flat_direction_has_no_laplace_start():
    @pg.program
    def flat(y):
        a = pg.sample("a", dist.Flat(shape=(2,)))
        pg.sample("y", dist.Normal(a[0] + a[1], 1.0), obs=y)

    with pytest.raises(pg.ProgramError, match="flat or curves upwards"):
        infer(flat, {"y": np.array(1.0)}, "laplace")
    begun = _begun(flat, {"y": np.array(1.0)}, "laplace", 4)
    assert begun.mixture is None and "start='laplace' failed" in begun.warnings[0]


def test_paths_start_about_the_given_point():
    """Of two modes, the climb from the given one; the first path from it exactly, the others near."""
    init = {"x": np.array([-5.0, -5.0])}
    run = infer(two_modes, {"weight": np.array(0.5)}, "pathfinder", init=init, jitter=1.0, num_samples=50)
    assert (run.posterior["x"] < 0).all()


def test_paths_that_had_to_stop_are_reported():
    run = infer(schools, SCHOOLS, "pathfinder", max_steps=3, num_samples=30)
    assert any("8 of 8 paths" in w and "max_steps" in w for w in run.warnings)


BAD = {"num_paths": 0, "num_samples": -1, "num_elbo_draws": 0, "max_steps": 0, "history_size": 1.5, "jitter": 0.0}


@pytest.mark.parametrize("option", BAD)
def test_options_are_checked(option):
    with pytest.raises(ValueError, match=option):
        pg.inference.Pathfinder(**{option: BAD[option]})


def test_other_options_are_checked():
    with pytest.raises(ValueError, match="num_restarts"):
        pg.inference.Laplace(num_restarts=0)
    with pytest.raises(ValueError, match="start must be one of 'uniform', 'pathfinder', 'laplace', got 'nowhere'"):
        pg.inference.ChEES(start="nowhere")
    with pytest.raises(ValueError, match="no continuous site"):
        infer(schools, SCHOOLS, "pathfinder", init={"moo": 1.0})


def test_resampling_keeps_to_the_weights():
    rng = np.random.default_rng(4)
    weights = rng.dirichlet(np.ones(20))
    counts = np.bincount(importance.resample(weights, 1000, rng), minlength=20)
    assert counts.sum() == 1000 and (np.abs(counts - 1000 * weights) < 1).all()
