"""Variational Bayes of Gaussian mixtures against scikit-learn, closed-form evidence and sums over assignments."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import betaln, digamma, multigammaln
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture as Yardstick

import ppl_gen as pg
from ppl_gen.missing import Missing, split
from ppl_gen.models import BayesianGaussianMixture, GaussianMixture, HiddenMarkov, NaiveBayes
from ppl_gen.program import DataError, as_program
from ppl_gen.target import Target

BACKENDS = ("numpyro", "pyro")
KINDS = ("full", "tied", "diag", "spherical")
IRIS = load_iris().data
PRIOR = {"mean_precision_prior": 0.7, "mean_prior": [5.0, 3.0, 4.0, 1.0], "degrees_of_freedom_prior": 6.0}
_COV = np.cov(IRIS.T)
SPREAD = {"full": _COV, "tied": _COV, "diag": np.diag(_COV), "spherical": np.diag(_COV).mean()}


class Corrected(Yardstick):
    """scikit-learn with the expectations of the models that it names, where it takes those of full covariances."""

    def _estimate_log_weights(self, xp=None):
        if self.weight_concentration_prior_type == "dirichlet_distribution":
            return super()._estimate_log_weights()
        a, b = self.weight_concentration_
        own, rest = digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)
        own[-1] = 0.0  # v_K = 1
        return own + np.append(0.0, np.cumsum(rest)[:-1])

    def _estimate_log_prob(self, X, xp=None):
        d, nu = X.shape[1], self.degrees_of_freedom_
        taken = d * math.log(2) + digamma(0.5 * (nu - np.arange(d)[:, None])).sum(0)
        right = {
            "diag": d * (digamma(0.5 * nu) + math.log(2)),
            "spherical": d * (digamma(0.5 * d * nu) + math.log(2 / d)),
        }.get(self.covariance_type, taken)
        return super()._estimate_log_prob(X) + 0.5 * (right - taken)

    def _estimate_wishart_tied(self, nk, xk, sk):
        k, prior = self.n_components, (self.degrees_of_freedom_prior_, self.covariance_prior_)
        self.degrees_of_freedom_prior_, self.covariance_prior_ = (part / k for part in prior)  # as the rest
        super()._estimate_wishart_tied(nk, xk, sk)
        self.degrees_of_freedom_ = k * self.degrees_of_freedom_
        self.degrees_of_freedom_prior_, self.covariance_prior_ = prior


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["dirichlet", "dirichlet_process"])
@pytest.mark.parametrize("added", [0.0, 0.05])
def test_every_iteration_is_scikit_learns(kind, weights, added):
    """The same start and priors; full covariances under a Dirichlet against scikit-learn as it is."""
    k = 4
    as_it_is = kind == "full" and weights == "dirichlet"
    theirs = (Yardstick if as_it_is else Corrected)(
        n_components=k, covariance_type=kind, reg_covar=added, weight_concentration_prior=0.5, **PRIOR,
        weight_concentration_prior_type=weights.replace("dirichlet", "dirichlet_distribution") if weights == "dirichlet"
        else weights, covariance_prior=SPREAD[kind],
    )  # fmt: skip
    theirs._check_parameters(IRIS)
    theirs._initialize(IRIS, np.eye(k)[np.random.default_rng(0).integers(k, size=len(IRIS))])
    model = BayesianGaussianMixture(k, kind, weights, 0.5, covariance_prior=SPREAD[kind], regularization=added, **PRIOR)
    with pg.on("pyro") as room:
        x, q = room.asarray(IRIS), {n: room.asarray(v) for n, v in _theirs(theirs, kind, weights).items()}
        bounds = []
        for _ in range(40):
            q, bound = model.vb_step(q, {"x": x}, None)
            theirs._m_step(IRIS, theirs._e_step(IRIS)[1])
            bounds.append(float(bound))
            for name, expected in _theirs(theirs, kind, weights).items():
                np.testing.assert_allclose(np.asarray(q[name]), expected, atol=1e-6, rtol=1e-6)
        found = np.asarray(model.vb_latent(q, {"x": x})["z"])
    np.testing.assert_allclose(found, np.exp(theirs._e_step(IRIS)[1]), atol=1e-6)
    assert added or (np.diff(bounds) > -1e-9).all()


def _theirs(fitted, kind, weights):
    a, dof = fitted.weight_concentration_, np.asarray(fitted.degrees_of_freedom_)
    covariances = np.asarray(fitted.covariances_)
    return {
        "weights_concentration": a if weights == "dirichlet" else np.stack(a, -1)[:-1],
        "mean_precision": fitted.mean_precision_,
        "locs": fitted.means_,
        "degrees_of_freedom": dof,
        "rate": covariances * dof.reshape(dof.shape + (1,) * (covariances.ndim - dof.ndim)),
    }


# The evidence ------------------------------------------------------------------------------------------------------

X = np.array([[0.3, -1.0], [1.1, 0.4], [-0.2, 0.9], [2.0, 0.1], [0.5, 0.5]])
M0, BETA, NU = np.array([0.2, 0.1]), 0.8, 3.5
S0 = {"full": np.array([[1.2, 0.3], [0.3, 0.8]]), "diag": np.array([1.2, 0.8]), "spherical": np.array(0.9)}
S0["tied"] = S0["full"]


def _small(kind, k, weights="dirichlet", d=2):
    rate = S0[kind][:d, :d] if S0[kind].ndim == 2 else S0[kind][..., :d] if S0[kind].ndim else S0[kind]
    return BayesianGaussianMixture(k, kind, weights, 0.6, BETA, M0[:d], NU, rate)


def _log_evidence(x, m0, s0):
    """Of a Gaussian with a Normal-Wishart prior (Murphy 2007, Conjugate Bayesian analysis, equation 266)."""
    n, d = x.shape
    if n == 0:
        return 0.0
    off = x.mean(0) - m0
    centred = x - x.mean(0)
    s = s0 + centred.T @ centred + BETA * n / (BETA + n) * np.outer(off, off)
    return (
        -0.5 * n * d * math.log(math.pi)
        + multigammaln((NU + n) / 2, d)
        - multigammaln(NU / 2, d)
        + NU / 2 * np.linalg.slogdet(s0)[1]
        - (NU + n) / 2 * np.linalg.slogdet(s)[1]
        + d / 2 * math.log(BETA / (BETA + n))
    )


def _spherical_log_evidence(x, m0, s0):
    n, d = x.shape

    def density(rate):
        given = stats.multivariate_normal(np.zeros(n), (np.eye(n) + 1 / BETA) / rate)
        prior = stats.gamma.logpdf(rate, d * NU / 2, scale=2 / (d * s0))
        return math.exp(prior + sum(given.logpdf(column) for column in (x - m0).T))

    return math.log(integrate.quad(density, 0, 30, epsabs=1e-14)[0])


def _climb(model, x, num_steps=3, num_starts=1):
    """q of the best start and its bounds, step by step without compilation."""
    starts = model.vb_starts({"x": x}, num_starts, np.random.default_rng(0))
    found = []
    with pg.on("pyro") as room:
        for i in range(num_starts):
            q, bounds = {n: room.asarray(v[i]) for n, v in starts.items()}, []
            for _ in range(num_steps):
                here = Missing(*map(room.asarray, split(x))) if np.isnan(x).any() else room.asarray(x)
                last, (q, bound) = q, model.vb_step(q, {"x": here}, None)
                bounds.append(float(bound))
            found.append((room.to_numpy(last), np.array(bounds)))
    return max(found, key=lambda pair: pair[1][-1])


def _fit(model, x, backend="numpyro", **options):
    return pg.infer(model, x, "vbem", backend, progress=False, **{"num_restarts": 1, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_has_the_evidence_in_closed_form(kind):
    """Conjugate: q is the posterior, and the bound is log p(x) itself."""
    bound = _climb(_small(kind, 1), X)[1][-1]
    exact = {
        "full": lambda: _log_evidence(X, M0, S0["full"]),
        "tied": lambda: _log_evidence(X, M0, S0["tied"]),
        "diag": lambda: sum(_log_evidence(X[:, [j]], M0[[j]], S0["diag"][[j], None]) for j in range(2)),
        "spherical": lambda: _spherical_log_evidence(X, M0, S0["spherical"]),
    }[kind]()
    assert bound == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_program_is_what_the_bound_speaks_of(kind, backend):
    """Bayes' rule: log p(x, theta) - log q(theta) is log p(x) at any theta, where q is the posterior."""
    q, bounds = _climb(_small(kind, 1), X)
    values = {n: v[0] for n, v in _small(kind, 1).vb_draws(q, 1, np.random.default_rng(0)).items()}
    precision, rate, dof = values["precisions"], q["rate"], q["degrees_of_freedom"]
    if kind in ("full", "tied"):
        precision, rate = precision.reshape(2, 2), rate.reshape(2, 2)
        log_q = stats.wishart.logpdf(precision, float(np.squeeze(dof)), np.linalg.inv(rate))
    else:
        size = 1 if kind == "diag" else 2
        log_q = stats.gamma.logpdf(precision, size * float(dof[0]) / 2, scale=2 / (size * rate)).sum()
        precision = np.diag(precision[0] * np.ones(2))
    covariance = np.linalg.inv(precision) / q["mean_precision"][0]
    log_q += stats.multivariate_normal(q["locs"][0], covariance).logpdf(values["locs"][0])
    with pg.on(backend) as room:
        target = Target(as_program(_small(kind, 1)).bind(X, room))
        _, log_joint = target.describe({n: room.asarray(v) for n, v in values.items()}, target.arrays)
        assert float(log_joint) - log_q == pytest.approx(bounds[-1], abs=1e-8)


