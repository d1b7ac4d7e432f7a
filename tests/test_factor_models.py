"""Factor analysis and probabilistic PCA: figures of R and scikit-learn, closed forms, gaps by direct maximisation."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import optimize
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Yardstick

import ppl_gen as pg
from ppl_gen.models import FactorAnalysis, ProbabilisticPCA
from ppl_gen.sklearn import ProbabilisticPCA as FaceOfPCA

BACKENDS = ("numpyro", "pyro")
IRIS = load_iris().data
MODELS = {"fa": FactorAnalysis, "ppca": ProbabilisticPCA}


def _infer(model, x, backend="numpyro", **options):
    """A run of em whose log likelihood never fell by more than rounding."""
    options = {"num_restarts": 2, "tolerance": 1e-12, "num_steps": 3000, **options}
    run = pg.infer(model, x, "em", backend, progress=False, **options)
    history = run.history["log_likelihood"]
    assert (np.diff(history) >= -1e-9 * np.abs(history[1:])).all()
    return run


def _simulated(n=120, d=4, q=1, gaps=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, q)) @ rng.normal(0, 2, (q, d)) + rng.standard_normal((n, d)) * np.linspace(0.5, 1.5, d)
    x = x * np.linspace(1, 3, d) + np.arange(d)
    x[rng.random(x.shape) < gaps] = np.nan
    return x


def _with_moments(sigma, n, seed=0):
    """n rows whose mean is 0 and whose covariance, divided by n, is exactly sigma."""
    rows = np.random.default_rng(seed).standard_normal((n, len(sigma)))
    rows -= rows.mean(0)
    root = np.linalg.cholesky(rows.T @ rows / n)
    return rows @ np.linalg.inv(root).T @ np.linalg.cholesky(sigma).T


def _covariance(params):
    scales = params["scales"] if "scales" in params else params["scale"] * np.ones(len(params["loc"]))
    return params["loadings"] @ params["loadings"].T + np.diag(scales**2)


def _log_likelihood(x, loc, sigma):
    """Of the observed entries, row by row."""
    found = []
    for row in x:
        seen = ~np.isnan(row)
        off, part = (row - loc)[seen], sigma[np.ix_(seen, seen)]
        found.append(-0.5 * (off @ np.linalg.solve(part, off) + np.linalg.slogdet(2 * np.pi * part)[1]))
    return np.array(found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("q", "statistic"), [(1, 75.180), (2, 6.107)])
def test_ability_tests_of_r(q, statistic, backend, data_dir):
    """factanal(covmat = ability.cov): Bartlett's chi-square."""
    sigma = _ability(data_dir)
    n, p = 112, len(sigma)
    run = _infer(FactorAnalysis(q), _with_moments(sigma, n), backend)
    fitted = _covariance(run.params)
    criterion = np.trace(np.linalg.solve(fitted, sigma)) - np.linalg.slogdet(np.linalg.solve(fitted, sigma))[1] - p
    assert (n - 1 - (2 * p + 5) / 6 - 2 * q / 3) * criterion == pytest.approx(statistic, abs=0.01)
    np.testing.assert_allclose(np.diag(fitted), np.diag(sigma), rtol=1e-4)  # holds at every maximum


def _ability(data_dir):
    path = data_dir / "tables" / "ability.cov.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return np.array([[float(cell) for cell in row[1:7]] for row in rows])