def _log_of_sizes(sizes, weights):
    """log p(z) with these numbers of rows; alpha0 = 0.6."""
    n1, n2 = sizes
    if weights == "dirichlet":
        return betaln(0.6 + n1, 0.6 + n2) - betaln(0.6, 0.6)
    return betaln(1 + n1, 0.6 + n2) - betaln(1, 0.6)


@pytest.mark.parametrize("weights", ["dirichlet", "dirichlet_process"])
def test_bound_is_below_the_sum_over_assignments(weights):
    x = X[:, :1]
    terms = []
    for z in itertools.product((0, 1), repeat=len(x)):
        parts = [x[np.array(z) == k] for k in (0, 1)]
        within = sum(_log_evidence(part, M0[:1], S0["full"][:1, :1]) for part in parts)
        terms.append(_log_of_sizes([len(part) for part in parts], weights) + within)
    evidence = np.logaddexp.reduce(terms)
    for kind in ("full", "diag", "spherical"):  # one feature: all the same
        bounds = _climb(_small(kind, 2, weights, 1), x, num_steps=60, num_starts=4)[1]
        assert evidence - 2.0 < bounds[-1] < evidence
        assert (np.diff(bounds) >= -1e-10).all()


# Laws --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:vbem stopped")
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_both_backends_agree_to_rounding(kind):
    model = BayesianGaussianMixture(3, kind, "dirichlet_process")
    runs = [_fit(model, IRIS, backend, num_restarts=2, num_steps=9, tolerance=0) for backend in BACKENDS]
    np.testing.assert_allclose(runs[0].history["elbo"], runs[1].history["elbo"], rtol=1e-9)
    for name, value in runs[0].params.items():
        np.testing.assert_allclose(value, runs[1].params[name], rtol=1e-9, atol=1e-9)
    for name, draws in runs[0].posterior.items():
        np.testing.assert_allclose(draws, runs[1].posterior[name], rtol=1e-8, atol=1e-9)
    assert not runs[0].exact and runs[0].log_prob_kind == "estimate"


def test_a_weight_is_a_repeated_row():
    times = np.random.default_rng(1).integers(0, 3, len(X))
    with pg.on("pyro") as room:
        x, more, counts = (room.asarray(a) for a in (X, np.repeat(X, times, axis=0), 1.0 * times))
        start = _small("full", 2).vb_starts({"x": X}, 1, np.random.default_rng(0))
        one = other = {n: room.asarray(v[0]) for n, v in start.items()}
        for _ in range(10):
            one, bound = _small("full", 2).vb_step(one, {"x": x}, counts)
            other, expected = _small("full", 2).vb_step(other, {"x": more}, None)
            assert float(bound) == pytest.approx(float(expected), abs=1e-10)


def test_six_components_on_old_faithful_leave_two(data_dir):
    """Bishop (2006), figure 10.6: standardised data, alpha0 = 0.001."""
    x = np.loadtxt(data_dir / "tables" / "faithful.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    x = (x - x.mean(0)) / x.std(0)
    run = _fit(BayesianGaussianMixture(6, weight_concentration_prior=1e-3), x, num_restarts=4)
    assert (run.params["weights"] > 0.01).sum() == 2
    share = np.sort(run.params["weights"])[-2:]
    np.testing.assert_allclose(share, [0.355, 0.645], atol=0.02)  # as of the two-component maximum of the likelihood
    z = run.latent(x)["z"]
    assert z.shape == (272, 6)
    np.testing.assert_allclose(z.sum(1), 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_of_q(kind):
    """Each mean within five standard errors of the draws."""
    model, count = _small(kind, 2, "dirichlet_process"), 40_000
    q = {n: v[0] for n, v in model.vb_starts({"x": X}, 1, np.random.default_rng(0)).items()}
    draws, means = model.vb_draws(q, count, np.random.default_rng(1)), model.vb_mean(q)
    for name, mean in means.items():
        error = draws[name].std(0) / math.sqrt(count)
        assert (np.abs(draws[name].mean(0) - mean) <= 5 * error + 1e-12).all(), name
    d, rate, dof = 2, q["rate"], np.broadcast_to(q["degrees_of_freedom"], (2,))
    if kind in ("full", "tied"):  # E Lambda^-1 = rate / (nu - D - 1), and cov mu = that / beta
        own = np.broadcast_to(rate, (2, d, d))
        expected = own / (dof - d - 1)[:, None, None] / q["mean_precision"][:, None, None]
        off = draws["locs"] - q["locs"]
        products = off[..., :, None] * off[..., None, :]
        error = products.std(0) / math.sqrt(count)
        assert (np.abs(products.mean(0) - expected) <= 5 * error).all()


def test_em_runs_on_the_program_and_new_rows_are_drawn():
    with pytest.warns(RuntimeWarning, match="before it had converged"):
        run = pg.infer(BayesianGaussianMixture(2, "diag"), IRIS[:60, :2], "em", num_restarts=2, num_steps=5)
    assert (np.diff(run.history["log_likelihood"]) > 0).all()
    assert run.sample(7).shape == (7, 2)


def test_an_update_that_may_fall_is_named():
    assert BayesianGaussianMixture(2).em_regularised is None and GaussianMixture(2, "full", 0.0).em_regularised is None
    for model in (GaussianMixture(2), HiddenMarkov(2), BayesianGaussianMixture(2, regularization=0.1)):
        assert model.em_regularised == "regularization"
    assert HiddenMarkov(2, "categorical", num_categories=2).em_regularised is None
    assert NaiveBayes(2).em_regularised == "var_smoothing" and NaiveBayes(2, "bernoulli").em_regularised is None


# Bad input ---------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be():
    for options, message in [
        ({"covariance_type": "round"}, "covariance_type must be one of"),
        ({"weights_prior": "uniform"}, "weights_prior must be one of"),
        ({"mean_precision_prior": 0.0}, "mean_precision_prior must be a number above 0"),
        ({"regularization": -1.0}, "regularization must be a number of at least 0"),
        ({"regularization": "a"}, "regularization must be a number of at least 0"),
        ({"mean_prior": [0.0, np.nan]}, "mean_prior must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            BayesianGaussianMixture(2, **options)
    with pytest.raises(ValueError, match=r"mean_prior has shape \(3,\): expected \(2,\)"):
        _fit(BayesianGaussianMixture(2, mean_prior=np.zeros(3)), X)
    with pytest.raises(ValueError, match="degrees_of_freedom_prior must be above num_features - 1 = 1"):
        _fit(BayesianGaussianMixture(2, degrees_of_freedom_prior=1.0), X)
    with pytest.raises(DataError, match="9 components need at least as many rows, got 5"):
        _fit(BayesianGaussianMixture(9), X)
    with pytest.raises(ValueError, match="3 weights came for 5 rows"):
        _fit(_small("full", 2), X, weights=np.ones(3))
    with pytest.raises(ValueError, match="which is no part of q: expected among"):
        _fit(_small("full", 2), X, init={"mean": 0.0})


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_data_have_a_finite_answer(kind):
    """A constant column, and one point over and over."""
    model = BayesianGaussianMixture(2, kind)
    for x in (np.column_stack([IRIS[:50, 0], np.full(50, 3.0)]), np.tile([[1.0, 2.0]], (50, 1))):
        q, bounds = _climb(model, x, num_steps=20)
        draws = model.vb_draws(q, 100, np.random.default_rng(0))
        assert all(np.isfinite(v).all() for v in (*q.values(), *draws.values(), bounds))