def test_factor_analysis_ends_where_scikit_learn_does():
    x = _simulated(n=200, d=6, q=2)
    run = _infer(FactorAnalysis(2), x)
    yardstick = Yardstick(2, tol=1e-10, max_iter=10_000, svd_method="lapack").fit(x)
    assert run.log_prob(x).mean() == pytest.approx(yardstick.score(x), abs=1e-7)
    np.testing.assert_allclose(_covariance(run.params), yardstick.get_covariance(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_em_reaches_the_closed_form(backend):
    run = _infer(ProbabilisticPCA(2), IRIS, backend)
    exact = ProbabilisticPCA(2).closed_form({"x": IRIS})
    np.testing.assert_allclose(_covariance(run.params), _covariance(exact), atol=1e-5)
    pca = PCA(2).fit(IRIS)
    n = len(IRIS)  # scikit-learn divides by n - 1
    np.testing.assert_allclose(_covariance(exact), pca.get_covariance() * (n - 1) / n, atol=1e-10)


_SPARE = np.random.default_rng(0).normal(size=(30, 5))
RANK_DEFICIENT = {
    "fewer rows than features": (np.random.default_rng(0).normal(size=(8, 20)) + 3.0, 8),
    "one row more than latents": (np.random.default_rng(1).normal(size=(3, 5)), 2),
    "two constant columns": (np.column_stack([_SPARE[:, :3], np.full((30, 2), 7.0)]), 3),
    "all constant": (np.ones((6, 4)), 2),
}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kind", RANK_DEFICIENT)
def test_rank_deficient_data_have_the_least_noise_that_em_allows(kind, precision):
    """Their likelihood has no maximum; with sigma^2 at its bound, eigenvalues are the data's, or sigma^2."""
    x, q = RANK_DEFICIENT[kind]
    for backend in BACKENDS:
        run = pg.infer(ProbabilisticPCA(q), x, "closed_form", backend, progress=False, precision=precision)
        variance = float(run.params["scale"]) ** 2
        fraction = 1e-8 if precision == "float64" else 100.0 * np.finfo(np.float32).eps
        assert variance == pytest.approx(fraction * (x.var(0).mean() or fraction), rel=1e-4)
        eigenvalues = np.linalg.eigvalsh(_covariance({n: np.asarray(v, float) for n, v in run.params.items()}))
        expected = np.maximum(np.linalg.eigvalsh(np.cov(x.T, bias=True)), variance)
        np.testing.assert_allclose(eigenvalues, expected, rtol=1e-5, atol=1e-6 * expected[-1])
        found = run.log_prob(x)
        assert np.isfinite(found).all()
        if precision == "float64" and kind != "all constant":
            np.testing.assert_allclose(found, _log_likelihood(x, run.params["loc"], _covariance(run.params)), atol=1e-4)
    face = FaceOfPCA(q, precision=precision).fit(x)
    assert np.isfinite(face.score_samples(x)).all() and np.isfinite(face.transform(x)).all()


GAPS = _simulated(n=80, gaps=0.3)
GAPS[0] = np.nan


@functools.cache
def _direct(name):
    """Highest observed log likelihood of one factor that scipy finds, with its loc and sigma."""
    d = GAPS.shape[1]

    def parts(u):
        scales = np.exp(u[2 * d :]) * np.ones(d)
        return u[:d], np.outer(u[d : 2 * d], u[d : 2 * d]) + np.diag(scales**2)

    start = np.concatenate([np.nanmean(GAPS, 0), np.nanstd(GAPS, 0), np.zeros(d if name == "fa" else 1)])
    bounds = [(None, None)] * (2 * d) + [(-3.0, 3.0)] * (len(start) - 2 * d)
    loss = lambda u: -_log_likelihood(GAPS, *parts(u)).sum()
    found = optimize.minimize(loss, start, bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-4})
    return -found.fun, *parts(found.x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_gaps_against_direct_maximisation(name, backend):
    """30 % of the entries missing, one row without any: the same maximum as scipy finds for the observed likelihood."""
    value, loc, sigma = _direct(name)
    run = _infer(MODELS[name](1), GAPS, backend)
    assert run.history["log_likelihood"][-1] == pytest.approx(value, abs=1e-4)
    np.testing.assert_allclose(run.params["loc"], loc, atol=2e-3)
    np.testing.assert_allclose(_covariance(run.params), sigma, rtol=5e-3, atol=1e-3)
    exact = _log_likelihood(GAPS, run.params["loc"], _covariance(run.params))
    np.testing.assert_allclose(run.log_prob(GAPS), exact, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_latent_is_gaussian_conditioning(name, backend):
    x = _simulated(n=20, d=5, q=2, gaps=0.3)
    run = pg.infer(MODELS[name](2), x, "em", backend, progress=False, num_steps=5, num_restarts=1)
    found, sigma, w = run.latent(x), _covariance(run.params), run.params["loadings"]
    for row, mean, cov in zip(x, found["z"], found["z_cov"], strict=True):
        seen = ~np.isnan(row)
        gain = np.linalg.solve(sigma[np.ix_(seen, seen)], w[seen]).T
        np.testing.assert_allclose(mean, gain @ (row - run.params["loc"])[seen], atol=1e-10)
        np.testing.assert_allclose(cov, np.eye(2) - gain @ w[seen], atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_both_backends_agree_and_weights_count_rows(name):
    x, counts = _simulated(n=30, gaps=0.2), np.random.default_rng(1).integers(0, 3, 30)
    options = {"num_steps": 4, "num_restarts": 1, "tolerance": 0}
    runs = [pg.infer(MODELS[name](1), x, "em", b, progress=False, weights=counts, **options) for b in BACKENDS]
    init = {n: v[0] for n, v in MODELS[name](1).starts({"x": x}, 1, np.random.default_rng(0)).items()}
    runs.append(pg.infer(MODELS[name](1), np.repeat(x, counts, 0), "em", progress=False, init=init, **options))
    runs.append(pg.infer(MODELS[name](1), x, "em", progress=False, init=init, weights=counts, **options))
    for one, other in (runs[:2], runs[2:]):
        for site, value in one.params.items():
            np.testing.assert_allclose(value, other.params[site], rtol=1e-9, atol=1e-9)


# Bad input: a result or a clear error, never NaN --------------------------------------------------------------------


def _hard(kind):
    x = _simulated(n=12)
    if kind == "constant column":
        x[:, 1] = 5.0
    elif kind == "all constant":
        x[:] = 1.0
    elif kind == "duplicated points":
        x = np.repeat(x[:2], 6, 0)
    elif kind == "exact low rank":
        x = np.outer(x[:, 0], [1.0, 2.0, -1.0, 0.5])
    elif kind == "fewer rows than features":
        x = x[:2]
    elif kind == "a row without entries":
        x[3] = np.nan
    elif kind == "one entry a row":
        x[:, :] = np.where(np.arange(4) == (np.arange(12) % 4)[:, None], x, np.nan)
    return x


HARD = (
    "constant column", "all constant", "duplicated points", "exact low rank", "fewer rows than features",
    "a row without entries", "one entry a row",
)  # fmt: skip


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("name", MODELS)
def test_hard_data_end_in_numbers(name, kind):
    run = pg.infer(MODELS[name](1), _hard(kind), "em", progress=False, num_restarts=2, num_steps=200)
    for value in run.params.values():
        assert np.isfinite(value).all()
    assert np.isfinite(run.history["log_likelihood"]).all()
    assert run.params["scales" if name == "fa" else "scale"].min() > 0


def test_heywood_case_stays_above_its_bound():
    """A correlation of 1.2 between factor and x_0 would be needed: psi_0 goes to its bound, and no further."""
    loading = np.array([1.2, 0.6, 0.5, 0.4])
    sigma = np.outer(loading, loading)
    np.fill_diagonal(sigma, 1.0)
    run = _infer(FactorAnalysis(1, min_noise=0.005), _with_moments(sigma, 200))
    assert run.params["scales"][0] ** 2 == pytest.approx(0.005, rel=1e-6)


def test_clear_errors():
    x = _simulated(n=12)
    gone = np.where(np.arange(4) == 2, np.nan, x)
    with pytest.raises(ValueError, match=r"columns \[2\] of x have no entry"):
        pg.infer(FactorAnalysis(1), gone, "em", progress=False)
    with pytest.raises(ValueError, match="latent_dim 4 must be below the 4 features"):
        pg.infer(FactorAnalysis(4), x, "em", progress=False)
    with pytest.raises(ValueError, match="engine='em'"):
        pg.infer(ProbabilisticPCA(1), _simulated(gaps=0.1), "closed_form", progress=False)
    with pytest.raises(ValueError, match="min_noise must be a number between 0 and 1"):
        FactorAnalysis(1, min_noise=0)
